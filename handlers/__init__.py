"""The routes, one module per domain; none imports another."""

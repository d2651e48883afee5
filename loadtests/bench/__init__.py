"""How fast the server is, measured side by side with others on one core; `bin/bench --help`."""

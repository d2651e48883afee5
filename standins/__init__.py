"""Servers that speak the protocols of outside services, for development and tests."""

"""A mail server that delivers to a page instead of to people, for development and tests."""

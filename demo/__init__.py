"""The demo school: lectures about this server, and the people in it."""

"""Load: simulated players over the wire. Nothing here imports the server."""

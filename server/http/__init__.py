"""All that knows aiohttp: routing, problems, authentication, sockets."""

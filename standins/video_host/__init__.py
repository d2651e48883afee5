"""A stand-in for Cloudflare Stream: its API, its webhooks, its signed playback, and a real encoder behind them."""

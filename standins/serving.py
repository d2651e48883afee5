"""A stand-in as a program."""

from __future__ import annotations

import sys
from typing import Any

from aiohttp import web


def serve(app: web.Application, host: str, port: int, *, shutdown_s: float, **more: Any) -> None:
    """Serve until SIGINT or SIGTERM. Ends the program with a line where the port cannot be had."""
    try:
        web.run_app(app, host=host, port=port, shutdown_timeout=shutdown_s, access_log=None, print=None, **more)
    except OSError as error:
        sys.exit(str(error))

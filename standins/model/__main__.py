"""`python -m standins.model`: run the stand-in model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is there: the other cores are for who serves

from standins.model.app import create_app
from standins.model.meaning import find_weights
from standins.serving import serve

SHUTDOWN_S = 0.5


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m standins.model", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key", default="", help="what callers must send as a bearer token; empty: anything")
    parser.add_argument("--token-ms", type=int, default=15, help="how long a word of an answer takes")
    return parser.parse_args(arguments)


def main() -> None:
    """Run until SIGINT or SIGTERM."""
    options = read_arguments()
    app = create_app(options.api_key, options.token_ms, find_weights())
    # Whoever hangs up is not written to any more.
    serve(app, options.host, options.port, shutdown_s=SHUTDOWN_S, handler_cancellation=True)


if __name__ == "__main__":
    main()

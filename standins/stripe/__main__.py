"""`python -m standins.stripe`: run the stand-in payment service."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from standins.serving import serve
from standins.stripe.app import create_app
from standins.stripe.store import Settings

SHUTDOWN_S = 2.0


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m standins.stripe", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--public-url", help="origin that browsers reach it by; default http://HOST:PORT")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="all that it remembers")
    parser.add_argument("--secret-key", required=True, help="of the API and of /_control, as sk_test_...")
    parser.add_argument("--publishable-key", default="pk_test_lectern", help="of browsers")
    parser.add_argument("--webhook-url", help="told what happens; none = nobody is told")
    parser.add_argument("--webhook-secret", default="")
    parser.add_argument("--webhook-backoff", type=float, default=1.0, metavar="SECONDS", help="before the second try")
    return parser.parse_args(arguments)


def settings_from(options: argparse.Namespace) -> Settings:
    """Settings as the command line has them."""
    return Settings(
        data_dir=options.data,
        secret_key=options.secret_key,
        public_url=(options.public_url or f"http://{options.host}:{options.port}").rstrip("/"),
        publishable_key=options.publishable_key,
        webhook_url=options.webhook_url,
        webhook_secret=options.webhook_secret,
        webhook_backoff_s=options.webhook_backoff,
    )


def main() -> None:
    """Run until SIGINT or SIGTERM."""
    options = read_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s stripe %(levelname)s %(message)s")
    serve(create_app(settings_from(options)), options.host, options.port, shutdown_s=SHUTDOWN_S)


if __name__ == "__main__":
    main()

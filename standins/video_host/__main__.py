"""`python -m standins.video_host`: run the stand-in video host."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from standins.serving import serve
from standins.video_host.app import create_app
from standins.video_host.store import Settings

SHUTDOWN_S = 2.0


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m standins.video_host", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--public-url", help="origin that browsers reach it by; default http://HOST:PORT")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="videos and their state")
    parser.add_argument("--account-id", required=True)
    parser.add_argument("--api-token", required=True)
    parser.add_argument("--webhook-url", help="told when a video is ready or failed; none = nobody is told")
    parser.add_argument("--webhook-secret", default="")
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--public-key-file", type=Path, dest="key_file", metavar="PEM", help="checks playback tokens")
    key.add_argument(
        "--signing-key-file", type=Path, dest="key_file", metavar="PEM", help="the same from its private half"
    )
    parser.add_argument("--key-id", required=True)
    parser.add_argument("--allow-origin", action="append", metavar="ORIGIN", help="may be repeated; default any")
    return parser.parse_args(arguments)


def settings_from(options: argparse.Namespace) -> Settings:
    """Settings as the command line has them; the key is read here."""
    return Settings(
        data_dir=options.data,
        account_id=options.account_id,
        api_token=options.api_token,
        public_url=(options.public_url or f"http://{options.host}:{options.port}").rstrip("/"),
        playback_key_pem=options.key_file.read_text(),
        key_id=options.key_id,
        webhook_url=options.webhook_url,
        webhook_secret=options.webhook_secret,
        allow_origins=tuple(options.allow_origin or ["*"]),
    )


def main() -> None:
    """Run until SIGINT or SIGTERM."""
    options = read_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s video_host %(levelname)s %(message)s")
    serve(create_app(settings_from(options)), options.host, options.port, shutdown_s=SHUTDOWN_S)


if __name__ == "__main__":
    main()

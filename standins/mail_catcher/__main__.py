"""`python -m standins.mail_catcher`: run the mail catcher."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from standins.mail_catcher.app import create_app
from standins.serving import serve

SHUTDOWN_S = 1.0


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m standins.mail_catcher", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="of the page")
    parser.add_argument("--smtp-port", type=int, required=True)
    return parser.parse_args(arguments)


def main() -> None:
    """Run until SIGINT or SIGTERM."""
    options = read_arguments()
    app = create_app(options.host, options.smtp_port)
    serve(app, options.host, options.port, shutdown_s=SHUTDOWN_S)


if __name__ == "__main__":
    main()

"""One server process: `python -m server`.

Exit codes: 0 after SIGTERM or SIGINT, 1 when a part is missing, 2 for a bad setting.
"""

import asyncio
import gc
import signal
import socket
import sys
from contextlib import suppress

import uvloop
from aiohttp import web

from server.config import Config, ConfigError, check_startable, load_config
from server.logs import configure_logs, get_logger

log = get_logger()


def main() -> int:
    """Load the settings and serve until told to stop."""
    try:
        config = load_config()
        check_startable(config)
    except ConfigError as error:
        print(f"lectern: {error}", file=sys.stderr)
        return 2
    configure_logs(config.log)
    # Thousands of live sessions are long-lived objects: full collections over them are long pauses.
    gc.set_threshold(50_000, 50, 1000)
    return uvloop.run(serve(config))


async def serve(config: Config) -> int:
    """Run one process to its end."""
    from server.app import StartError, create_app  # noqa: PLC0415 - a bad setting is told before the slow imports
    from server.data.migrate import MigrationError  # noqa: PLC0415
    from server.http.protocol import Runner  # noqa: PLC0415

    stopped = _stop_on_signals()
    app = create_app(config)
    runner = Runner(app, access_log=None, handle_signals=False, shutdown_timeout=config.sessions.drain_s / 2)
    try:
        listener = _bind(config.server.host, config.server.port)
        await runner.setup()
    except (StartError, MigrationError, OSError) as error:
        print(f"lectern: {error}", file=sys.stderr)
        with suppress(Exception):
            await runner.cleanup()
        return 1
    site = web.SockSite(runner, listener, backlog=config.server.backlog)
    await site.start()
    host, port = listener.getsockname()[:2]
    log.info("listening", host=host, port=port)
    gc.freeze()
    await stopped.wait()
    await drain(runner, site, config)
    return 0


async def drain(runner: web.AppRunner, site: web.BaseSite, config: Config) -> None:
    """Not ready, no new connections, let what runs finish, close everything: within `sessions.drain_s` seconds."""
    from server.http.keys import DRAINING  # noqa: PLC0415

    app = runner.app
    app[DRAINING].set()
    log.info("draining")
    try:
        async with asyncio.timeout(config.sessions.drain_s):
            await site.stop()
            await runner.cleanup()
    except TimeoutError:
        log.warning("drain_timed_out", after_s=config.sessions.drain_s)
    log.info("stopped")


def _stop_on_signals() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: nobody is let in before everything is ready. Raises OSError."""
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = infos[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


if __name__ == "__main__":
    sys.exit(main())

"""One server process: `python -m server`.

Exit codes: 0 after SIGTERM or SIGINT, 1 when a part is missing, 2 for a bad setting.
"""

import argparse
import asyncio
import gc
import resource
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

import uvloop
from aiohttp import web

from server.config import Config, ConfigError, check_startable, load_config
from server.listener import bind, inherit
from server.logs import configure_logs, get_logger
from server.loop import Loop

log = get_logger()

ABOUT = "One server process. It takes no arguments: config.toml and the environment (LECTERN_...) have its settings."
LINGER_LOOK_S = 0.02
# Open files beside players' sockets: Postgres, Redis, plain requests.
FILES = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the settings and serve until told to stop."""
    argparse.ArgumentParser(prog="python -m server", description=ABOUT).parse_args(arguments)
    try:
        config = load_config()
        check_startable(config)
    except ConfigError as error:
        print(f"lectern: {error}", file=sys.stderr)
        return 2
    configure_logs(config.log)
    # Thousands of live sessions are long-lived objects: full collections over them are long pauses. Collections of what
    # is young are pauses too where much of it is garbage: 40 ms for 50,000 objects, of connections that were refused.
    gc.set_threshold(10_000, 250, 1000)
    return uvloop.run(serve(config), loop_factory=Loop)


async def serve(config: Config) -> int:
    """Run one process to its end."""
    stopped = _stop_on_signals()  # before the slow imports: who is told to stop meanwhile does so, too
    from server.app import StartError, create_app  # noqa: PLC0415 - a bad setting is told before the slow imports
    from server.data.migrate import MigrationError  # noqa: PLC0415
    from server.http.protocol import Runner  # noqa: PLC0415

    _allow_files(config.server.max_sockets + FILES)
    app = create_app(config)
    runner = Runner(
        app,
        access_log=None,
        handle_signals=False,
        # aiohttp waits so long for what runs, then as long again for its connection; then the parts are closed.
        shutdown_timeout=config.sessions.drain_s / 5,
        keepalive_timeout=config.server.keepalive_s,
    )
    settings = config.server
    site = None
    try:
        listener = inherit(settings.listen_fd) if settings.listen_fd else bind(settings.host, settings.port)
        direct = bind(settings.host, settings.direct_port) if settings.direct_port else None
        await _unless(stopped, runner.setup())
        if not stopped.is_set():
            site = await _listen(runner, listener, settings.backlog)
            if direct is not None:
                await _listen(runner, direct, settings.backlog)
                log.info("listening_alone", port=settings.direct_port)
    except (StartError, MigrationError, OSError) as error:
        print(f"lectern: {error}", file=sys.stderr)
        await _give_up(runner, config)
        return 1
    except BaseException:  # a bug of ours; what is at work by now would keep the process from ending
        await _give_up(runner, config)
        raise
    if site is None:
        await _give_up(runner, config)
        log.info("stopped")
        return 0
    host, port = listener.getsockname()[:2]
    log.info("listening", host=host, port=port)
    gc.freeze()
    await stopped.wait()
    await drain(runner, site, config)
    return 0


async def _unless(stopped: asyncio.Event, start: Coroutine[Any, Any, None]) -> None:
    """Until it is done, or left off because we are told to stop: a database may be waited for, or who migrates it."""
    starting, waiting = asyncio.ensure_future(start), asyncio.ensure_future(stopped.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    starting.cancel()
    with suppress(asyncio.CancelledError):
        await starting


async def _listen(runner: web.AppRunner, listener: socket.socket, backlog: int) -> web.BaseSite:
    """Let clients in. Raises OSError: several can bind a port at which nobody listens; the first to has it."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(backlog)  # uvloop, which does so too, would not tell
    except OSError as error:
        raise OSError(error.errno, f"{host}:{port}: {error.strerror or error}") from error
    site = web.SockSite(runner, listener, backlog=backlog)
    await site.start()
    return site


async def _give_up(runner: web.AppRunner, config: Config) -> None:
    """Close what has been opened of a start that leads nowhere."""
    with suppress(Exception):
        async with asyncio.timeout(config.sessions.drain_s):
            await runner.cleanup()


async def drain(runner: web.AppRunner, site: web.BaseSite, config: Config) -> None:
    """Not ready, no new connections, let what runs finish, close everything: within `sessions.drain_s` seconds.

    What has been let in is answered: the connections that are open are kept for `server.linger_s`, and each is closed
    with its next answer. The listening socket stays with the processes that share it.
    """
    from server.app import drain_core  # noqa: PLC0415
    from server.http.keys import DRAINING  # noqa: PLC0415

    app = runner.app
    app[DRAINING].set()
    log.info("draining")
    try:
        async with asyncio.timeout(config.sessions.drain_s):
            await site.stop()
            await asyncio.gather(drain_core(app), _until_unused(runner, config.server.linger_s))
            await runner.cleanup()
    except TimeoutError:
        log.warning("drain_timed_out", after_s=config.sessions.drain_s)
    log.info("stopped")


async def _until_unused(runner: web.AppRunner, timeout_s: float) -> None:
    """Wait until no connection is open, for so long at the most."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while runner.server is not None and runner.server.connections and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(LINGER_LOOK_S)  # aiohttp does not tell when a connection ends


def _allow_files(wanted: int) -> None:
    """A shell's usual 1024 open files would be the end of the 1025th socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _stop_on_signals() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped


if __name__ == "__main__":
    sys.exit(main())

"""`python -m server` as a process of its own, to be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import aiohttp

from embedded.processes import free_port, spawn, tail

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a secret for tests that is long enough"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0
LOOK_EVERY_S = 0.02
# Tests register people by the dozen and speak faster than a person would.
DEFAULTS = {
    "LECTERN_AUTH__SECRET": SECRET,
    "LECTERN_AUTH__BCRYPT_COST": "4",
    "LECTERN_LOG__LEVEL": "warning",
    # Whoever runs many tests has no core for each server.
    "LECTERN_SERVER__FULL_SHARE": "1",
    "LECTERN_SERVER__FULL_LAG_S": "60",
    **{f"LECTERN_LIMITS__{name}__RATE": "0" for name in ("AUTH", "READ", "WRITE", "TELEMETRY", "LOGIN_ADDRESS")},
}
# How fast an answer is promised to be is tested where it is the matter.
PATIENCE = {
    "LECTERN_SERVER__HANDLER_TIMEOUT_S": "30",
    "LECTERN_SERVER__READY_TIMEOUT_S": "10",
    "LECTERN_POSTGRES__TIMEOUT_S": "20",
    "LECTERN_REDIS__TIMEOUT_S": "20",
    "LECTERN_REDIS__COUNT_TIMEOUT_S": "20",
}


class ServerProcess:
    """One server on given parts and a port of its own, which it keeps over restarts.

    `settings` are environment variables (`{"LECTERN_SESSIONS__CHECKPOINT_S": "0.2"}`) over DEFAULTS and, if it is
    `patient`, PATIENCE. `root` is the tree whose code it runs, `program` what Python is told to run there. Use it with
    `async with`: it is ready inside (`/readyz` answers 200) and gone afterwards.
    """

    def __init__(
        self,
        postgres_dsn: str,
        redis_url: str,
        settings: Mapping[str, str] | None = None,
        *,
        listener: socket.socket | None = None,
        patient: bool = True,
        root: Path = ROOT,
        program: Sequence[str] = ("-m", "server"),
    ) -> None:
        """With a `listener`, which others may share, the port is the listener's, and `direct_url` is this process's."""
        self.port = free_port() if listener is None else listener.getsockname()[1]
        self._listener = listener
        self.direct_port = self.port if listener is None else free_port()
        self.direct_url = f"http://127.0.0.1:{self.direct_port}"
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._settings = {
            **DEFAULTS,
            **(PATIENCE if patient else {}),
            "LECTERN_POSTGRES__DSN": postgres_dsn,
            "LECTERN_REDIS__URL": redis_url,
            "LECTERN_SERVER__HOST": "127.0.0.1",
            "LECTERN_SERVER__PORT": str(self.port),
            "LECTERN_SERVER__LISTEN_FD": str(listener.fileno() if listener else 0),
            "LECTERN_SERVER__DIRECT_PORT": str(self.direct_port if listener else 0),
            **(settings or {}),
        }
        self._command = [sys.executable, *program]
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="lectern-server-")
        self._log = Path(self._directory.name) / "log"

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill9()
        self._directory.cleanup()

    @property
    def pid(self) -> int | None:
        """The living process, if any."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @property
    def log(self) -> str:
        """Everything it has written so far, over all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start it and wait until it is ready. Raises RuntimeError with the end of its log."""
        self.launch()
        await self.until_ready(timeout_s)

    def launch(self) -> None:
        """Start it without waiting."""
        assert self.pid is None, "it is running"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LECTERN_")}
        self._process = spawn(
            self._command,
            log=self._log,
            env={**environ, **self._settings},
            cwd=self._root,
            on_parent_death=signal.SIGKILL,
            pass_fds=(self._listener.fileno(),) if self._listener else (),
        )

    async def until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait for 200 from `/readyz`. Raises RuntimeError with the end of its log."""
        deadline = time.monotonic() + timeout_s
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
            while not await self._is_ready(http):
                if self.pid is None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server is not ready; the end of its log:\n{tail(self._log, 40)}")
                await asyncio.sleep(LOOK_EVERY_S)

    async def kill9(self) -> None:
        """SIGKILL: no warning, nothing is saved."""
        if self._process is not None:
            self._process.kill()
            await self._gone(STOP_TIMEOUT_S)

    async def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM; answers the exit status. Raises subprocess.TimeoutExpired when it takes longer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return await self._gone(timeout_s)

    async def restart(self) -> None:
        """Kill it and start it again."""
        await self.kill9()
        await self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP: alive, but deaf and dumb."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    async def _gone(self, timeout_s: float) -> int:
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, timeout_s)

    async def _is_ready(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"{self.direct_url}/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

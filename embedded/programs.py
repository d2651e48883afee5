"""Programs of our own that run beside the embedded parts, and what keeps all of them running."""

import contextlib
import http
import http.client
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from embedded import processes

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
STEADY_S = 30.0  # one that ran this long starts over with the shortest pause
LOG_KEPT_BYTES = 16 << 20


class Part(Protocol):
    """What `Postgres`, `Valkey`, `ObjectStore` and `Program` have in common."""

    def start(self) -> None:
        """Start it unless it runs."""

    def stop(self) -> None:
        """End it in good order."""

    def kill(self) -> None:
        """End it at once."""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""


class Program:
    """A program that answers on a port. `start` does not wait for that; `is_ready` and `await_ready` tell."""

    def __init__(
        self,
        name: str,
        argv: list[str],
        *,
        env: Mapping[str, str],
        log: Path,
        ready: Callable[[], bool],
        on_parent_death: signal.Signals,
        stop_timeout_s: float,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self.argv = argv
        self.env = env
        self.log = log
        self.is_ready = ready
        self.on_parent_death = on_parent_death
        self.stop_timeout_s = stop_timeout_s
        self.pass_fds = pass_fds
        self._asked = False
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def start(self) -> None:
        """Start it unless it runs; returns at once."""
        if self.pid is None:
            shorten_log(self.log)
            self._asked = False
            self.process = processes.spawn(
                self.argv,
                env=self.env,
                log=self.log,
                on_parent_death=self.on_parent_death,
                cwd=processes.ROOT,
                pass_fds=self.pass_fds,
            )

    def await_ready(self, timeout_s: float) -> None:
        """Return when it answers; raises `PartFailedError` with the end of its log when it does not come to that."""
        if self.process is not None:
            processes.wait_until(self.is_ready, self.process, f"The {self.name}", self.log, timeout_s)

    def ask_to_stop(self) -> None:
        """Ask it to end, without waiting; once, for a second signal could meet it when it no longer listens to any."""
        if self.process is not None and not self._asked and self.process.poll() is None:
            self._asked = True
            self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask it to end, give it `stop_timeout_s`, then end it."""
        if self.process is not None:
            self.ask_to_stop()
            try:
                self.process.wait(self.stop_timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
            self.process.wait()
            self.process = None

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Keeper:
    """Starts a part again after it died, later each time in a row."""

    def __init__(self, name: str, part: Part) -> None:
        self.name = name
        self.part = part
        self._pause_s = FIRST_PAUSE_S
        self._began = time.monotonic()
        self._start_at: float | None = None

    def tend(self) -> str | None:
        """Look after it once; answers what is to be told to the operator, if anything happened."""
        if self.part.pid is not None:
            return None
        now = time.monotonic()
        if self._start_at is None:
            if now - self._began > STEADY_S:
                self._pause_s = FIRST_PAUSE_S
            self._start_at, pause_s = now + self._pause_s, self._pause_s
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            return f"{self.name} ended by itself; it is started again in {pause_s:g} s"
        if now < self._start_at:
            return None
        self._start_at, self._began = None, now
        try:
            self.part.start()
        except (processes.PartFailedError, OSError) as error:  # the latter of a machine without memory or room
            return str(error)
        return f"{self.name} is started again"

    def due_in_s(self) -> float | None:
        """Seconds until `tend` has something to do without being woken; None when it has not."""
        return None if self._start_at is None else max(0.0, self._start_at - time.monotonic())


def answers(host: str, port: int, path: str, within_s: float = 2) -> bool:
    """Whether a GET is answered with 200 in time."""
    connection = http.client.HTTPConnection(host, port, timeout=within_s)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    return False


def shorten_log(log: Path) -> None:
    """Put a log that grew long aside (one older one is kept)."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_KEPT_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))

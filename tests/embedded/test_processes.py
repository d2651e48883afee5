import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from embedded import processes
from embedded.processes import PartFailedError
from tests.support.services import data_directory
from tests.support.waiting import eventually

# Starts the parts, says so, and waits to be killed.
OWNER = """
import sys, time
from pathlib import Path
from embedded.postgres import Postgres
from embedded.s3 import ObjectStore
from embedded.valkey import Valkey

parts = [Postgres(Path(sys.argv[1]), durable=False), Valkey(Path(sys.argv[1])), ObjectStore(Path(sys.argv[1]))]
for part in parts:
    part.start()
print(*(part.pid for part in parts), flush=True)
time.sleep(60)
"""


def test_nothing_outlives_an_owner_that_is_killed() -> None:
    with data_directory() as directory:
        command = [sys.executable, "-c", OWNER, str(directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=processes.ROOT) as owner:
            assert owner.stdout is not None
            pids = [int(word) for word in owner.stdout.readline().split()]
            owner.kill()
        assert len(pids) == 3
        assert eventually(lambda: not any(processes.is_alive(pid) for pid in pids))


def test_a_child_is_sent_the_signal_that_was_asked_for_when_we_are_asked_to_stop(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    child = processes.spawn([sys.executable, "-c", program], log=log)
    assert eventually(lambda: log.read_bytes() == b"up\n")
    assert processes.stop(child, timeout_s=60) == 7


def test_a_child_that_does_not_listen_is_ended_after_its_time(tmp_path: Path) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    log = tmp_path / "log"
    child = processes.spawn([sys.executable, "-c", program], log=log)
    assert eventually(lambda: log.read_bytes() == b"up\n")
    assert processes.stop(child, timeout_s=0.05) == -signal.SIGKILL


def test_a_child_does_not_get_the_terminals_interrupt() -> None:
    child = processes.spawn([sys.executable, "-c", "import time; time.sleep(60)"])
    status = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(status[3]) == child.pid  # a session of its own
    processes.stop(child, signal.SIGKILL)


def test_waiting_for_a_child_that_ends_shows_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = processes.spawn([sys.executable, "-c", "print('no such luck'); raise SystemExit(3)"], log=log)
    with pytest.raises(PartFailedError, match=r"(?s)Part ended at its start \(status 3\).*no such luck"):
        processes.wait_until(lambda: False, child, "Part", log)


def test_waiting_has_an_end(tmp_path: Path) -> None:
    child = processes.spawn([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(PartFailedError, match="did not answer"):
        processes.wait_until(lambda: False, child, "Part", None, timeout_s=0.05)
    assert child.poll() is not None


def test_sockets_lie_in_a_short_place_however_long_the_temporary_directory_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    directory = processes.socket_directory(tmp_path / "data", tmp_path.stat().st_uid)
    assert len(str(directory / ".s.PGSQL.5432")) <= processes.SOCKET_PATH_MAX_BYTES
    directory.rmdir()


def test_a_socket_directory_that_is_open_to_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    owner = tmp_path.stat().st_uid
    processes.socket_directory(tmp_path, owner).chmod(0o777)
    with pytest.raises(PartFailedError, match="open to others"):
        processes.socket_directory(tmp_path, owner)


def test_one_closed_directory_makes_what_lies_below_unreachable() -> None:
    with data_directory() as directory:
        inner = directory / "closed" / "inner"
        inner.mkdir(parents=True)
        assert processes.reachable_by_others(inner)
        inner.parent.chmod(0o700)
        assert not processes.reachable_by_others(inner)

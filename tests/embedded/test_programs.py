import signal
import sys
from pathlib import Path

import pytest

from embedded import processes, programs
from embedded.processes import PartFailedError
from embedded.programs import Keeper, Program

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Mortal:
    """A part that is alive when the test says so."""

    def __init__(self) -> None:
        self.pid: int | None = 1
        self.starts = 0
        self.fails: Exception | None = None

    def start(self) -> None:
        self.starts += 1
        if self.fails is not None:
            raise self.fails
        self.pid = 1

    def stop(self) -> None:
        self.pid = None

    def kill(self) -> None:
        self.pid = None


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("embedded.programs.time.monotonic", clock.monotonic)
    return clock


@pytest.mark.usefixtures("clock")
def test_a_part_that_lives_is_left_alone() -> None:
    part = Mortal()
    keeper = Keeper("part", part)
    assert keeper.tend() is None
    assert keeper.due_in_s() is None
    assert part.starts == 0


def test_a_part_that_died_is_started_after_a_pause(clock: Clock) -> None:
    part = Mortal()
    keeper = Keeper("part", part)
    part.pid = None
    assert "ended by itself" in (keeper.tend() or "")
    assert keeper.tend() is None
    assert keeper.due_in_s() == pytest.approx(0.2)
    clock.now += 0.2
    assert keeper.tend() == "part is started again"
    assert part.starts == 1
    assert keeper.due_in_s() is None


def test_pauses_grow_while_it_keeps_dying_and_are_short_again_after_a_while(clock: Clock) -> None:
    part = Mortal()
    keeper = Keeper("part", part)
    pauses = []
    for _ in range(9):
        part.pid = None
        keeper.tend()
        pauses.append(keeper.due_in_s())
        clock.now += pauses[-1] or 0
        keeper.tend()
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10])

    clock.now += 31
    part.pid = None
    keeper.tend()
    assert keeper.due_in_s() == pytest.approx(0.2)


@pytest.mark.parametrize("fault", [PartFailedError("it cannot"), OSError("it cannot")])
def test_a_start_that_fails_is_told_and_tried_again(clock: Clock, fault: Exception) -> None:
    part = Mortal()
    keeper = Keeper("part", part)
    part.pid, part.fails = None, fault
    keeper.tend()
    clock.now += 1
    assert keeper.tend() == "it cannot"
    assert "ended by itself" in (keeper.tend() or "")


def program(tmp_path: Path, *argv: str, port: int = 0) -> Program:
    return Program(
        "program",
        [sys.executable, *argv],
        env={},
        log=tmp_path / "log",
        ready=lambda: programs.answers("127.0.0.1", port, "/readyz"),
        on_parent_death=signal.SIGKILL,
        stop_timeout_s=30,
    )


def test_a_program_is_ready_when_it_answers(tmp_path: Path) -> None:
    port = processes.free_port()
    server = program(tmp_path, "-c", SERVER, str(port), port=port)
    server.start()
    server.await_ready(60)
    assert programs.answers("127.0.0.1", port, "/readyz", 20)
    assert not programs.answers("127.0.0.1", port, "/other")
    server.stop()
    assert server.pid is None
    assert not programs.answers("127.0.0.1", port, "/readyz")


def test_a_program_that_refuses_to_start_is_quoted(tmp_path: Path) -> None:
    server = program(tmp_path, "-c", "raise SystemExit('auth.secret is not set')")
    server.start()
    with pytest.raises(PartFailedError, match=r"auth\.secret is not set"):
        server.await_ready(60)


def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LOG_KEPT_BYTES", 3)
    log = tmp_path / "logs" / "server.log"
    programs.shorten_log(log)
    log.write_text("long")
    programs.shorten_log(log)
    assert not log.exists()
    assert log.with_name("server.log.1").read_text() == "long"

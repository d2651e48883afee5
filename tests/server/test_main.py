"""`python -m server`, as an operator sees it."""

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import asyncpg
import pytest

from server.__main__ import main
from server.data import migrate
from server.listener import bind

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s" * 32
MIGRATION_WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"


def start(**settings: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LECTERN_")}
    environ |= {f"LECTERN_{name}": value for name, value in settings.items()}
    return subprocess.Popen(
        ["sh", "-c", 'ulimit -S -n 256; exec "$0" -m server', sys.executable],
        cwd=ROOT,
        env=environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(address: str, path: str) -> int:
    connection = HTTPConnection(address.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@contextmanager
def listening(settings: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running process and its address."""
    process = start(**settings)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r'"port":(\d+),"event":"listening"', line):
            yield process, f"http://127.0.0.1:{found[1]}"
            break
    process.kill()
    process.communicate()


@pytest.fixture
def parts(postgres_dsn: str, redis_url: str) -> dict[str, str]:
    return {
        "AUTH__SECRET": SECRET,
        "POSTGRES__DSN": postgres_dsn,
        "REDIS__URL": redis_url,
        "SERVER__PORT": "0",
        "SERVER__HANDLER_TIMEOUT_S": "20",
        "SERVER__READY_TIMEOUT_S": "10",
        "POSTGRES__TIMEOUT_S": "20",
        "REDIS__TIMEOUT_S": "20",
    }


@pytest.fixture
def server(parts: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running process and its address."""
    with listening(parts) as started:
        yield started


def test_without_a_secret_it_refuses_with_exit_code_2(parts: dict[str, str]) -> None:
    code, errors = finish(start(**{name: value for name, value in parts.items() if name != "AUTH__SECRET"}))
    assert code == 2
    assert errors.strip() == "lectern: auth.secret is not set (LECTERN_AUTH__SECRET, at least 32 bytes)"


@pytest.mark.parametrize(("name", "value"), [("AUTH__SECRET", "short"), ("SERVER__PROT", "1"), ("SERVER__PORT", "x")])
def test_a_bad_setting_is_named_with_exit_code_2(parts: dict[str, str], name: str, value: str) -> None:
    code, errors = finish(start(**(parts | {name: value})))
    assert code == 2
    assert name.lower().replace("__", ".") in errors.lower().replace("__", ".")
    assert "Traceback" not in errors


def test_arguments_which_it_does_not_take_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--port", "9000"])
    assert "--port 9000" in capsys.readouterr().err


def test_without_postgres_it_gives_up_with_one_clear_line(parts: dict[str, str]) -> None:
    away = {"POSTGRES__DSN": "postgresql:///x?host=/nowhere", "SERVER__START_TIMEOUT_S": "0.3"}
    code, errors = finish(start(**(parts | away)))
    assert code == 1
    assert errors.strip().splitlines()[-1].startswith("lectern: Postgres did not answer within 0.3 s")
    assert "Traceback" not in errors


def test_a_port_in_use_is_told_before_anything_else(parts: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, errors = finish(start(**(parts | {"SERVER__PORT": str(other.getsockname()[1])})))
    assert code == 1
    assert "Address already in use" in errors
    assert "Traceback" not in errors


async def test_a_port_that_another_program_takes_while_the_server_starts_is_told(
    parts: dict[str, str], postgres_dsn: str
) -> None:
    migrating = await asyncpg.connect(postgres_dsn)
    await migrating.execute("SELECT pg_advisory_lock($1)", migrate._LOCK)
    with bind("127.0.0.1", 0) as other:
        port = str(other.getsockname()[1])
        process = start(**(parts | {"SERVER__PORT": port}))
        while not await migrating.fetchval(MIGRATION_WAITS):
            assert process.poll() is None
        other.listen()
        await migrating.close()
        code, errors = await asyncio.to_thread(finish, process)
    assert code == 1
    assert errors.strip().endswith(f"127.0.0.1:{port}: Address already in use")
    assert "Traceback" not in errors


def test_a_shell_s_limit_of_open_files_is_raised_for_the_sockets(server: tuple[subprocess.Popen[str], str]) -> None:
    soft, hard = resource.prlimit(server[0].pid, resource.RLIMIT_NOFILE)
    assert soft == hard or soft >= 20_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(server: tuple[subprocess.Popen[str], str], number: signal.Signals) -> None:
    process, address = server
    assert ask(address, "/readyz") == 200
    began = time.monotonic()
    process.send_signal(number)
    code, errors = finish(process)
    assert code == 0
    assert time.monotonic() - began < 20
    assert "Traceback" not in errors
    with pytest.raises(ConnectionRefusedError):
        ask(address, "/livez")


def test_who_is_told_to_stop_while_it_waits_for_postgres_ends_at_once(parts: dict[str, str]) -> None:
    away = {"POSTGRES__DSN": "postgresql:///x?host=/nowhere", "SERVER__START_TIMEOUT_S": "600"}
    process = start(**(parts | away))
    assert process.stderr is not None
    assert any('"waiting"' in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    code, errors = finish(process)
    assert code == 0
    assert "Traceback" not in errors


async def test_who_is_told_to_stop_while_another_process_migrates_ends_at_once(
    parts: dict[str, str], postgres_dsn: str
) -> None:
    other = await asyncpg.connect(postgres_dsn)
    await other.execute("SELECT pg_advisory_lock($1)", migrate._LOCK)
    process = start(**parts)
    while not await other.fetchval(MIGRATION_WAITS):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert await asyncio.to_thread(process.wait, 60) == 0
    assert time.monotonic() - began < 30  # of the ten minutes that it would wait
    process.communicate()
    await other.close()


async def test_what_is_running_when_the_signal_comes_is_finished(server: tuple[subprocess.Popen[str], str]) -> None:
    process, address = server
    reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
    writer.write(
        b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 40\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"  # it is running
    process.send_signal(signal.SIGTERM)
    writer.write(b'{"login":"nobody","password":"12345678"}')
    assert (await reader.read(12)) == b"HTTP/1.1 401"
    writer.close()
    assert await asyncio.to_thread(process.wait, 30) == 0


def test_who_never_reads_an_answer_keeps_no_process_from_saying_that_it_is_gone(
    parts: dict[str, str],
) -> None:
    settings = parts | {"SESSIONS__DRAIN_S": "15", "SERVER__LINGER_S": "0.1"}
    with listening(settings) as (process, address), socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(30)
        slow.connect(("127.0.0.1", int(address.rpartition(":")[2])))
        slow.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert slow.recv(12) == b"HTTP/1.1 200"
        for _ in range(100):
            ask(address, "/livez")  # meanwhile the server has written as much as it can
        process.send_signal(signal.SIGTERM)
        code, errors = finish(process)
    assert code == 0
    assert "drain_timed_out" not in errors
    assert asyncio.run(count_processes(parts["POSTGRES__DSN"])) == 0


async def count_processes(dsn: str) -> int:
    """How many say that they live."""
    connection = await asyncpg.connect(dsn)
    count: int = await connection.fetchval("SELECT count(*) FROM processes")
    await connection.close()
    return count

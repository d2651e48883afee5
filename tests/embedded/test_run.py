import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from demo.accounts import ACCOUNTS, ADMIN
from embedded import processes, programs
from embedded.run import Supervisor, _signals, read_arguments
from embedded.screen import Screen
from embedded.system import System, past_proxies
from server.config import load_config
from server.listener import bind
from tests.support.services import data_directory
from tests.support.waiting import eventually
from tests.support.whole import two_free_ports

# The environment may name parts of the machine that runs the tests; these are about the embedded ones.
BARE = {name: value for name, value in os.environ.items() if not name.startswith("LECTERN_")}

# What each part's command line holds.
PARTS = (
    "/postgres ",
    "/valkey-server ",
    "rclone serve s3",
    "embedded.s3_front",
    "standins.video_host",
    "standins.mail_catcher",
    "standins.stripe",
    "-m server",
)


class Run:
    """A `bin/run` of the test's own."""

    def __init__(self, data: Path, port: int, demo: str = "--no-demo", *options: str) -> None:
        self.data = data
        self.port = port
        self.options = [demo, *options]
        self.output = data / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(self.command(), cwd=processes.ROOT, env=BARE, stdout=output, stderr=output)

    def command(self) -> list[str]:
        options = ["--data", str(self.data), "--port", str(self.port), *self.options]
        return [sys.executable, "-m", "embedded.run", *options]

    def is_ready(self) -> bool:
        return programs.answers("127.0.0.1", self.port, "/readyz", 20)

    def said(self) -> str:
        return self.output.read_text()

    def children(self) -> dict[str, int]:
        """The last word of the command line, and the process id, of each."""
        found = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            found[" ".join(words)] = int(pid)
        return found

    def pids(self) -> list[int]:
        """Everything that it has started and that lives."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def child(self, part: str) -> int:
        return next(pid for command, pid in self.children().items() if part in command)


@contextmanager
def running(directory: Path, demo: str = "--no-demo", *options: str) -> Iterator[Run]:
    run = Run(directory, two_free_ports(), demo, *options)
    try:
        assert eventually(lambda: "Ctrl-C" in run.said() or run.process.poll() is not None, 60)
        assert run.process.poll() is None, run.said()
        yield run
    finally:
        processes.stop(run.process)


@pytest.fixture
def directory() -> Iterator[Path]:
    with data_directory() as path:
        yield path


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """One for all tests that leave it as well as they found it."""
    with data_directory() as path, running(path) as run:
        yield run


def dead(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(processes.is_alive(pid) for pid in pids)


def test_it_runs_everything_says_where_and_stops_all_of_it_also_after_it_was_killed(directory: Path) -> None:
    with running(directory) as killed:
        pids = list(killed.children().values())
        killed.process.kill()
        killed.process.wait()
        assert eventually(dead(pids)), "it leaves nothing"
    with running(directory) as run:
        assert run.is_ready()
        assert f"http://localhost:{run.port}" in run.said()
        assert (
            "Postgres 18, Valkey, S3, stand-in video host, mail catcher, stand-in model, stand-in Stripe\n"
            in run.said()
        )
        mails = re.search(r"Mails +(http://\S+)", run.said())
        assert mails
        assert b"<h1>Mails</h1>" in urllib.request.urlopen(mails[1], timeout=5).read()  # noqa: S310
        payments = re.search(r"Payments +(http://\S+)", run.said())
        assert payments
        assert b"<h1>Ledger</h1>" in urllib.request.urlopen(payments[1], timeout=5).read()  # noqa: S310
        for part in PARTS:
            # The kernel leaves some out of the list while one of them ends.
            assert eventually(lambda part=part: sum(part in command for command in run.children()) == 1), part
        pids = run.pids()

        run.process.send_signal(signal.SIGINT)

        assert run.process.wait(60) == 0
        assert run.said().endswith("Stopped\n")
        assert dead(pids)()


def test_a_second_one_says_where_the_first_one_is(run: Run) -> None:
    second = subprocess.run(run.command(), cwd=processes.ROOT, env=BARE, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"already running at http://localhost:{run.port} (process {run.process.pid}" in second.stderr
    assert run.is_ready()


@pytest.fixture
def given(empty_postgres_dsn: str, redis_url: str) -> Iterator[None]:
    """Postgres and Redis are somebody's, and named in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BARE, "LECTERN_POSTGRES__DSN", empty_postgres_dsn)
        patch.setitem(BARE, "LECTERN_REDIS__URL", redis_url)
        yield


@pytest.mark.usefixtures("given")
def test_several_server_processes_share_the_address_and_the_parts_that_are_given(directory: Path) -> None:
    with running(directory, "--no-demo", "--processes", "3") as run:
        assert not any("postgres" in command or "valkey-server" in command for command in run.children())
        assert "S3, stand-in video host, mail catcher, stand-in model, stand-in Stripe\n" in run.said()
        assert not (directory / "pg18").exists()
        assert "Given     Postgres (" in run.said()

        direct = [int(port) for port in re.findall(r"[123]: http://127\.0\.0\.1:(\d+)", run.said())]
        assert len(set(direct)) == 3
        ids = {process_at(port) for port in direct}
        assert len(ids) == 3
        assert process_at(run.port) in ids

        os.kill(run.child("-m server"), signal.SIGKILL)
        assert eventually(lambda: re.search(r"server \d ended by itself; it is started again in 0.2 s", run.said()))
        assert run.is_ready(), "the others stand in"
        assert eventually(lambda: re.search(r"server \d is started again", run.said()))
        assert eventually(lambda: all(programs.answers("127.0.0.1", port, "/readyz") for port in direct), 60)

        pids = run.pids()
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(60) == 0
        assert run.said().endswith("Stopped\n")
        assert dead(pids)()
        assert "Traceback" not in "".join(log.read_text() for log in (directory / "logs").glob("server-*.log"))


@pytest.mark.parametrize("count", ["0", "65", "many"])
def test_a_number_of_processes_that_makes_no_sense_is_refused(directory: Path, count: str) -> None:
    run = Run(directory, processes.free_port(), "--no-demo", "--processes", count)
    assert run.process.wait(60) == 2
    assert "--processes" in run.said()


@pytest.mark.parametrize("port", ["-1", "65536", "many"])
def test_a_port_that_there_is_not_is_refused(directory: Path, port: str) -> None:
    run = Run(directory, processes.free_port(), "--no-demo", "--port", port)
    assert run.process.wait(60) == 2
    assert "--port" in run.said()


def test_a_place_where_nothing_can_be_kept_is_named(directory: Path) -> None:
    (directory / "file").touch()
    run = Run(directory, processes.free_port(), "--no-demo", "--data", str(directory / "file" / "data"))
    assert run.process.wait(60) == 1
    assert re.fullmatch(r"bin/run: .*file/data'\n", run.said())


def test_who_closed_its_input_and_output_wants_to_hear_nothing() -> None:
    """Else what is opened next, a listening socket for instance, has their numbers."""
    program = (
        "import os; from embedded import run; run._open_closed_streams(); "
        "run.Screen(run.sys.stdout).say('nobody reads this'); os._exit(os.open('/', os.O_RDONLY) <= 2)"
    )
    closed = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(closed, cwd=processes.ROOT, timeout=60, check=False).returncode == 0


def test_under_another_name_all_that_browsers_and_the_server_ask_is_found_there(directory: Path) -> None:
    port, name = two_free_ports(), "127.0.0.2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LECTERN_SERVER__HOST", name)
        patch.setenv("LECTERN_SERVER__PUBLIC_URL", f"http://{name}:{port}")
        system = System(load_config(), directory, bind(name, port))
    try:
        system.start_stores()
        system.start_video_host()
        system.start_payments()
        for part in system.parts.values():
            if isinstance(part, programs.Program):
                part.await_ready(60)
        asked = {setting: urlsplit(value) for setting, value in system.settings.items() if value.startswith("http")}
        for address in asked.values():
            with socket.create_connection((address.hostname, address.port), timeout=10):
                pass
        browsers = ("CLOUDFLARE__CUSTOMER_DOMAIN", "S3__PUBLIC_ENDPOINT_URL", "STRIPE__SCRIPT_URL")
        assert {asked[f"LECTERN_{setting}"].hostname for setting in browsers} == {name}
    finally:
        system.begin_stop()
        for part in reversed(system.parts.values()):
            part.stop()


@pytest.mark.parametrize(("before", "stops"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_the_end_of_its_terminal_stops_it_but_after_nohup(before: signal.Handlers, stops: bool) -> None:
    kept = signal.signal(signal.SIGHUP, before)
    stopped = []
    try:
        with _signals(lambda: stopped.append(True)):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, kept)
    assert bool(stopped) is stops


class Impatience:
    """A part whose end somebody is tired of waiting for."""

    killed = False

    def stop(self) -> None:
        signal.raise_signal(signal.SIGINT)

    def kill(self) -> None:
        signal.raise_signal(signal.SIGINT)
        self.killed = True


def test_however_often_it_is_told_to_stop_every_part_is_ended(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(load_config(environ={}), directory, bind("127.0.0.1", 0))
    parts = {"one": Impatience(), "another": Impatience()}
    monkeypatch.setattr(system, "parts", parts)
    supervisor = Supervisor(system, Screen(io.StringIO()), demo=False, began=0)
    monkeypatch.setattr(supervisor, "_start", lambda: signal.raise_signal(signal.SIGINT))
    assert supervisor.run() == 0
    assert all(part.killed for part in parts.values())


@pytest.mark.parametrize("given", ["", "example.org", "*"])
def test_what_runs_beside_is_not_asked_through_a_proxy(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", given)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name, value in past_proxies("127.0.0.2").items():
        monkeypatch.setenv(name, value)
    asked = ["127.0.0.1:80", "localhost", "127.0.0.2", "example.org", "example.com"]
    past = [host for host in asked if urllib.request.proxy_bypass(host)]
    assert past == asked[: {"": 3, "example.org": 4, "*": 5}[given]]


def test_the_last_port_of_all_is_as_good_as_any(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bind("127.0.0.1", read_arguments(["--port", "65535"]).port) as listener:
        system = System(load_config(environ={}), directory, listener, servers=2)
        monkeypatch.setattr(system, "_start", lambda *_: None)
        system.start_video_host()
        system.start_servers()
    beside = {urlsplit(system.settings["LECTERN_CLOUDFLARE__CUSTOMER_DOMAIN"]).port, *system.direct_ports}
    assert len(beside) == 3
    assert all(0 < (port or 0) < 65535 for port in beside)


def process_at(port: int) -> str:
    """The id of the process that answers there."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        (found,) = re.findall(rb'^lectern_process\{process="(.+)"\} 1.0$', answer.read(), re.MULTILINE)
    return str(found)


def test_a_port_that_is_taken_is_named(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        run = Run(directory, listener.getsockname()[1])
        assert run.process.wait(60) == 1
        assert f"port {run.port} is taken" in run.said()


def test_a_wrong_setting_is_named_and_nothing_is_started(directory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BARE, "LECTERN_SERVER__PROT", "1")
        run = Run(directory, processes.free_port())
        assert run.process.wait(60) == 2
    assert "LECTERN_SERVER__PROT" in run.said()
    assert not (directory / "run.lock").exists()


def test_a_server_that_cannot_start_is_quoted_and_the_rest_is_stopped(directory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BARE, "LECTERN_AUTH__SECRET", "short")
        run = Run(directory, processes.free_port())
        assert run.process.wait(60) == 1
    assert "at least 32 bytes" in run.said()
    assert run.said().endswith("Stopped\n")


def test_the_lock_names_the_running_one(run: Run) -> None:
    who = json.loads((run.data / "run.lock").read_text())
    assert who == {"pid": run.process.pid, "address": f"http://localhost:{run.port}", "data": str(run.data)}


def signs_in(run: Run, login: str, password: str) -> bool:
    body = json.dumps({"login": login, "password": password}).encode()
    address = f"http://127.0.0.1:{run.port}/api/auth/login"
    asked = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
        return answer.status == 200


def test_without_the_demo_the_screen_shows_an_administrator_of_this_installation_s_own(run: Run) -> None:
    (shown,) = re.findall(r"(\S+@\S+) +(\S+) +admin\n", run.said())
    assert shown[0] != ADMIN.email
    assert signs_in(run, *shown)
    assert "learner" not in run.said()


def test_a_server_that_is_killed_comes_back_and_the_screen_says_so(run: Run) -> None:
    os.kill(run.child("-m server"), signal.SIGKILL)
    assert eventually(lambda: "server is started again" in run.said())
    assert eventually(run.is_ready, 60)


def test_a_database_that_is_killed_comes_back(run: Run) -> None:
    os.kill(run.child("/postgres"), signal.SIGKILL)
    assert eventually(lambda: "Postgres 18 is started again" in run.said())
    assert eventually(run.is_ready, 60)


def test_with_the_demo_the_screen_shows_its_people_and_goes_on_with_its_lectures(directory: Path) -> None:
    with running(directory, "--demo") as run:
        for account in ACCOUNTS:
            assert re.search(rf"{account.email} +{account.password} +{account.role}\n", run.said())
        assert eventually(lambda: "lecture 1/7: drawing" in run.said(), 60)
        assert signs_in(run, ADMIN.email, ADMIN.password)
        pids = list(run.children().values())
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(60) == 0
        assert dead(pids)()
        assert "not complete" not in run.said()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_first_demo_lecture_is_drawn_and_encoded_and_can_be_watched(
    directory: Path, record_property: Callable[[str, object], None]
) -> None:
    """About a minute on two cores of one's own; how busy they are decides nothing here."""
    began = time.monotonic()
    with running(directory, "--demo") as run:
        assert eventually(lambda: "Lecture 1/7 is ready" in run.said(), 150)
        record_property("first_lecture_s", round(time.monotonic() - began, 1))


@pytest.mark.slow
def test_a_seed_that_fails_is_told_and_nothing_stops_for_it(directory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BARE, "LECTERN_AUTH__FIRST_ADMIN_EMAIL", ADMIN.email)
        patch.setitem(BARE, "LECTERN_AUTH__FIRST_ADMIN_PASSWORD", "not the demo's one")
        with running(directory, "--demo") as run:
            assert eventually(lambda: "demo lectures are not complete" in run.said(), 60)
            assert "admin@demo.lectern is there already, with another password" in run.said()
            assert run.is_ready()

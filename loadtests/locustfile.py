"""A locust scenario of learners who watch a lecture: each user is one session with its socket.

`bin/loadtest` runs it with defaults; `locust -f loadtests/locustfile.py --host URL` gives locust's own page.
Beside locust's own table it measures, per process and merged: open to hello, frame to ack, frame to saved, and the
frame that caused a decision to that decision.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
from locust import User, between, events, task
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

# Locust knows the folder in which it is run, and this file's own, of which ours is neither.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtests.accounts import Account, Accounts
from loadtests.api import DEFAULT_HOST, Api, ApiError, find_ready_video
from loadtests.figures import Figures
from loadtests.player import WirePlayer
from loadtests.viewing import LINKS, Viewing

MOST_ACCOUNTS_TRIED = 5
UNKNOWN_DURATION_S = 600.0


class LocustFigures(Figures):
    """Figures that show in locust's own statistics too."""

    def timed(self, name: str, ms: float) -> None:
        """Count here and tell locust."""
        super().timed(name, ms)
        events.request.fire(request_type="WS", name=name, response_time=ms, response_length=0, exception=None)

    def went_wrong(self, what: str) -> None:
        """Count here and tell locust."""
        super().went_wrong(what)
        failure = RuntimeError(what)
        events.request.fire(request_type="WS", name="error", response_time=0, response_length=0, exception=failure)


class Run:
    """What the users of one process share."""

    def __init__(self, environment: Environment) -> None:
        options = environment.parsed_options
        assert options is not None
        self.options = options
        self.api = Api(environment.host or DEFAULT_HOST, gevent.sleep)
        index = environment.runner.worker_index if isinstance(environment.runner, WorkerRunner) else 0
        place = urlsplit(self.api.host).netloc.replace(":", "-")
        directory = Path(options.accounts).expanduser() if options.accounts else None
        file = directory / f"{place}-{index}.json" if directory else None
        self.accounts = Accounts(self.api, sessions_each=options.sessions_each, file=file)
        self.seeds = itertools.count(options.seed + index * 1_000_000)
        self._video: dict[str, Any] | None = None
        self._enrolled: set[str] = set()
        self._lock = threading.Lock()

    def new_session(self) -> tuple[Account, dict[str, Any], float]:
        """A session of some account, and the video's seconds. Raises ApiError, OSError, LookupError."""
        for _ in range(MOST_ACCOUNTS_TRIED):
            account = self.accounts.lend()
            try:
                video = self._video_for(account)
                path = f"/api/videos/{video['id']}/sessions"
                body = {"device": "desktop", "player": "loadtest", "viewport": [1280, 720]}
                session = self.api.request("POST", path, token=account.access_token, body=body)
            except BaseException as failure:
                self.accounts.give_back(account)
                if isinstance(failure, ApiError) and failure.code == "too_many_sessions":
                    self.accounts.drop(account)  # an earlier run left some behind
                    continue
                raise
            return account, session, video.get("duration_seconds") or UNKNOWN_DURATION_S
        raise LookupError("every account has too many sessions")

    def _video_for(self, account: Account) -> dict[str, Any]:
        token = account.access_token
        with self._lock:
            if self._video is None:
                self._video = find_ready_video(self.api, token, self.options.video)
            elif "course_id" in self._video and account.username not in self._enrolled:
                self.api.request("POST", "/api/enrollments", token=token, body={"course_id": self._video["course_id"]})
            self._enrolled.add(account.username)
            return self._video


log = logging.getLogger(__name__)
figures = LocustFigures()
shared: dict[Environment, Run] = {}
started_at: dict[Environment, float] = {}


class Learner(User):
    """One player; a session that ends before its time is followed by another."""

    host = DEFAULT_HOST
    wait_time = between(0.5, 1.5)  # who was refused does not come back with all the others

    @task
    def watch(self) -> None:
        """Watch until the test stops."""
        run = shared[self.environment]
        try:
            account, session, duration_s = run.new_session()
        except (ApiError, OSError, LookupError) as failure:
            figures.went_wrong(f"no session: {failure}")
            return
        seed = next(run.seeds)
        viewing = Viewing(
            ladder=session["ladder"],
            segment_s=session["segment_s"],
            duration_s=duration_s,
            seed=seed,
            position_s=session.get("resume_position") or 0.0,
            network=run.options.network,
        )
        player = WirePlayer(
            run.api,
            session,
            viewing,
            figures,
            token=lambda: run.accounts.token(account),
            interval_s=run.options.interval_s,
            seed=seed,
        )
        try:
            player.run(self._stopping)
        finally:
            run.accounts.give_back(account)

    def _stopping(self) -> bool:
        return self._state == "stopping"


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Our options beside locust's."""
    group = parser.add_argument_group("lectern")
    group.add_argument("--interval-s", type=float, default=1.0, help="seconds between two frames of a player")
    group.add_argument("--network", choices=sorted(LINKS), default=None, help="one kind of link for all")
    group.add_argument("--video", default=None, help="the video to watch (default: a ready one of a free course)")
    group.add_argument("--seed", type=int, default=1, help="viewings are drawn from it")
    group.add_argument("--accounts", default=None, help="directory that keeps accounts for the next run")
    group.add_argument("--sessions-each", type=int, default=3, help="sessions per account")
    group.add_argument("--figures", default=None, help="write the figures there as JSON")
    group.add_argument("--table-only", action="store_true", help="without locust's own tables")


@events.test_start.add_listener
def started(environment: Environment, **_: Any) -> None:
    """A test begins: nothing counted yet."""
    figures.clear()
    shared[environment] = Run(environment)
    started_at[environment] = time.monotonic()


@events.test_stop.add_listener
def stopped(environment: Environment, **_: Any) -> None:
    """A test has ended: keep the accounts."""
    if environment in shared and not isinstance(environment.runner, MasterRunner):
        try:
            shared[environment].accounts.save()
        except OSError as error:
            log.warning("the accounts are not kept for the next run: %s", error)


@events.test_stopping.add_listener
def stopping(environment: Environment, **_: Any) -> None:
    """No more frames: the rate is told over the time until now."""
    if environment in started_at:
        figures.seconds = time.monotonic() - started_at[environment]


@events.report_to_master.add_listener
def report(client_id: str, data: dict[str, Any]) -> None:  # noqa: ARG001 - locust passes it by name
    """A worker hands over what it counted since the last time."""
    data["lectern"] = figures.as_told()
    figures.clear()


@events.worker_report.add_listener
def reported(client_id: str, data: dict[str, Any]) -> None:  # noqa: ARG001 - locust passes it by name
    """The master adds it up."""
    figures.merge(Figures(data.get("lectern")))


@events.init.add_listener
def init(environment: Environment, **_: Any) -> None:
    """Quieten locust if asked to."""
    # locust counts --run-time from when gevent's loop last looked at the clock, which was before all the imports.
    gevent.get_hub().loop.update_now()
    if environment.parsed_options is not None and environment.parsed_options.table_only:
        logging.getLogger("locust.stats_logger").setLevel(logging.WARNING)


@events.quitting.add_listener
def tell(environment: Environment, **_: Any) -> None:
    """Print the table and settle the exit status."""
    runner = environment.runner
    if not isinstance(runner, LocalRunner | MasterRunner) or environment not in started_at:
        return
    if runner.state in ("spawning", "running"):
        runner.stop()  # interrupted: let the players say goodbye
    print(f"\n{shared[environment].api.host}\n\n{figures.table()}\n")
    environment.process_exit_code = 1 if figures.failed else 0
    options = environment.parsed_options
    if options is not None and options.figures:
        try:
            Path(options.figures).write_text(json.dumps(figures.summary(), indent=1) + "\n")
        except OSError as error:
            print(f"the figures are not written: {error}")
            environment.process_exit_code = 1

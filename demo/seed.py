"""Fills a running server with the demo accounts, courses and lectures, through its own API.

Everything is looked for before it is made, in an order in which the last step implies the ones before it: a second run
finds all of it, and one that was interrupted goes on where it stopped.
"""

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg

from demo.accounts import ACCOUNTS, ADMIN, INSTRUCTOR, LEARNER, Account
from demo.client import CallRefused, Client
from demo.clips import Clip, ClipNotMade, make_clip
from demo.content import COURSES, Course, Lecture
from demo.narration import voice
from demo.progress import say

NICENESS: Final = 10
START_TIMEOUT_S: Final = 120.0
ENCODE_TIMEOUT_S: Final = 1800.0
LANGUAGE: Final = "en"


class SeedFailed(Exception):
    """What stands in the way, for the person at the terminal."""


@dataclass(frozen=True)
class Place:
    """Where things come from and go to. `postgres_dsn` may be empty where the server can assign roles itself."""

    server: str
    cache: Path
    postgres_dsn: str
    admin_email: str
    admin_password: str
    # The video host's API as (address of a video without its id, token), only to show how far it has come.
    host: tuple[str, str] | None = None


@dataclass
class Slot:
    """One lecture of the demo and its row."""

    number: int
    course: Course
    lecture: Lecture
    row: dict[str, Any]


class Seed:
    """One run."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        place: Place,
        courses: tuple[Course, ...] = COURSES,
        on_first: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_first` is called when the first lecture can be watched."""
        self._http = http
        self._place = place
        self._courses = courses
        self._on_first = on_first
        self._owner = Client(http, place.server)

    async def run(self) -> None:
        """All of it. Raises SeedFailed, CallRefused and aiohttp's errors."""
        await self._await_server()
        rows = await self._find_courses() if await self._sign_in(self._owner, INSTRUCTOR) else {}
        if not all(self._is_complete(course, rows) for course in self._courses):
            rows = await self._make_accounts_and_courses(rows)
        slots = await self._find_slots(rows)
        lacking = [slot for slot in slots if not await self._is_ready(slot)]
        if not lacking:
            say(f"The {len(slots)} demo lectures are ready")
            return
        if voice() is None:
            say("No speech library on this platform: the lectures have soft tones and captions instead of a voice")
        for slot in lacking:
            await self._finish(slot, len(slots))
            self._on_first()
        say(f"All {len(slots)} demo lectures are ready")

    async def _await_server(self) -> None:
        async with _deadline(START_TIMEOUT_S, f"No server answers at {self._place.server}"):
            if not await self._owner.is_up():
                print(f"Waiting for the server at {self._place.server}", file=sys.stderr, flush=True)
            while not await self._owner.is_up():  # noqa: ASYNC110  nobody in this process could set an event
                await asyncio.sleep(0.2)

    # Accounts

    async def _sign_in(self, client: Client, account: Account) -> bool:
        """False where there is no such account, or it has not got its role yet."""
        try:
            await client.sign_in(account.email, account.password)
        except CallRefused as refused:
            if refused.status == 401:
                return False
            raise
        return bool(client.user["role"] == account.role)

    async def _make_account(self, client: Client, account: Account) -> None:
        if await self._sign_in(client, account):
            return
        if not client.user:
            try:
                await client.register(account.username, account.email, account.password)
            except CallRefused as refused:
                if refused.code in ("username_taken", "email_taken"):
                    raise SeedFailed(f"{account.email} is there already, with another password") from None
                raise
        if client.user["role"] != account.role:
            await self._assign_role(client.user["id"], account.role)
            await client.sign_in_again()

    async def _assign_role(self, user_id: str, role: str) -> None:
        """By the API where an administrator can be had and the server has the route; else by one statement."""
        admin = Client(self._http, self._place.server)
        try:
            await admin.sign_in(self._place.admin_email, self._place.admin_password)
            await admin.call("POST", f"/api/auth/users/{user_id}/roles", {"role": role})
        except CallRefused as refused:
            if refused.status not in (401, 403, 404, 405):
                raise
        else:
            return
        if not self._place.postgres_dsn:
            raise SeedFailed(f"Nobody can make {role}s: give --admin-email and --admin-password, or --postgres-dsn")
        # `ver` goes up as with any change of role, so that tokens of the old one end.
        connection = await asyncpg.connect(self._place.postgres_dsn, timeout=5)
        try:
            await connection.execute(
                "UPDATE users SET role = $2, ver = ver + 1 WHERE id = $1::text::uuid", user_id, role, timeout=5
            )
        finally:
            await connection.close(timeout=5)

    # Courses and lectures

    def _is_complete(self, course: Course, rows: dict[str, dict[str, Any]]) -> bool:
        row = rows.get(course.title)
        return bool(
            row
            and row["status"] == "published"
            and row["enrolled_count"]
            and row["lecture_count"] >= len(course.lectures)
        )

    async def _find_courses(self) -> dict[str, dict[str, Any]]:
        mine = f"/api/courses?creator_id={self._owner.user['id']}"
        published, drafts = await asyncio.gather(self._owner.items(mine), self._owner.items(f"{mine}&status=draft"))
        return {row["title"]: row for row in (*drafts, *published)}

    async def _make_accounts_and_courses(self, rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        say("Accounts and courses", passing=True)
        learner = Client(self._http, self._place.server)
        # The administrator first: with the roles route it is who makes the instructor one.
        await self._make_account(Client(self._http, self._place.server), ADMIN)
        await self._make_account(self._owner, INSTRUCTOR)
        await self._make_account(learner, LEARNER)
        rows = rows or await self._find_courses()
        # Lists show the newest first, and the first course is the one to begin with: so it is made last.
        for course in reversed(self._courses):
            rows[course.title] = await self._make_course(course, rows.get(course.title))
            await learner.call("POST", "/api/enrollments", {"course_id": rows[course.title]["id"]})
        return rows

    async def _make_course(self, course: Course, row: dict[str, Any] | None) -> dict[str, Any]:
        """A draft until all its lectures are there."""
        owner = self._owner
        if row is None:
            row = await owner.call("POST", "/api/courses", {"title": course.title, "description": course.description})
        assert row
        there = {lecture["title"] for lecture in await owner.items(f"/api/courses/{row['id']}/lectures")}
        for order, lecture in enumerate(course.lectures, start=1):
            if lecture.title not in there:
                body = {
                    "title": lecture.title,
                    "description": lecture.description,
                    "is_preview": lecture.is_preview,
                    "sequence_order": order,
                }
                await owner.call("POST", f"/api/courses/{row['id']}/lectures", body)
        if row["status"] != "published":
            row = await owner.call("PUT", f"/api/courses/{row['id']}", {"status": "published"})
        assert row
        return row

    async def _find_slots(self, rows: dict[str, dict[str, Any]]) -> list[Slot]:
        lists = await asyncio.gather(
            *(self._owner.items(f"/api/courses/{rows[course.title]['id']}/lectures") for course in self._courses)
        )
        by_title = {row["title"]: row for row in chain.from_iterable(lists)}
        pairs = [(course, lecture) for course in self._courses for lecture in course.lectures]
        return [
            Slot(number, course, lecture, by_title[lecture.title])
            for number, (course, lecture) in enumerate(pairs, start=1)
        ]

    # Videos

    async def _video(self, slot: Slot) -> dict[str, Any] | None:
        lecture = await self._owner.call("GET", f"/api/lectures/{slot.row['id']}")
        video: dict[str, Any] | None = lecture.get("video")
        return video

    async def _is_ready(self, slot: Slot) -> bool:
        video = await self._video(slot)
        return bool(video and video["status"] == "ready" and await self._has_captions(video))

    async def _has_captions(self, video: dict[str, Any]) -> bool:
        try:
            await self._owner.call("GET", f"/api/videos/{video['id']}/captions/{LANGUAGE}")
        except CallRefused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    async def _finish(self, slot: Slot, total: int) -> None:
        """From whatever is there to a video that plays, with captions."""
        name = f"lecture {slot.number}/{total}"
        video = await self._video(slot)
        if video and video["status"] in ("pending_upload", "error"):
            # An upload address is good for one attempt, and it was begun before: start over.
            await self._owner.call("DELETE", f"/api/videos/{video['id']}")
            video = None
        clip = await self._draw(slot.course, slot.lecture, name)
        if video is None:
            video = await self._upload(slot, clip, name)
        video = await self._await_encoding(video["id"], name)
        if slot.row["duration"] is None:
            duration = round(video["duration_seconds"])
            await self._owner.call("PUT", f"/api/lectures/{slot.row['id']}", {"duration": duration})
        if not await self._has_captions(video):
            captions = clip.captions.read_text(encoding="utf-8")
            path = f"/api/videos/{video['id']}/captions/{LANGUAGE}"
            await self._owner.call("PUT", path, captions, media_type="text/vtt")
        # It lies at the video host now, and can be made again.
        clip.remove()
        say(f"{name[:1].upper()}{name[1:]} is ready: {slot.lecture.title}")

    async def _draw(self, course: Course, lecture: Lecture, name: str) -> Clip:
        """In a thread; if this task is cancelled the drawing stops too."""
        stopped = threading.Event()
        tell = _in_steps(f"{name}: drawing", stopped)
        try:
            return await asyncio.to_thread(make_clip, course, lecture, self._place.cache, tell)
        except asyncio.CancelledError:
            stopped.set()
            raise

    async def _upload(self, slot: Slot, clip: Clip, name: str) -> dict[str, Any]:
        say(f"{name}: uploading", passing=True)
        body = {
            "lecture_id": slot.row["id"],
            "title": slot.lecture.title,
            "description": slot.lecture.description,
            "filename": f"{slot.lecture.name}.mp4",
            "size_bytes": clip.path.stat().st_size,
        }
        answer = await self._owner.call("POST", "/api/videos/upload", body)
        await self._owner.send_file(answer["upload"]["url"], clip.path)
        video: dict[str, Any] = answer["video"]
        return video

    async def _await_encoding(self, video_id: str, name: str) -> dict[str, Any]:
        """The video's row when it is ready."""
        tell = _in_steps(f"{name}: encoding", threading.Event())
        async with _deadline(ENCODE_TIMEOUT_S, f"{name} was not encoded in time"):
            while True:
                video: dict[str, Any] = await self._owner.call("GET", f"/api/videos/{video_id}")
                if video["status"] == "ready":
                    return video
                if video["status"] == "error":
                    raise SeedFailed(f"{name}: the video host refused the clip: {video['error']}")
                tell(await self._encoded_percent(video.get("cloudflare_uid")))
                await asyncio.sleep(0.5)

    async def _encoded_percent(self, uid: str | None) -> int:
        """How far the video host is, where we may ask it; the product itself only says `processing`."""
        if self._place.host is None or not uid:
            return 0
        address, token = self._place.host
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with self._http.get(
                f"{address}/{uid}", headers=headers, timeout=aiohttp.ClientTimeout(total=5)
            ) as answer:
                status = (await answer.json())["result"]["status"]
                return int(float(status.get("pctComplete") or 0))
        except (aiohttp.ClientError, TimeoutError, KeyError, TypeError, ValueError):
            return 0


def _in_steps(what: str, stopped: threading.Event) -> Callable[[int], None]:
    """A teller of per cent that prints each twentieth once; when `stopped` it ends the work that calls it."""
    told = -1

    def tell(percent: int) -> None:
        nonlocal told
        if stopped.is_set():
            raise ClipNotMade("stopped")
        if percent // 5 > told:
            told = percent // 5
            say(f"{what} {told * 5} %", passing=True)

    return tell


class _deadline:  # noqa: N801  reads like asyncio.timeout, with words for the person at the terminal
    def __init__(self, seconds: float, words: str) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._words = words

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await self._timeout.__aexit__(*raised)
        except TimeoutError:
            raise SeedFailed(self._words) from None


def read_place(arguments: list[str] | None, environ: dict[str, str]) -> Place:
    """The command line, with the server's own environment for what it does not say."""
    parser = argparse.ArgumentParser(prog="bin/seed", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--server", "--url", default="http://127.0.0.1:8080", help="where the server is")
    parser.add_argument("--cache", type=Path, default=Path("data/demo"), help="where drawn clips are kept")
    parser.add_argument(
        "--postgres-dsn", default=environ.get("LECTERN_POSTGRES__DSN", ""), help="to make an instructor"
    )
    parser.add_argument("--admin-email", default=environ.get("LECTERN_AUTH__FIRST_ADMIN_EMAIL") or ADMIN.email)
    parser.add_argument("--admin-password", default=environ.get("LECTERN_AUTH__FIRST_ADMIN_PASSWORD") or ADMIN.password)
    given = parser.parse_args(arguments)
    base, account, token = (
        environ.get(f"LECTERN_CLOUDFLARE__{key}", "") for key in ("API_BASE", "ACCOUNT_ID", "API_TOKEN")
    )
    host = (f"{base}/accounts/{account}/stream", token) if base and account and token else None
    return Place(given.server, given.cache, given.postgres_dsn, given.admin_email, given.admin_password, host)


def give_way() -> None:
    """What follows can wait for everything else that goes on here."""
    os.nice(max(0, NICENESS - os.nice(0)))


async def seed(place: Place) -> int:
    """One run; the exit status."""
    task = asyncio.current_task()
    assert task
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with aiohttp.ClientSession() as http:
        try:
            await Seed(http, place, on_first=give_way).run()
        except (SeedFailed, CallRefused, ClipNotMade, aiohttp.ClientError, OSError) as error:
            print(f"The demo data are not complete: {error}", file=sys.stderr)
            return 1
    if sys.stdout.isatty():  # bin/run shows them itself
        say("Demo accounts: " + ", ".join(f"{account.email} / {account.password}" for account in ACCOUNTS))
    return 0


def main() -> int:
    try:
        return asyncio.run(seed(read_place(None, dict(os.environ))))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""The seed on a real server and a real encoder, with lectures of a few seconds."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from demo import progress
from demo.accounts import ACCOUNTS, ADMIN, INSTRUCTOR, LEARNER
from demo.client import Client
from demo.content import Course
from demo.seed import Place, Seed, SeedFailed, read_place
from embedded import processes
from embedded.postgres import Postgres
from embedded.system import POSTGRES, System
from tests.support.courses import short_course
from tests.support.whole import place_of, seed


def rows(system: System, title: str) -> str:
    """How many courses, lectures, videos and enrolments there are of this course."""
    postgres = system.parts[POSTGRES]
    assert isinstance(postgres, Postgres)
    course = f"FROM courses AS c WHERE c.title = '{title}'"
    lectures = f"FROM lectures AS l WHERE l.course_id IN (SELECT c.id {course})"
    videos = f"FROM videos AS v WHERE v.lecture_id IN (SELECT l.id {lectures})"
    enrolments = f"FROM enrollments AS e WHERE e.course_id IN (SELECT c.id {course})"
    counts = ", ".join(f"(SELECT count(*) {each})" for each in (course, lectures, videos, enrolments))
    return postgres.execute(f"SELECT {counts}", "lectern").strip()


async def read_course(system: System, course: Course) -> list[dict[str, Any]]:
    """Its lectures as the demo's learner gets them, with their videos and `captions`."""
    async with aiohttp.ClientSession() as http:
        learner = Client(http, system.local_address)
        await learner.sign_in(LEARNER.email, LEARNER.password)
        (row,) = [row for row in await learner.items("/api/courses?") if row["title"] == course.title]
        found = []
        for lecture in await learner.items(f"/api/courses/{row['id']}/lectures?"):
            whole = await learner.call("GET", f"/api/lectures/{lecture['id']}")
            whole["captions"] = await learner.call("GET", f"/api/videos/{whole['video']['id']}/captions/en")
            found.append(whole)
        return found


async def test_a_server_that_does_not_answer_is_named_and_not_waited_for_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo.seed.START_TIMEOUT_S", 0.5)
    nowhere = f"http://127.0.0.1:{processes.free_port()}"
    async with aiohttp.ClientSession() as http:
        with pytest.raises(SeedFailed, match=f"No server answers at {nowhere}"):
            await Seed(http, Place(nowhere, tmp_path, "", ADMIN.email, ADMIN.password)).run()
    assert capsys.readouterr().err == f"Waiting for the server at {nowhere}\n"


async def test_a_second_run_finds_everything_and_makes_nothing(system: System, capsys: pytest.CaptureFixture[str]):
    course = short_course("Twice seeded", lectures=1)
    await seed(system, course)
    first = await read_course(system, course)
    assert rows(system, course.title) == "1|1|1|1"
    assert [lecture["video"]["status"] for lecture in first] == ["ready"]
    assert first[0]["captions"].startswith("WEBVTT\n")
    assert first[0]["duration"] == round(first[0]["video"]["duration_seconds"])
    assert not list(system.demo_clips.glob("*")), "drawn clips are not kept once they are encoded"

    capsys.readouterr()
    await seed(system, course)
    assert capsys.readouterr().out == "The 1 demo lectures are ready\n"
    assert rows(system, course.title) == "1|1|1|1"
    assert [lecture["video"]["id"] for lecture in await read_course(system, course)] == [first[0]["video"]["id"]]


@pytest.mark.parametrize(
    "last_words",
    [
        "drawing 50 %",
        pytest.param("uploading", marks=pytest.mark.slow),
        pytest.param("encoding 0 %", marks=pytest.mark.slow),
        pytest.param("1/2 is ready", marks=pytest.mark.slow),
    ],
)
async def test_one_that_was_interrupted_goes_on_where_it_stopped(
    system: System, monkeypatch: pytest.MonkeyPatch, last_words: str
):
    course = short_course(f"Interrupted at {last_words.replace('/', ' of ')}")
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def listen(line: str, *, passing: bool = False) -> None:
        if last_words in line:
            loop.call_soon_threadsafe(reached.set)

    monkeypatch.setattr("demo.seed.say", listen)
    seeding = asyncio.create_task(seed(system, course))
    async with asyncio.timeout(60):
        await reached.wait()
    seeding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await seeding
    await seed(system, course)
    assert rows(system, course.title) == "1|2|2|1"
    assert [lecture["video"]["status"] for lecture in await read_course(system, course)] == ["ready", "ready"]


async def test_the_demo_s_people_can_sign_in_with_what_the_screen_shows(system: System):
    await seed(system, short_course("Somebody's", lectures=0))
    async with aiohttp.ClientSession() as http:
        for account in ACCOUNTS:
            client = Client(http, system.local_address)
            await client.sign_in(account.email, account.password)
            assert (client.user["username"], client.user["role"]) == (account.username, account.role)


async def test_the_first_lecture_is_told_before_the_second_is_begun(system: System, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr("demo.seed.say", lambda line, **_: told.append(line))
    async with aiohttp.ClientSession() as http:
        place, courses = place_of(system), (short_course("In order"),)
        await Seed(http, place, courses, on_first=lambda: told.append("gives way")).run()
    second_begun = next(i for i, line in enumerate(told) if line.startswith("lecture 2/2"))
    assert told.index("gives way") < second_begun


async def test_a_taken_address_is_named(system: System, monkeypatch: pytest.MonkeyPatch):
    await seed(system, short_course("Taken", lectures=0))
    monkeypatch.setattr("demo.seed.LEARNER", type(LEARNER)(LEARNER.username, LEARNER.email, "another one", "student"))
    with pytest.raises(SeedFailed, match="is there already, with another password"):
        await seed(system, short_course("Taken by others", lectures=1))


def test_the_server_s_own_settings_say_who_may_make_instructors_and_where_the_videos_are() -> None:
    place = read_place(
        ["--server", "http://lectern.example", "--cache", "/clips"],
        {
            "LECTERN_AUTH__FIRST_ADMIN_EMAIL": "root@lectern.example",
            "LECTERN_AUTH__FIRST_ADMIN_PASSWORD": "secret",
            "LECTERN_CLOUDFLARE__API_BASE": "http://host/v4",
            "LECTERN_CLOUDFLARE__ACCOUNT_ID": "account",
            "LECTERN_CLOUDFLARE__API_TOKEN": "token",
        },
    )
    assert place == Place(
        "http://lectern.example", Path("/clips"), "", "root@lectern.example", "secret",
        ("http://host/v4/accounts/account/stream", "token"),
    )  # fmt: skip


def test_without_settings_the_demo_s_own_administrator_is_asked() -> None:
    place = read_place([], {})
    assert (place.admin_email, place.admin_password, place.host) == (ADMIN.email, ADMIN.password, None)
    assert INSTRUCTOR.role == "instructor"


def test_a_passing_line_can_be_told_from_one_that_stays(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("drawing 5 %", passing=True)
    progress.say("ready")
    assert capsys.readouterr().out == f"drawing 5 %{progress.PASSING}ready\n"

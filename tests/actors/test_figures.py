"""A video's analytics: whatever happens to sessions and their owners, every session counts once, on its day."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.video_session.actor import Checkpoint, VideoSession
from actors.video_session.figures import REASONS
from actors.video_session.messages import parse_rest_frame
from handlers.audience import ALL_TIME
from server.data.db import queries
from server.domain import figures
from tests.actors.conftest import Place
from tests.support.core import Core, insert_session, running
from tests.support.lectures import LADDER, make_learner, make_lecture
from tests.support.model import Watched, audience

sql = queries("audience")
KBPS = [float(rung["br"]) for rung in LADDER]
LENGTH_S = 90
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)

cmcds = st.fixed_dictionaries(
    {},
    optional={
        "sta": st.sampled_from(["p", "s", "k", "r", "a"]), "bs": st.booleans(), "bsd": st.integers(0, 4000),
        "msd": st.integers(0, 20_000), "br": st.sampled_from([300, 800, [1600], 3200, 550]),
        "pr": st.sampled_from([0, 1, 2, 0.5]),
    },
)  # fmt: skip
# Mostly playing on; sometimes a jump, also past the end.
steps = st.integers(1, 9).map(float) | st.sampled_from([-30.0, -0.5, 0.0, 25.5, 70.0])
pieces = st.lists(st.tuples(steps, cmcds), min_size=1, max_size=6)
turns = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ppppsfachz"), pieces), max_size=24)
# The sessions of one video: two learners, two days, one on each side of midnight.
SESSIONS = [(0, -1), (0, 0), (1, 0), (1, 0)]


class Told:
    """One session in the hands of whoever owns it, and all that its player ever sent."""

    def __init__(self, core: Core, session: VideoSession, user: int, day: int) -> None:
        self.core = core
        self.session = session
        self.user, self.day = user, day
        self.frames: list[dict[str, Any]] = []
        self.position = 0.0
        self.kept: list[tuple[Core, Checkpoint]] = []

    async def play(self, pieces: list[tuple[float, dict[str, Any]]]) -> None:
        """The player reports, and its owner applies it."""
        for step, cmcd in pieces:
            self.position = max(0.0, self.position + step)
            self.frames.append({"seq": len(self.frames) + 1, "position": self.position, "cmcd": cmcd})
            self.session.accept(parse_rest_frame(self.frames[-1]))
        write = self.session.next_write(len(pieces))
        assert write is not None
        (written,), _ = await self.core.streams.write_and_read([write], {}, len(pieces))
        assert written.whole
        self.session.take_written(len(pieces))

    async def save(self, *, figured: bool, release: bool = False) -> None:
        """A checkpoint, which may be the last or carry no figures."""
        checkpoint = self.session.checkpoint(release=release, complete_share=0.9 if figured else None)
        self.kept.append((self.core, checkpoint))
        await self.core.runtime.checkpoints.save([checkpoint])

    async def again(self) -> None:
        """An old checkpoint once more, as after an answer that was lost, or by a zombie."""
        for core, checkpoint in self.kept[-3:]:
            await core.runtime.checkpoints.save([checkpoint])
            if checkpoint.session is self.session and self.session.dropped:
                await self.move(self.core)

    async def move(self, core: Core) -> None:
        """Another process takes the session, by the stream; what the old one did not save is its to save."""
        session = await core.runtime.claim(self.session.id, "rest")
        assert session is not None
        self.core, self.session = core, session


async def new_told(core: Core, lecture: Any, users: list[UUID]) -> list[Told]:
    told = []
    for user, day in SESSIONS:
        at = MIDNIGHT + timedelta(microseconds=-1 if day else 0)
        session_id = await insert_session(core.db, lecture, users[user], created_at=at)
        session = await core.runtime.claim(session_id, "socket")
        assert session is not None
        told.append(Told(core, session, user, day))
    return told


async def shown(core: Core, video_id: UUID, first: date, last: date) -> dict[str, Any]:
    rows = await sql.sum_figures(core.db, video_id=video_id, first_day=first, last_day=last)
    return figures.report({row["slot"]: row["value"] for row in rows}, LADDER, REASONS)


def differences(report: Mapping[str, Any], told: list[Told]) -> dict[str, Any]:
    """What is shown otherwise than the model says."""
    expected = audience([Watched(t.user, t.day, t.frames) for t in told], LENGTH_S * 1000, KBPS)
    startups, rungs = expected.pop("startups"), expected.pop("rung_seconds")
    if startups:
        assert report["startup_ms"]["p50"] == pytest.approx(median(startups), rel=0.05, abs=1)
    for rung, seconds in zip(report["time_per_rung"], rungs, strict=True):
        assert rung["seconds"] == pytest.approx(seconds, abs=0.01)
    for name in ("play_time", "rebuffer_ratio", "mean_bitrate_kbps"):  # each session's milliseconds are rounded
        if expected[name] is not None:
            expected[name] = pytest.approx(expected[name], rel=0.005, abs=0.01)
    return {name: (report[name], value) for name, value in expected.items() if report[name] != value}


def median(values: list[float]) -> float:
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


async def take(turn: str, told: Told, other: Core, pieces: list[tuple[float, dict[str, Any]]]) -> None:
    if turn == "p":
        await told.play(pieces)
    elif turn in "sf":
        await told.save(figured=turn == "f")
    elif turn == "a":
        await told.again()
    elif turn == "c":  # a crash: its heir has the stream
        await told.move(other if told.core is not other else told.core)
    elif turn == "h":
        await told.save(figured=True, release=True)
        await told.move(told.core)
    else:  # a zombie saves what it has
        zombie, core = told.session, told.core
        await told.move(other)
        await core.runtime.checkpoints.save([zombie.checkpoint(release=True, complete_share=0.9)])


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(turns)
async def test_analytics_are_what_a_model_counts_whatever_happens_to_the_owners(
    place: Place, turns: list[tuple[int, str, list[tuple[float, dict[str, Any]]]]]
) -> None:
    async with (
        running(place.dsn, place.redis_url, start=False) as core,
        running(place.dsn, place.redis_url, start=False) as other,
    ):
        lecture = await make_lecture(place.dsn, duration_s=LENGTH_S)
        users = [await make_learner(place.dsn, lecture.course_id, name=f"{lecture.video_id}-{n}") for n in range(2)]
        told = await new_told(core, lecture, users)
        for index, turn, pieces in turns:
            await take(turn, told[index], other, pieces)
        for each in told:
            await each.save(figured=True, release=True)
            await each.again()
        today, yesterday = MIDNIGHT.date(), (MIDNIGHT - timedelta(days=1)).date()
        assert differences(await shown(core, lecture.video_id, ALL_TIME, ALL_TIME), told) == {}
        assert differences(await shown(core, lecture.video_id, today, today), told[1:]) == {}
        assert differences(await shown(core, lecture.video_id, yesterday, yesterday), told[:1]) == {}


async def test_a_session_that_goes_on_is_counted_as_of_figures_s_ago(place: Place) -> None:
    async with running(place.dsn, place.redis_url, start=False, figures_s=0.0) as core:
        session, _ = await core.open(await place.new_session(core))
        await core.feed(session, 12)
        await core.runtime.checkpoints.save_changed()
        report = await shown(core, place.lecture.video_id, ALL_TIME, ALL_TIME)
        assert (report["views"], report["watch_time"], report["retention"][0]) == (1, 11.0, 1.0)
    async with running(place.dsn, place.redis_url, start=False, figures_s=3600.0) as core:
        session, _ = await core.open(await place.new_session(core))
        await core.feed(session, 12)
        await core.runtime.checkpoints.save_changed()
        assert (await shown(core, place.lecture.video_id, ALL_TIME, ALL_TIME))["views"] == 1
        session.peer = None
        await core.runtime.checkpoints.save_changed(release=True)
        assert (await shown(core, place.lecture.video_id, ALL_TIME, ALL_TIME))["views"] == 2


async def test_decisions_are_counted_by_their_reasons_over_owners(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    for _ in range(3):  # each claim decides anew
        await still_core.open(session_id)
        await still_core.runtime.checkpoints.save_changed(release=True)
    report = await shown(still_core, place.lecture.video_id, ALL_TIME, ALL_TIME)
    assert report["decisions_by_reason"] == {"nothing measured yet, starting low": 3}

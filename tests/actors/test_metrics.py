"""What the live core counts is what happened."""

import re
from collections.abc import Callable
from uuid import uuid4

import pytest
from prometheus_client import generate_latest

from actors.video_session.messages import encode_frame
from embedded.postgres import Postgres
from embedded.valkey import Valkey
from server.data.streams import stream_key
from tests.actors.conftest import Place
from tests.support.core import Core, eventually, report, running
from tests.support.pausing import paused

pytestmark = pytest.mark.timeout(60)
Counted = Callable[[str], float]


def value(sample: str) -> float:
    """Of a sample as Prometheus would read it, labels and all; 0 before it is there."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", generate_latest().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.fixture
def counted() -> Counted:
    """How much has been counted since the test began."""
    before: dict[str, float] = {}
    for line in generate_latest().decode().splitlines():
        if line.startswith("lectern_"):
            name, _, figure = line.rpartition(" ")
            before[name] = float(figure)
    return lambda sample: value(sample) - before.get(sample, 0.0)


async def test_frames_acks_duplicates_gaps_and_checkpoints_are_counted(
    core: Core, place: Place, counted: Counted
) -> None:
    session, listener = await core.open(await place.new_session(core))
    for seq in (1, 2, 5, 2):
        core.runtime.submit(session, report(seq))
    await eventually(lambda: listener.saved == 5)
    assert counted("lectern_frames_total") == 3
    assert counted("lectern_gaps_total") == 2
    assert counted("lectern_duplicates_total") == 1
    assert counted("lectern_acks_total") == len(listener.acks)
    assert counted("lectern_checkpoint_rows_total") >= 1
    assert counted("lectern_checkpoint_bytes_total") > 100
    assert counted("lectern_checkpoint_seconds_count") >= 1
    assert counted("lectern_ingest_round_seconds_count") >= 1
    core.runtime.detach(session, listener)
    await eventually(lambda: counted("lectern_checkpoint_figures_total") == 1)


async def test_decisions_are_counted_by_reason(core: Core, place: Place, counted: Counted) -> None:
    session, _ = await core.open(await place.new_session(core))
    assert session.advice is not None
    assert counted(f'lectern_decisions_total{{reason="{session.advice.reason}"}}') == 1


async def test_a_fenced_write_is_counted_and_so_is_the_session_that_it_cost(
    still_core: Core, place: Place, counted: Counted
) -> None:
    session_id = await place.new_session(still_core)
    session, _ = await still_core.open(session_id)
    await still_core.feed(session, 1)
    async with running(place.dsn, place.redis_url, start=False) as other:
        await other.open(session_id)
    await still_core.runtime.checkpoints.save_changed()
    assert counted("lectern_fenced_writes_total") == 1
    assert counted("lectern_fenced_total") == 1
    assert counted("lectern_checkpoint_rows_total") == 0


async def test_replays_lost_streams_dead_letters_and_reaped_sessions_are_counted(
    still_core: Core, place: Place, counted: Counted
) -> None:
    whole = await place.new_session(still_core)
    for seq in (1, 2):
        frame = {"prev": seq - 1, "frame": encode_frame(report(seq))}
        await still_core.redis.xadd(stream_key(whole), frame, id=f"{seq}-0")
    await still_core.redis.xadd(stream_key(whole), {"prev": 2, "frame": b"{"}, id="3-0")
    await still_core.open(whole)
    assert counted("lectern_replayed_frames_total") == 2
    assert counted("lectern_replay_seconds_count") == 1
    assert counted("lectern_dead_letters_total") == 1

    holed = await place.new_session(still_core, owner=uuid4())
    await still_core.redis.xadd(stream_key(holed), {"prev": 7, "frame": encode_frame(report(8))}, id="8-0")
    assert await still_core.runtime.reaper.reap() == 1
    assert counted("lectern_streams_lost_total") == 1
    assert counted("lectern_reaped_total") == 1


async def test_frames_that_redis_does_not_take_are_seen_as_lag_and_the_outage_is_seen_too(
    place: Place, own_valkey: Valkey, counted: Counted
) -> None:
    async with running(place.dsn, own_valkey.url, redis_timeout_s=0.5) as core:
        session_id = await place.new_session(core)
        session, listener = await core.open(session_id)
        await eventually(lambda: value('lectern_part_up{part="redis"}') == 1)
        with paused(own_valkey):
            for seq in (1, 2, 3):
                core.runtime.submit(session, report(seq))
            await eventually(lambda: value("lectern_stream_lag_frames") == 3)
            await eventually(lambda: value('lectern_part_up{part="redis"}') == 0)
        assert counted('lectern_part_failures_total{part="redis"}') >= 1
        await eventually(lambda: listener.saved == 3)
        await eventually(lambda: value("lectern_stream_lag_frames") == 0 and value("lectern_unsaved_frames") == 0)
        await eventually(lambda: value('lectern_part_up{part="redis"}') == 1)


async def test_an_outage_of_postgres_is_seen(own_postgres: Postgres, own_place: Place, counted: Counted) -> None:
    async with running(own_place.dsn, own_place.redis_url) as core:
        assert value('lectern_part_up{part="postgres"}') == 1
        assert value(f'lectern_process{{process="{core.runtime.registry.process_id}"}}') == 1
        own_postgres.kill()
        await eventually(lambda: value('lectern_part_up{part="postgres"}') == 0)
        assert counted('lectern_part_failures_total{part="postgres"}') >= 1
        own_postgres.start()
        await eventually(lambda: value('lectern_part_up{part="postgres"}') == 1)

"""What Postgres refused is given to it once more."""

from uuid import UUID, uuid4

import orjson

from actors.restoring import Restorer
from server.config import Sessions
from server.data.dead_letters import Outcome, list_letters
from server.data.streams import stream_key
from tests.actors.conftest import Place
from tests.support.core import Core, state_of


def restorer(core: Core) -> Restorer:
    return Restorer(core.db, core.streams, Sessions(), complete_share=0.9)


async def refuse(core: Core, session_id: UUID, frames: int) -> bytes:
    """The state that Postgres would not save of a session with so many more frames."""
    session, listener = await core.open(session_id)
    await core.feed(session, frames)
    session.state.position_ms = 2**40  # no column takes it
    session.version += 1
    await core.runtime.checkpoints.save_changed()
    assert listener.ended == (1011, "internal_error")
    (letter,) = await list_letters(core.redis, count=10)
    assert letter.session_id == session_id
    assert letter.state is not None
    return letter.state


async def test_a_session_that_comes_back_again_and_again_is_one_letter(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    for frames in (3, 2, 1):
        state = await refuse(still_core, session_id, frames)
        assert orjson.loads(state)["frames"] == 3


async def test_a_state_that_is_refused_again_changes_nothing(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    state = await refuse(still_core, session_id, 3)
    await still_core.redis.delete(stream_key(session_id))
    assert await restorer(still_core).restore(session_id, (3, 0), state) is Outcome.REFUSED
    assert (await still_core.row(session_id))["last_seq"] == 0


async def test_a_state_is_saved_with_what_the_stream_holds_beyond_it_when_the_cause_is_mended(
    still_core: Core, place: Place
) -> None:
    session_id = await place.new_session(still_core)
    state = await refuse(still_core, session_id, 3)
    session, _ = await still_core.open(session_id)
    await still_core.feed(session, 2)
    mended = orjson.dumps(orjson.loads(state) | {"position_ms": 3000})
    assert await restorer(still_core).restore(session_id, (3, 0), mended) is Outcome.REPLAYED
    row = await still_core.row(session_id)
    assert (row["last_seq"], state_of(row)["frames"], row["owner"]) == (5, 5, None)
    watched = "SELECT watched_ranges::text FROM progress WHERE user_id = $1"
    assert await still_core.db.fetchval(watched, place.user_id) == "{[1000,5000)}"


async def test_a_state_is_saved_also_where_its_stream_is_gone(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    state = await refuse(still_core, session_id, 3)
    await still_core.redis.flushall()
    mended = orjson.dumps(orjson.loads(state) | {"position_ms": 3000})
    assert await restorer(still_core).restore(session_id, (3, 0), mended) is Outcome.REPLAYED
    assert (await still_core.row(session_id))["last_seq"] == 3


async def test_a_state_of_a_session_that_was_saved_since_or_is_gone_is_not_written(
    still_core: Core, place: Place
) -> None:
    session_id = await place.new_session(still_core)
    state = await refuse(still_core, session_id, 3)
    await still_core.open(session_id)  # from the stream, where all is well
    await still_core.runtime.checkpoints.save_changed()
    epoch = (await still_core.row(session_id))["epoch"]
    assert await restorer(still_core).restore(session_id, (3, 0), state) is Outcome.SAVED
    assert (await still_core.row(session_id))["epoch"] == epoch, "who watches was disturbed"
    assert await restorer(still_core).restore(uuid4(), (3, 0), state) is Outcome.GONE

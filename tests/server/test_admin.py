"""`bin/admin`, as an operator sees it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from actors.video_session.messages import encode_frame
from tests.actors.conftest import Place, core, place, still_core
from tests.support.core import Core, eventually, report, running, state_of

__all__ = ["core", "place", "still_core"]

ROOT = Path(__file__).resolve().parents[2]


async def admin(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it, while the core goes on."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LECTERN_")}
    environ |= {"LECTERN_POSTGRES__DSN": place.dsn, "LECTERN_REDIS__URL": place.redis_url}
    environ |= {"LECTERN_POSTGRES__TIMEOUT_S": "20", "LECTERN_REDIS__TIMEOUT_S": "20"}
    command = [sys.executable, "-m", "server.admin", *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60
    )


async def letters(place: Place) -> list[dict[str, str]]:
    done = await admin(place, "dead-letters", "list")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


async def bury(core: Core, place: Place) -> tuple[object, str]:
    """A session of which the second of three entries was unreadable, and that letter's name."""
    session, listener = await core.open(await place.new_session(core))
    for seq, frame in ((1, encode_frame(report(1))), (2, b"not a frame"), (3, encode_frame(report(3)))):
        await core.redis.xadd(session.key, {"prev": seq - 1, "frame": frame}, id=f"{seq}-0")
    core.runtime.ingest.mark(session)
    await eventually(lambda: listener.saved == 3)
    (letter,) = await letters(place)
    assert (letter["session"], letter["entry"], letter["frame"]) == (str(session.id), "2-0", "not a frame")
    assert letter["error"]
    return session, letter["letter"]


async def mend(core: Core, letter: str) -> str:
    """As if what could not read the frame were mended: the same letter with a frame that can be read."""
    ((_, fields),) = await core.redis.xrange("dead:telemetry", letter, letter)
    await core.redis.xdel("dead:telemetry", letter)
    name: bytes = await core.redis.xadd("dead:telemetry", fields | {b"frame": encode_frame(report(2))})
    return name.decode()


async def test_a_dead_letter_is_listed_and_replayed_to_a_session_that_goes_on(core: Core, place: Place) -> None:
    session, letter = await bury(core, place)
    done = await admin(place, "dead-letters", "replay", await mend(core, letter))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(": replayed\n")

    async def counted() -> bool:
        return state_of(await core.row(session.id))["frames"] == 3

    await eventually(counted)
    assert await letters(place) == []
    again = await admin(place, "dead-letters", "replay", letter)
    assert (again.returncode, again.stdout) == (1, f"{letter}: there is no such letter\n")


async def test_a_letter_of_a_session_that_nobody_holds_is_folded_by_a_reaper(place: Place) -> None:
    async with running(place.dsn, place.redis_url) as core:
        session, letter = await bury(core, place)
        await mend(core, letter)
    async with running(place.dsn, place.redis_url) as later:
        await later.db.execute("UPDATE video_sessions SET owner = NULL WHERE id = $1", session.id)
        assert (await admin(place, "dead-letters", "replay", "--all")).returncode == 0

        async def folded() -> bool:
            row = await later.row(session.id)
            return state_of(row)["frames"] == 3 and row["owner"] is None

        await eventually(folded)


async def test_what_cannot_be_applied_again_is_a_letter_again(core: Core, place: Place) -> None:
    _, letter = await bury(core, place)
    assert (await admin(place, "dead-letters", "replay", letter)).returncode == 0

    async def buried() -> bool:
        return [found["frame"] for found in await letters(place)] == ["not a frame"]

    await eventually(buried)
    assert (await letters(place))[0]["entry"] == "3-1"


async def test_a_letter_of_a_session_that_has_ended_is_kept(core: Core, place: Place) -> None:
    session, letter = await bury(core, place)
    await core.runtime.end(session)

    async def ended() -> bool:
        return bool((await core.row(session.id))["status"] == "ended")

    await eventually(ended)
    done = await admin(place, "dead-letters", "replay", letter)
    assert (done.returncode, "has ended" in done.stdout) == (1, True)
    assert [found["letter"] for found in await letters(place)] == [letter]


async def test_a_state_that_postgres_refused_is_listed_and_given_to_it_once_more(
    still_core: Core, place: Place
) -> None:
    session, _ = await still_core.open(await place.new_session(still_core))
    await still_core.feed(session, 3)
    session.state.position_ms = 2**40  # no column takes it
    session.version += 1
    await still_core.runtime.checkpoints.save_changed()
    (letter,) = await letters(place)
    assert (letter["session"], letter["entry"]) == (str(session.id), "3-0")
    again = await admin(place, "dead-letters", "replay", letter["letter"])
    assert (again.returncode, "refuses it; the letter is kept" in again.stdout) == (1, True)

    mended = orjson.dumps(orjson.loads(letter["state"]) | {"position_ms": 3000})
    ((_, fields),) = await still_core.redis.xrange("dead:telemetry")
    await still_core.redis.xtrim("dead:telemetry", maxlen=0, approximate=False)
    await still_core.redis.xadd("dead:telemetry", fields | {b"state": mended})
    assert (await admin(place, "dead-letters", "replay", "--all")).returncode == 0
    assert (await still_core.row(session.id))["last_seq"] == 3
    assert await letters(place) == []


@pytest.mark.parametrize("arguments", [(), ("dead-letters",), ("dead-letters", "replay"), ("no-such-command",)])
async def test_a_command_line_that_makes_no_sense_is_refused_with_exit_code_2(
    place: Place, arguments: tuple[str]
) -> None:
    done = await admin(place, *arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_redis_that_is_away_is_told_in_one_line(place: Place) -> None:
    place.redis_url = "redis://127.0.0.1:1/0"
    done = await admin(place, "dead-letters", "list")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1

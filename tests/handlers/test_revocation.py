"""A new role or password bites at once on open sockets, in every process, whatever part is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

import aiohttp
import asyncpg
import pytest
from aiohttp import WSMsgType

from tests.support.app import AppClient, serving, settings
from tests.support.lectures import Lecture, make_lecture
from tests.support.people import PASSWORD, People, Person

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass
class Two:
    """Two processes' worth of application on the same parts."""

    here: AppClient
    there: AppClient
    lecture: Lecture


@pytest.fixture
async def two(postgres_dsn: str, redis_url: str) -> AsyncIterator[Two]:
    lecture = await make_lecture(postgres_dsn)
    unlimited = {name: {"rate": 0} for name in ("auth", "read", "write", "login_account", "login_address")}
    # The cache is as long as it may be: what ends sooner was told, not found.
    config = settings(postgres_dsn, redis_url, limits=unlimited, auth={"version_cache_s": 4.0})
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(serving(config)) for _ in range(2)]
        yield Two(here, there, lecture)


async def watch(person: Person, client: AppClient, lecture: Lecture) -> "aiohttp.ClientWebSocketResponse[bool]":
    """A session of the person's, its socket open at that process."""
    at = Person(client, token=person.token)
    await at.ask("POST", "/api/enrollments", {"course_id": str(lecture.course_id)})
    session = await at.make(f"/api/videos/{lecture.video_id}/sessions", {})
    socket = await client.ws_connect(
        f"/api/videos/ws/{session['session_id']}", protocols=("lectern.v1", f"bearer.{session['token']}")
    )
    assert (await socket.receive_json())["type"] == "hello"
    return socket


async def close_code(socket: "aiohttp.ClientWebSocketResponse[bool]") -> int | None:
    """What the server's close frame says; the client's own word for it suffers from how the connection ends."""
    async with asyncio.timeout(30):
        while (message := await socket.receive()).type is WSMsgType.TEXT:
            pass
    return message.data if message.type is WSMsgType.CLOSE else None


async def test_a_demotion_ends_sockets_and_tokens_in_every_process(two: Two, sql: Sql) -> None:
    people = People(two.here, sql)
    admin, ada, ben = (
        await people.join("root", "admin"),
        await people.join("ada", "instructor"),
        await people.join("ben"),
    )
    sockets = [await watch(ada, client, two.lecture) for client in (two.here, two.there)]
    others = await watch(ben, two.there, two.lecture)
    assert (await admin.post(f"/api/auth/users/{ada.id}/roles", {"role": "student"})).status == 200
    for socket in sockets:
        assert await close_code(socket) == 4401
    for client in (two.here, two.there):
        assert (await Person(client, token=ada.token).get("/api/auth/me")).status == 401
    assert not others.closed
    await others.close()


async def test_a_change_that_nobody_announced_is_found_when_the_cache_has_run_out(two: Two, sql: Sql) -> None:
    ada = await People(two.here, sql).join("ada")
    sockets = [await watch(ada, client, two.lecture) for client in (two.here, two.there)]
    await sql.execute("UPDATE users SET ver = ver + 1 WHERE username = 'ada'")
    codes = await asyncio.gather(*(close_code(socket) for socket in sockets))
    assert codes == [4401, 4401]


async def test_a_token_of_a_moment_ago_is_good_in_every_process(two: Two, sql: Sql) -> None:
    """Also where the user's new version is not known yet: nobody told it here."""
    ada = await People(two.here, sql).join("ada")
    there = Person(two.there, token=ada.token)
    assert (await there.get("/api/auth/me")).status == 200
    await sql.execute("UPDATE users SET ver = ver + 1 WHERE id = $1", ada.id)
    again = await ada.post("/api/auth/login", {"login": "ada", "password": PASSWORD})
    assert (await Person(two.there, token=again.body["access_token"]).get("/api/auth/me")).status == 200
    assert (await there.get("/api/auth/me")).status == 401

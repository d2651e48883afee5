"""A part behind the server goes away or hangs: what needs it is told so in time, the rest works, and all is well after.

Nothing is restarted but the part.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import pytest

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from server.config import Config
from server.data.migrate import migrate
from server.http.keys import REDIS
from tests.chaos.proxy import Proxy, unix_socket_of
from tests.support.app import AppClient, serving, settings
from tests.support.core import eventually
from tests.support.lectures import Lecture, frame, make_lecture
from tests.support.pausing import paused
from tests.support.people import PASSWORD, Answer, People, Person

PROMISED_S = 3.0
# The asking itself takes a moment on a busy machine.
SLACK_S = 7.0


@contextmanager
def stopped(server: Postgres | Valkey) -> Iterator[None]:
    """Not running for a while."""
    server.stop()
    try:
        yield
    finally:
        server.start()


@asynccontextmanager
async def gone(server: Postgres | Valkey, how: str) -> AsyncIterator[None]:
    """The server paused or stopped, without keeping the test's loop waiting."""
    outage = (paused if how == "paused" else stopped)(server)
    await asyncio.to_thread(outage.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(outage.__exit__, None, None, None)


@pytest.fixture
async def lecture(own_postgres: Postgres) -> Lecture:
    await migrate(own_postgres.dsn)
    return await make_lecture(own_postgres.dsn)


@pytest.fixture
def away() -> str:
    """The part of which the application waits no longer than the product does; for others a busy machine has time."""
    return "neither"


@pytest.fixture
async def client(own_postgres: Postgres, own_valkey: Valkey, lecture: Lecture, away: str) -> AsyncIterator[AppClient]:
    product, sections = Config(), {}
    if away == "postgres":
        sections = {"postgres": {"timeout_s": product.postgres.timeout_s}}
    elif away == "redis":
        redis = product.redis
        sections = {"redis": {"timeout_s": redis.timeout_s, "count_timeout_s": redis.count_timeout_s}}
    elif away == "redis, which may take its time":
        sections = {"redis": {"timeout_s": 20.0, "count_timeout_s": product.redis.count_timeout_s}}
    if sections:
        server = product.server
        sections["server"] = {"handler_timeout_s": server.handler_timeout_s, "ready_timeout_s": server.ready_timeout_s}
    async with serving(settings(own_postgres.dsn, own_valkey.url, **sections)) as client:
        yield client


@pytest.fixture
async def learner(client: AppClient, own_postgres: Postgres, lecture: Lecture) -> AsyncIterator[Person]:
    """A signed-in user who is enrolled in the lecture's course."""
    sql = await asyncpg.connect(own_postgres.dsn)
    person = await People(client, sql).join("ada")
    await person.make("/api/enrollments", {"course_id": str(lecture.course_id)})
    yield person
    sql.terminate()


async def timed(asked: Any) -> Answer:
    started = time.monotonic()
    answer: Answer = await asked
    assert time.monotonic() - started < PROMISED_S + SLACK_S, answer.body
    return answer


async def names(person: Person, part: str) -> bool:
    """Whether `/readyz` names this part as away. A probe that a pause fell into is 503 as well, and names none."""
    return await is_ready(person) == (503, [part])


async def is_ready(person: Person) -> tuple[int, list[str]]:
    answer = await timed(person.get("/readyz"))
    return answer.status, answer.body.get("parts", [])


async def ready(person: Person) -> bool:
    return await is_ready(person) == (200, [])


def of_postgres(person: Person, lecture: Lecture) -> list[Any]:
    """Reads, writes, transactions, with a token and without."""
    return [
        person.get("/api/courses"),
        person.get("/api/auth/me"),
        person.put(f"/api/progress/lectures/{lecture.lecture_id}", {"position": 1}),
        person.post("/api/enrollments", {"course_id": str(lecture.course_id)}),
        person.get(f"/api/videos/{lecture.video_id}"),
    ]


def sign_in(person: Person) -> Coroutine[Any, Any, Answer]:
    return person.post("/api/auth/login", {"login": "ada", "password": PASSWORD})


@pytest.mark.parametrize("away", ["postgres"])
@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_without_postgres_its_routes_are_503_in_time_and_well_again_after(
    how: str, learner: Person, lecture: Lecture, own_postgres: Postgres
) -> None:
    async with gone(own_postgres, how):
        for _ in range(2):
            # More than the pool holds.
            asked = [*of_postgres(learner, lecture), sign_in(learner), *of_postgres(learner, lecture)]
            for answer in await asyncio.gather(*(timed(one) for one in asked)):
                assert answer.status == 503, answer.body
                assert answer.code in ("database_unavailable", "timed_out")
                assert answer.headers["Retry-After"] == "1"
                assert answer.body["retryable"] is True
            await eventually(lambda: names(learner, "postgres"))
        for path in ("/livez", "/openapi.json", "/problems/not_found"):
            assert (await timed(learner.get(path))).status == 200
    await eventually(lambda: ready(learner))

    async def all_is_well() -> bool:
        answers = [await one for one in (*of_postgres(learner, lecture), sign_in(learner))]
        return all(answer.status in (200, 201) for answer in answers)

    await eventually(all_is_well)


async def test_while_postgres_takes_no_writes_reads_go_on_and_writes_are_503(
    learner: Person, lecture: Lecture, own_postgres: Postgres
) -> None:
    await asyncio.to_thread(own_postgres.execute, "ALTER SYSTEM SET default_transaction_read_only = on")
    await asyncio.to_thread(own_postgres.execute, "SELECT pg_reload_conf()")
    progress = f"/api/progress/lectures/{lecture.lecture_id}"

    async def write_answers(status: int) -> bool:  # Postgres hears of it in a moment
        return (await timed(learner.put(progress, {"position": 1}))).status == status

    await eventually(lambda: write_answers(503))
    answer = await timed(learner.put(progress, {"position": 1}))
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "database_unavailable", "1")
    assert (await timed(learner.get("/api/courses"))).status == 200
    await asyncio.to_thread(own_postgres.execute, "ALTER SYSTEM RESET default_transaction_read_only")
    await asyncio.to_thread(own_postgres.execute, "SELECT pg_reload_conf()")
    await eventually(lambda: write_answers(200))


async def test_while_postgres_lets_nobody_in_its_routes_are_503(
    learner: Person, lecture: Lecture, own_postgres: Postgres
) -> None:
    """As while a database is repaired or restored, or when somebody changed a password there first."""
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lectern'"
    await asyncio.to_thread(own_postgres.execute, "ALTER DATABASE lectern ALLOW_CONNECTIONS false")
    await asyncio.to_thread(own_postgres.execute, cut)
    for asked in (*of_postgres(learner, lecture), sign_in(learner)):
        answer = await timed(asked)
        assert (answer.status, answer.code) == (503, "database_unavailable"), answer.body
    assert await is_ready(learner) == (503, ["postgres"])
    await asyncio.to_thread(own_postgres.execute, "ALTER DATABASE lectern ALLOW_CONNECTIONS true")
    await eventually(lambda: ready(learner))
    for asked in of_postgres(learner, lecture):
        assert (await timed(asked)).status in (200, 201)


async def test_a_postgres_that_starts_anew_costs_nobody_an_error(
    learner: Person, lecture: Lecture, own_postgres: Postgres
) -> None:
    for _ in range(2):
        await asyncio.gather(*of_postgres(learner, lecture))  # as many connections as there may be
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.to_thread(own_postgres.start)
        for answer in await asyncio.gather(*of_postgres(learner, lecture)):
            assert answer.status in (200, 201), answer.body


async def test_a_connection_that_redis_has_closed_fails_nobody(postgres_dsn: str, redis_url: str) -> None:
    async with (
        Proxy(unix_socket_of(redis_url)) as proxy,  # by TCP, where redis-py can do more
        serving(settings(postgres_dsn, f"redis://127.0.0.1:{proxy.port}/0")) as client,
    ):
        for _ in range(2):
            assert all(await asyncio.gather(*(client.app[REDIS].ping() for _ in range(8))))
            proxy.cut()
            await client.get("/livez")  # until which the loop has seen the ends of all


@pytest.mark.parametrize("away", ["redis"])
@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_without_redis_only_telemetry_waits(
    how: str, learner: Person, lecture: Lecture, own_valkey: Valkey
) -> None:
    session = await learner.make(f"/api/videos/{lecture.video_id}/sessions", {})
    network = f"/api/videos/sessions/{session['session_id']}/network"
    assert (await learner.post(network, frame(1, 1.0))).status == 202
    async with gone(own_valkey, how):
        answer = await timed(learner.post(network, frame(2, 2.0)))
        assert (answer.status, answer.headers.get("Retry-After")) == (503, "1"), answer.body
        for asked in of_postgres(learner, lecture):
            assert (await timed(asked)).status in (200, 201)
        asked = learner.post("/api/chat/message", {"message": "What is a queue?"})
        assert (await timed(asked)).status == 200
        # Nobody signs in while wrong passwords cannot be counted.
        refused = await timed(sign_in(learner))
        assert (refused.status, refused.headers.get("Retry-After")) == (503, "1"), refused.body
        await eventually(lambda: names(learner, "redis"))
        changed = {"current_password": PASSWORD, "new_password": "another battery"}
        assert (await timed(learner.put("/api/auth/me/password", changed))).status == 204
    await eventually(lambda: ready(learner))
    pair = await learner.post("/api/auth/refresh", {"refresh_token": learner.refresh_token})
    learner.token = pair.body["access_token"]

    async def both_are_taken() -> bool:
        again = await learner.post(network, [frame(2, 2.0), frame(3, 3.0)])
        return again.status == 202 and again.body["accepted"] + again.body["duplicates"] == 2

    await eventually(both_are_taken)


@pytest.mark.parametrize(
    ("refuses", "takes_again"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    ],
    ids=["no memory", "no replicas", "a replica"],
)
async def test_while_redis_takes_no_writes_telemetry_is_503(
    refuses: str, takes_again: str, learner: Person, lecture: Lecture, own_valkey: Valkey
) -> None:
    session = await learner.make(f"/api/videos/{lecture.video_id}/sessions", {})
    network = f"/api/videos/sessions/{session['session_id']}/network"
    assert own_valkey.command(*refuses.split()) == b"+OK\r\n"
    answer = await learner.post(network, frame(1, 1.0))
    assert (answer.status, answer.code, answer.headers.get("Retry-After")) == (503, "redis_unavailable", "1")
    assert own_valkey.command(*takes_again.split()) == b"+OK\r\n"
    answer = await learner.post(network, frame(1, 1.0))
    assert (answer.status, answer.body["accepted"]) == (202, 1)


@pytest.mark.parametrize("away", ["redis, which may take its time"])
@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_without_redis_one_may_leave(how: str, learner: Person, own_valkey: Valkey) -> None:
    async with gone(own_valkey, how):
        answer = await timed(learner.delete("/api/auth/me", json={"current_password": PASSWORD}))
        assert answer.status == 204, answer.body
        assert (await timed(learner.get("/api/auth/me"))).status == 401


@pytest.mark.parametrize("away", ["redis, which may take its time"])
@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_without_redis_another_lecture_is_taken_over_and_what_was_said_is_forgotten(
    how: str, learner: Person, lecture: Lecture, own_valkey: Valkey
) -> None:
    path = f"/api/videos/{lecture.video_id}/sessions"
    first, *_ = [await learner.make(path, {}) for _ in range(Config().sessions.max_live_per_user)]
    assert (await learner.post("/api/chat/message", {"message": "What is a queue?"})).status == 200
    async with gone(own_valkey, how):
        await timed(learner.make(path, {"takeover": True}))
        assert (await timed(learner.delete(f"/api/chat/history/{learner.id}"))).status == 204
        assert (await timed(learner.get(f"/api/chat/history/{learner.id}"))).body["items"] == []
    ended = await learner.get(f"/api/videos/sessions/{first['session_id']}")
    assert ended.body["status"] == "ended"

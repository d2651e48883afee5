"""The whole application on real parts: what a start makes, and what a client gets at its edges."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from yarl import URL

from embedded.processes import ROOT
from embedded.s3 import ObjectStore
from handlers import uploads
from server.app import StartError, create_app
from server.config import Config
from server.data.jobs import Jobs
from server.http.keys import DATABASE, HTTP, OBJECTS, REDIS
from server.http.load import Load
from server.http.socket import Sockets
from server.http.watching import Watching
from server.services.outside import Service
from tests.support.app import AppClient, bearer, serving, settings
from tests.support.files import s3_settings
from tests.support.local_server import LocalServer

ADMIN = {"first_admin_email": "Boss@example.org", "first_admin_password": "a long first password"}


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str) -> AsyncIterator[AppClient]:
    async with serving(settings(postgres_dsn, redis_url)) as client:
        yield client


async def cannot_start(config: Config, message: str) -> None:
    runner = web.AppRunner(create_app(config))
    with pytest.raises(StartError, match=message):
        await runner.setup()
    await runner.cleanup()


async def login(client: AppClient, name: str, password: str) -> tuple[int, dict[str, Any]]:
    response = await client.post("/api/auth/login", json={"login": name, "password": password})
    return response.status, await response.json(content_type=None)


async def test_a_hundred_readers_of_a_store_s_files_are_in_nobody_s_way(client: AppClient) -> None:
    over, arrived = asyncio.Event(), 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        if request.path == "/file":
            await over.wait()
        return web.Response()

    outside = web.Application()
    outside.router.add_get("/{path}", answer)
    async with LocalServer(outside) as server:
        http = client.app[HTTP]
        reading = [asyncio.create_task(http.get(server.make_url("/file"))) for _ in range(100)]
        async with asyncio.timeout(30):
            while arrived < len(reading):  # noqa: ASYNC110  # nothing tells us
                await asyncio.sleep(0.01)
            async with http.get(server.make_url("/other")) as other:
                assert other.status == 200
        over.set()
        for answered in await asyncio.gather(*reading):
            answered.close()


async def test_the_first_admin_is_made_once_and_keeps_a_changed_password(postgres_dsn: str, redis_url: str) -> None:
    async with serving(settings(postgres_dsn, redis_url, auth=ADMIN)) as client:
        status, body = await login(client, "boss@example.org", ADMIN["first_admin_password"])
        assert (status, body["user"]["role"], body["user"]["username"]) == (200, "admin", "Boss")
    async with serving(settings(postgres_dsn, redis_url, auth=ADMIN | {"first_admin_password": "another"})) as client:
        assert (await login(client, "boss", ADMIN["first_admin_password"]))[0] == 200
        assert await client.app[DATABASE].fetchval("SELECT count(*) FROM users") == 1


async def test_the_first_admin_takes_a_free_name(postgres_dsn: str, redis_url: str) -> None:
    async with serving(settings(postgres_dsn, redis_url)) as client:
        await client.app[DATABASE].execute(
            "INSERT INTO users (username, email, password_hash) VALUES ('boss', 'x@example.org', '')"
        )
    async with serving(settings(postgres_dsn, redis_url, auth=ADMIN)) as client:
        assert (await login(client, "Boss-2", ADMIN["first_admin_password"]))[0] == 200


async def test_processes_that_start_together_make_one_admin(postgres_dsn: str, sql: Any, redis_url: str) -> None:
    config = settings(postgres_dsn, redis_url, auth=ADMIN)

    async def start() -> int:
        async with serving(config) as client:
            return (await client.get("/readyz")).status

    with capture_logs() as lines:
        assert await asyncio.gather(*(start() for _ in range(3))) == [200, 200, 200]
    assert await sql.fetchval("SELECT count(*) FROM users") == 1
    assert [line["username"] for line in lines if line["event"] == "first_admin_made"] == ["Boss"]


async def test_plans_are_what_the_settings_say_at_every_start(postgres_dsn: str, sql: Any, redis_url: str) -> None:
    course = await sql.fetchval(
        "WITH u AS (INSERT INTO users (username, email, password_hash) VALUES ('a', 'a@b.org', '') RETURNING id)"
        " INSERT INTO courses (creator_id, title) SELECT id, 'C' FROM u RETURNING id"
    )

    async def start(past_due_days: int, *plans: dict[str, Any]) -> list[tuple[Any, ...]]:
        config = settings(postgres_dsn, redis_url, payments={"past_due_days": past_due_days})
        config = Config.model_validate(config.model_dump(by_alias=True) | {"plans": plans})
        async with serving(config), serving(config):
            rows = await sql.fetch(
                "SELECT plan_name, monthly::text, covers_all, past_due_days, is_offered,"
                " ARRAY(SELECT course_id FROM plan_courses WHERE plan_id = p.id) FROM plans AS p ORDER BY plan_name"
            )
        return [tuple(row) for row in rows]

    price = {"monthly": "9.00", "yearly": "90.00", "currency": "usd"}
    some = price | {"plan_name": "some", "courses": [str(course), str(uuid4())]}
    assert await start(7) == []
    assert await start(7, price | {"plan_name": "all"}, some) == [
        ("all", "9.00", True, 7, True, []),
        ("some", "9.00", False, 7, True, [course]),
    ]
    assert await sql.fetchval("SELECT bool_and(updated_at = created_at) FROM plans"), (
        "and none is touched that is as it was"
    )
    assert await start(3, some | {"monthly": "5.00", "courses": []}) == [
        ("all", "9.00", True, 3, False, []),
        ("some", "5.00", False, 3, True, []),
    ]


async def test_a_model_s_client_that_cannot_be_made_is_told_at_the_start_and_spoils_no_end(
    postgres_dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise ImportError("as for a proxy in the environment that it does not speak to")

    monkeypatch.setattr("openai.AsyncOpenAI", refuse)
    with capture_logs() as logs:
        async with serving(settings(postgres_dsn, redis_url, openai={"api_key": "k", "base_url": "http://x"})):
            pass
    assert [line["log_level"] for line in logs if line["event"] == "model_not_connected"] == ["error"]


async def test_the_operators_page_names_every_kind_of_job(
    postgres_dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[str] = set()

    async def tell(jobs: Jobs) -> None:
        kinds.update(jobs._works)

    monkeypatch.setattr(Jobs, "run", tell)
    async with serving(settings(postgres_dsn, redis_url)):
        text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert len(kinds) > 15
    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in text] == []


async def test_no_two_circuit_breakers_tell_their_state_under_one_name(
    postgres_dsn: str, redis_url: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, names = Service.__init__, []

    def note(service: Service, name: str, *told: Any) -> None:
        names.append(name)
        make(service, name, *told)

    monkeypatch.setattr(Service, "__init__", note)
    async with serving(settings(postgres_dsn, redis_url, s3=s3_settings(object_store))):
        assert {"embeddings", "question_embeddings", "mail", "objects", "stripe", "video_host"} <= set(names)
    assert len(set(names)) == len(names), sorted(names)


async def test_what_goes_on_in_the_background_has_let_go_of_what_it_held_when_the_application_is_gone(
    postgres_dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let_go = [], []

    async def hold(jobs: Jobs) -> None:
        begun.append(jobs)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)  # as a process that is waited for
            let_go.append(jobs)

    monkeypatch.setattr(Jobs, "run", hold)
    async with serving(settings(postgres_dsn, redis_url)):
        assert begun
    assert set(let_go) == set(begun)


@pytest.mark.parametrize(
    ("part", "step"),
    [(Sockets, "look"), (Watching, "end_unentitled"), (uploads, "sweep"), (Load, "look")],
    ids=["silent peers and slow readers", "rights to watch", "what is swept", "overload"],
)
async def test_what_is_looked_after_is_so_still_after_an_error_that_nobody_foresaw_and_the_log_has_it(
    postgres_dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, part: Any, step: str
) -> None:
    whole, tries, again = getattr(part, step), [], asyncio.Event()

    def fail_once(*given: Any) -> Any:
        tries.append(given)
        if len(tries) == 1:
            raise LookupError("nobody foresaw this")
        again.set()
        return whole(*given)

    monkeypatch.setattr(part, step, fail_once)
    often = {"sessions": {"entitled_s": 0.05}, "jobs": {"reconcile_s": 0.05}}
    with capture_logs() as logs:
        async with serving(settings(postgres_dsn, redis_url, **often)):
            await asyncio.wait_for(again.wait(), 30)
    assert [line["log_level"] for line in logs if line["event"] == "task_failed"] == ["error"]


async def test_an_empty_database_is_migrated_by_the_start(empty_postgres_dsn: str, redis_url: str) -> None:
    async with serving(settings(empty_postgres_dsn, redis_url)) as client:
        assert (await client.get("/readyz")).status == 200


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"postgres": {"dsn": "postgresql:///x?host=/nowhere"}, "server": {"start_timeout_s": 0.2}}, "did not answer"),
        ({"postgres": {"dsn": "mysql://x"}}, "postgres.dsn.*mysql"),
        ({"postgres": {"dsn": "postgresql://x:port/y"}}, "postgres.dsn"),
        ({"redis": {"url": "http://x"}}, "redis.url"),
        ({"redis": {"url": "redis://x?no_such_option=1"}}, "redis.url.*no_such_option"),
        ({"redis": {"url": "rediss://x?ssl_cert_reqs=maybe"}}, "redis.url.*maybe"),
        ({"s3": {"access_key": "a", "secret_key": "b", "region": "no region!"}}, "s3.*no region!"),
        ({"cloudflare": {"signing_key_pem": "nonsense"}}, "signing_key_pem"),
    ],
)
async def test_a_start_that_cannot_succeed_says_why(
    postgres_dsn: str, redis_url: str, sections: dict[str, dict[str, Any]], message: str
) -> None:
    await cannot_start(settings(postgres_dsn, redis_url, **sections), message)


async def test_a_database_that_is_not_there_is_told_as_such(postgres_dsn: str, redis_url: str) -> None:
    await cannot_start(settings(postgres_dsn.replace("/test_", "/no_such_test_"), redis_url), "does not exist")


async def test_the_bucket_is_made_at_the_start_of_whichever_process_is_first(
    postgres_dsn: str, redis_url: str, object_store: ObjectStore
) -> None:
    s3 = {
        "endpoint_url": object_store.endpoint_url,
        "access_key": object_store.access_key,
        "secret_key": object_store.secret_key,
        "bucket": "made-by-the-start",
    }

    async def start() -> None:
        async with serving(settings(postgres_dsn, redis_url, s3=s3)) as client:
            store = client.app[OBJECTS]
            assert store is not None
            names = [bucket["Name"] for bucket in (await store._client.list_buckets())["Buckets"]]
            assert "made-by-the-start" in names

    await asyncio.gather(*(start() for _ in range(3)))
    await start()  # one that comes later finds it


async def test_a_store_that_is_away_does_not_keep_the_server_from_starting(postgres_dsn: str, redis_url: str) -> None:
    s3 = {"endpoint_url": "http://127.0.0.1:9", "access_key": "a", "secret_key": "b", "timeout_s": 1}
    async with serving(settings(postgres_dsn, redis_url, s3=s3)) as client:
        assert (await client.get("/readyz")).status == 200


async def test_a_redis_that_is_away_does_not_keep_the_server_from_starting(postgres_dsn: str) -> None:
    async with serving(settings(postgres_dsn, "redis://127.0.0.1:9")) as client:
        assert (await client.get("/readyz")).status == 503
        assert (await client.get("/api/courses")).status == 200


async def test_without_a_configured_store_there_is_none(client: AppClient) -> None:
    assert client.app[OBJECTS] is None


async def test_every_route_of_the_document_answers_and_never_with_a_500(client: AppClient) -> None:
    document = await (await client.get("/openapi.json")).json()
    fill = "01234567-89ab-7def-8123-456789abcdef"
    headers = bearer(client.app, "admin")
    asked = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            url = "/".join(fill if part.startswith("{") else part for part in path.split("/"))
            for body in (None, b"", b"{}", b"[]", b"null", b'{"a": "\\u0000"}', b"{", b"\xff"):
                kind = {} if body is None else {"Content-Type": "application/json"}
                for sent in (headers | kind, kind):
                    response = await client.request(method.upper(), url, data=body, headers=sent)
                    assert response.status != 500, (method, path, body)
                    known = operation["responses"]
                    assert str(response.status) in known, (method, path, body, response.status)
                    if response.status >= 400:
                        code = json.loads(await response.read())["code"]
                        schema = known[str(response.status)]["content"]["application/problem+json"]["schema"]
                        assert code in schema["allOf"][1]["properties"]["code"]["enum"], (method, path, code)
                    asked += 1
    assert asked > 500


async def test_every_path_refuses_other_methods_and_names_its_own(client: AppClient) -> None:
    document = await (await client.get("/openapi.json")).json()
    fill = "01234567-89ab-7def-8123-456789abcdef"
    for path, operations in document["paths"].items():
        url = "/".join(fill if part.startswith("{") else part for part in path.split("/"))
        known = {method.upper() for method in operations}
        known |= {"HEAD"} if "GET" in known and "x-websocket" not in operations["get"] else set()
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - known:
            response = await client.request(method, url, data=b"{")
            assert response.status == 405, (method, path)
            assert set(response.headers["Allow"].split(",")) == known, (method, path)
            assert response.content_type == "application/problem+json"
        if "HEAD" in known:
            head, got = await client.head(url), await client.get(url)
            assert head.status == got.status, path
            assert head.content_type == got.content_type
            assert await head.read() == b""


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/api/courses/", "/api//courses", "/api/courses/x", "/API/courses", "/api/courses%2F", "/%zz",
     "/a%00b", "/api/courses/01234567-89ab-7def-8123-456789abcdef/x", "/api/courses;x=1", "/..%2f..%2fetc/passwd",
     "/%ff%fe"],
)  # fmt: skip
async def test_what_is_not_there_is_a_404_problem_by_any_method(client: AppClient, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        response = await client.request(method, URL(path, encoded=True), data=b"x" * 10_000)
        assert (response.status, response.content_type) == (404, "application/problem+json")
        if method != "HEAD":
            assert (await response.json(content_type=None))["code"] == "not_found"


async def test_whoever_finds_all_connections_to_redis_busy_waits_for_one(postgres_dsn: str, redis_url: str) -> None:
    async with serving(settings(postgres_dsn, redis_url, redis={"pool_size": 2})) as client:
        answers = await asyncio.gather(*(client.app[REDIS].echo(str(n)) for n in range(50)))
        assert answers == [b"%d" % n for n in range(50)]

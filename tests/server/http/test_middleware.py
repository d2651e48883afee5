import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server import metrics
from server.http.problems import Conflict
from server.http.routing import ANONYMOUS, Body, Call, Routes
from server.logs import request_id
from tests.support.app import AppClient, bare_app

routes = Routes("edge")


@routes.get("/fine", role=ANONYMOUS, rate=None)
async def fine(_call: Call[None]) -> Any:
    return {"request_id": request_id.get()}


@routes.get("/broken", role=ANONYMOUS, rate=None)
async def broken(_call: Call[None]) -> None:
    raise RuntimeError("SELECT password FROM users")


class Text(Body):
    text: str


@routes.post("/text", role=ANONYMOUS, rate=None, body=Text)
async def take_text(_call: Call[Text]) -> None:
    raise AssertionError("it never arrives")


@routes.get("/moved", role=ANONYMOUS, rate=None)
async def moved(_call: Call[None]) -> None:
    raise web.HTTPFound("/fine")


@routes.get("/page", role=ANONYMOUS, rate=None, produces="text/html")
async def a_page(_call: Call[None]) -> web.Response:
    return web.Response(text="<p>", content_type="text/html", headers={"Cache-Control": "no-cache"})


@routes.get("/half", role=ANONYMOUS, rate=None)
async def half(call: Call[None]) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(call.request)
    await response.write(b"half")
    raise Conflict


@routes.socket("/socket", role=ANONYMOUS, rate=None)
async def socket(call: Call[None]) -> web.StreamResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(call.request)
    await ws.close()
    return ws


@routes.socket("/late", role=ANONYMOUS, rate=None)
async def late_socket(call: Call[None]) -> web.StreamResponse:
    while call.request.transport is not None:  # noqa: ASYNC110  # nothing tells us
        await asyncio.sleep(0.01)
    return await socket(call)


@pytest.fixture
async def client() -> AsyncIterator[AppClient]:
    app = bare_app(
        routes,
        server={"allowed_origins": ["https://pages.example"], "public_url": "https://learn.example"},
        cloudflare={"customer_domain": "videos.example", "api_base": "http://127.0.0.1:9/client/v4"},
    )
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.parametrize("given", ["abc", "A-z.0_9", "x" * 128])
async def test_a_sane_request_id_is_kept_and_reaches_the_handler(client: AppClient, given: str) -> None:
    response = await client.get("/fine", headers={"X-Request-Id": given})
    assert response.headers["X-Request-Id"] == given
    assert (await response.json())["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "é", 'a"b', "a/b", None])
async def test_any_other_request_gets_an_id_of_ours(client: AppClient, given: str | None) -> None:
    response = await client.get("/fine", headers={} if given is None else {"X-Request-Id": given})
    assert UUID(response.headers["X-Request-Id"])


async def test_every_answer_has_an_id_and_is_not_to_be_sniffed_or_kept(client: AppClient) -> None:
    for path in ("/fine", "/broken", "/nowhere", "/moved"):
        headers = (await client.get(path, allow_redirects=False)).headers
        assert headers["X-Request-Id"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Strict-Transport-Security"]
        assert "Server" not in headers
    ws = await client.ws_connect("/socket")
    assert ws._response.headers["X-Request-Id"]
    await ws.close()


async def test_an_unforeseen_error_says_nothing_but_its_id_and_is_counted(client: AppClient) -> None:
    before = metrics.HTTP_UNFORESEEN.labels("/broken")._value.get()
    response = await client.get("/broken")
    body = await response.json(content_type="application/problem+json")
    assert (response.status, body["code"]) == (500, "internal_error")
    assert "SELECT" not in await response.text()
    assert "Traceback" not in await response.text()
    assert metrics.HTTP_UNFORESEEN.labels("/broken")._value.get() == before + 1


OPENING = (
    b"GET /late HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [("POST", "/text", b"POST /text HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"), ("GET", "/late", OPENING)],
    ids=["in the middle of a body", "before its socket is open"],
)
async def test_who_hangs_up_is_no_failure_of_ours(method: str, path: str, sent: bytes) -> None:
    left, unforeseen = metrics.HTTP_REQUESTS.labels(method, path, "499"), metrics.HTTP_UNFORESEEN.labels(path)
    before = left._value.get(), unforeseen._value.get()
    runner = web.AppRunner(bare_app(routes))  # unlike a TestServer it ends no handler whose client is gone
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        _, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(sent)
        await writer.drain()
        writer.close()
        async with asyncio.timeout(30):
            while left._value.get() == before[0]:  # noqa: ASYNC110  # nothing tells us
                await asyncio.sleep(0.01)
    finally:
        await runner.cleanup()
    assert unforeseen._value.get() == before[1]


async def test_an_error_after_half_an_answer_cuts_the_connection(client: AppClient) -> None:
    with pytest.raises(Exception, match="payload"):
        await (await client.get("/half")).read()


async def test_requests_are_counted_by_route_and_unknown_ones_together(client: AppClient) -> None:
    known = metrics.HTTP_REQUESTS.labels("GET", "/fine", "200")._value
    unknown = metrics.HTTP_REQUESTS.labels("other", "none", "404")._value
    before = known.get(), unknown.get()
    for path in ("/fine", "/a", "/b"):
        await client.get(path)
    assert (known.get(), unknown.get()) == (before[0] + 1, before[1] + 2)


async def test_pages_may_load_only_from_us_and_the_video_host(client: AppClient) -> None:
    response = await client.get("/page")
    policy = dict(re.findall(r"([a-z-]+) ([^;]*)", response.headers["Content-Security-Policy"]))
    assert policy["default-src"] == "'self'"
    assert {"'self'", "blob:", "https://videos.example"} <= set(policy["media-src"].split())
    assert "*" not in response.headers["Content-Security-Policy"]
    assert policy["worker-src"] == "'self' blob:"
    for origin in ("'self'", "https://videos.example", "http://127.0.0.1:9", "wss://learn.example"):
        assert origin in policy["connect-src"].split()
    assert "'unsafe-inline'" not in policy.get("script-src", policy["default-src"])
    assert response.headers["Cache-Control"] == "no-cache"
    assert "Content-Security-Policy" not in (await client.get("/fine")).headers


async def test_a_listed_origin_may_read_answers_and_send_what_the_api_takes(client: AppClient) -> None:
    origin = {"Origin": "https://pages.example"}
    response = await client.get("/fine", headers=origin)
    assert response.headers["Access-Control-Allow-Origin"] == "https://pages.example"
    assert response.headers["Vary"] == "Origin"
    assert {"X-Request-Id", "Accept-Ranges", "Content-Range", "Content-Disposition"} <= set(
        response.headers["Access-Control-Expose-Headers"].split(", ")
    )
    preflight = await client.options("/fine", headers=origin | {"Access-Control-Request-Method": "PUT"})
    assert preflight.status == 204
    assert "PUT" in preflight.headers["Access-Control-Allow-Methods"]
    assert {"Authorization", "Idempotency-Key", "If-None-Match", "Range", "If-Range"} <= set(
        preflight.headers["Access-Control-Allow-Headers"].split(", ")
    )
    assert (await client.get("/nowhere", headers=origin)).headers["Access-Control-Allow-Origin"]


async def test_another_origin_gets_no_leave(client: AppClient) -> None:
    origin = {"Origin": "https://evil.example"}
    response = await client.get("/fine", headers=origin)
    assert "Access-Control-Allow-Origin" not in response.headers
    preflight = await client.options("/fine", headers=origin | {"Access-Control-Request-Method": "PUT"})
    assert preflight.status == 403
    assert (await preflight.json(content_type="application/problem+json"))["code"] == "origin_refused"


async def test_one_connection_carries_the_id_of_each_of_its_requests(client: AppClient) -> None:
    async def ask(name: str) -> str:
        response = await client.get("/fine", headers={"X-Request-Id": name})
        return str((await response.json())["request_id"])

    names = [f"r{n}" for n in range(20)]
    assert await asyncio.gather(*(ask(name) for name in names)) == names

"""Bytes on a socket that no HTTP library would send: each is answered by a problem, and the server goes on."""

import asyncio
import gzip
import json
import re
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from server import metrics
from server.http.protocol import Runner
from server.http.routing import ANONYMOUS, Body, Call, Routes
from server.services.outside import ServiceAway
from tests.support.app import bare_app
from tests.support.core import eventually

routes = Routes("wire")
HEAD = b" HTTP/1.1\r\nHost: x\r\n"
JSON = b"Content-Type: application/json\r\n"
BODY = b'{"text":"a"}'


class Said(Body):
    text: str


@routes.post("/said", role=ANONYMOUS, rate=None, body=Said)
async def say(call: Call[Said]) -> Any:
    return {"length": len(call.body.text)}


@routes.get("/said", role=ANONYMOUS, rate=None)
async def hear(_call: Call[None]) -> Any:
    return {}


@routes.get("/half", role=ANONYMOUS, rate=None)
async def half(call: Call[None]) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = 8
    await response.prepare(call.request)
    await response.write(b"half")
    raise ServiceAway("the store ended in mid-file")


@asynccontextmanager
async def listening(
    *, body_timeout_s: float = 30.0, keepalive_s: float = 30.0, seen: list[web.Request] | None = None
) -> AsyncIterator[int]:
    """The port of a server that waits so long; every request that is answered is put into `seen`."""
    app = bare_app(routes, server={"body_timeout_s": body_timeout_s})

    async def see(request: web.Request, _response: web.StreamResponse) -> None:
        if seen is not None:
            seen.append(request)

    app.on_response_prepare.append(see)
    runner = Runner(app, access_log=None, keepalive_timeout=keepalive_s)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with listening() as port:
        yield port


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def tell(port: int, sent: bytes) -> tuple[int, dict[str, str], Any]:
    """The first answer: status, headers and JSON."""
    async with connected(port) as (reader, writer):
        writer.write(sent)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:]) if name}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(lines[0].split()[1]), headers, json.loads(body or b"null")


def posted(headers: bytes, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"POST /said" + HEAD + JSON + headers + b"Content-Length: %d\r\n\r\n" % size + body


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(60) + b"\r\n\r\n",
        b"GET /said HTTP/9.9\r\nHost: x\r\n\r\n",
        b"BREW /said HTTP/9.9\r\nHost: x\r\n\r\n",
        b"B(EW /said" + HEAD + b"\r\n",
        b"GET /said HTTP/1.1\r\n\r\n",
        b"GET /said HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /s\xfcd" + HEAD + b"\r\n",
        b"GET http://[::1/said" + HEAD + b"\r\n",
        b"GET /said" + HEAD + b"X-A: a\r\n folded\r\n\r\n",
        b"GET /said" + HEAD + b"X-A : a\r\n\r\n",
        b"GET /said" + HEAD + b"X-A: a\0b\r\n\r\n",
        b"GET /said" + HEAD + b"X-A: a\rX-B: b\r\n\r\n",
        b"GET /said" + HEAD + b"X-A: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 70_000 + HEAD + b"\r\n",
        posted(b"Content-Length: 12\r\n", BODY),
        posted(b"Content-Length: 13\r\n", BODY),
        posted(b"Transfer-Encoding: chunked\r\n", BODY),
        b"POST /said" + HEAD + JSON + b"Content-Length: -1\r\n\r\n",
        b"POST /said" + HEAD + JSON + b"Content-Length: 99999999999999999999\r\n\r\n",
        b"POST /said" + HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /said" + HEAD + JSON + b"Transfer-Encoding: identity\r\n\r\n",
        posted(b"Content-Encoding: gzip\r\n", BODY),
        posted(b"Expect: tea\r\n", BODY),
        posted(b"Expect: t\xe9\r\n", BODY),
    ],
)
async def test_what_is_not_http_is_a_problem_without_an_echo(port: int, sent: bytes) -> None:
    status, headers, problem = await tell(port, sent)
    assert (status, problem["code"]) == (400, "malformed_request")
    assert headers["content-type"].startswith("application/problem+json")
    assert problem["request_id"] == headers["x-request-id"]
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    assert "aiohttp" not in headers.get("server", "")
    assert "aaaa" not in problem["detail"]
    assert (await tell(port, posted(b"", BODY)))[2] == {"length": 1}, "the next client is served"


@pytest.mark.parametrize("method", [b"BREW", b"GETS", b"get", b"B'EW"])
async def test_a_method_that_nobody_has_heard_of_is_405(port: int, method: bytes) -> None:
    status, headers, problem = await tell(port, method + b" /said?secret" + HEAD + b"X-Request-Id: mine\r\n\r\n")
    assert (status, problem["code"]) == (405, "method_not_allowed")
    assert headers["allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE"
    assert "secret" not in str(problem)


async def test_what_aiohttp_refuses_by_itself_has_the_clients_id_too(port: int) -> None:
    _, headers, problem = await tell(port, posted(b"Expect: tea\r\nX-Request-Id: mine\r\n", BODY))
    assert (headers["x-request-id"], problem["request_id"], problem["instance"]) == ("mine", "mine", "/said")


async def test_a_head_that_is_too_long_is_told_as_such(port: int) -> None:
    _, _, problem = await tell(port, b"GET /said" + HEAD + b"X-A: " + b"a" * 9000 + b"\r\n\r\n")
    assert problem["detail"] == "A line of the request's head is too long."


@pytest.mark.parametrize("encoding", [b"rot13", b"br", b"zstd", b"gzip, gzip"])
async def test_a_body_in_an_encoding_that_is_not_read_is_415(port: int, encoding: bytes) -> None:
    status, headers, problem = await tell(port, posted(b"Content-Encoding: %s\r\n" % encoding, BODY))
    assert (status, problem["code"]) == (415, "unsupported_media_type")
    assert "gzip" in headers["accept-encoding"]


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"rot13"])
@pytest.mark.parametrize("verb", [b"POST", b"GET"])
async def test_who_is_hung_up_on_is_told_so_and_the_others_may_go_on(port: int, verb: bytes, encoding: bytes) -> None:
    """What a body in an encoding that it lies about leaves behind is no place where a next request may begin."""
    lying = posted(b"Content-Encoding: %b\r\n" % encoding, b"not encoded at all").replace(b"POST", verb)
    async with connected(port) as (reader, writer):
        writer.write(lying)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"connection: close" in head or head.startswith(b"http/1.0"):
            assert b"http/1" not in (await reader.read()).lower()
            return
        writer.write(b"GET /said" + HEAD + b"Connection: close\r\n\r\n")
        assert b"HTTP/1.1 200 OK" in await reader.read()


async def test_a_body_may_be_gzipped_and_chunked_and_is_limited_as_it_unfolds(port: int) -> None:
    small, bomb = gzip.compress(BODY), gzip.compress(b'{"text":"' + b"a" * 20_000_000 + b'"}')
    assert (await tell(port, posted(b"Content-Encoding: gzip\r\n", small)))[2] == {"length": 1}
    assert (await tell(port, posted(b"Content-Encoding: gzip\r\n", bomb)))[0] == 413
    chunked = b"POST /said" + HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\nc\r\n" + BODY + b"\r\n0\r\n\r\n"
    assert (await tell(port, chunked))[2] == {"length": 1}


@pytest.mark.parametrize("asked", [b"POST /nowhere", b"GET /said"])
async def test_what_nobody_reads_is_not_unpacked_to_come_to_the_next_request(asked: bytes) -> None:
    bomb = posted(b"Content-Encoding: gzip\r\n", gzip.compress(bytes(20_000_000))).replace(b"POST /said", asked)
    seen: list[web.Request] = []
    async with listening(seen=seen) as port, connected(port) as (reader, writer):
        writer.write(bomb + b"GET /said" + HEAD + b"\r\n")
        assert b"connection: close" in (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b"HTTP/1.1" not in await reader.read()
        [request] = seen
        assert request.content.total_bytes < 2_000_000


async def test_a_body_of_one_mebibyte_is_taken_and_one_byte_more_is_not(port: int) -> None:
    def body(size: int) -> bytes:
        return b'{"text":"' + b"a" * (size - 11) + b'"}'

    assert (await tell(port, posted(b"", body(1 << 20))))[0] == 200
    assert (await tell(port, posted(b"", body((1 << 20) + 1))))[0] == 413


async def test_a_body_that_will_be_too_large_is_refused_before_it_is_sent(port: int) -> None:
    status, _, problem = await tell(port, posted(b"", b"{", length=2_000_000))
    assert (status, problem["code"]) == (413, "body_too_large")


async def test_a_body_that_stops_arriving_is_408() -> None:
    async with listening(body_timeout_s=0.3) as port:
        assert (await tell(port, posted(b"", BODY[:4], length=100)))[0] == 408


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        (b"Transfer-Encoding: chunked", b"no size\r\n"),
        (b"Transfer-Encoding: chunked", b"3\r\n{}{}{}\r\n"),
        (b"Content-Encoding: deflate\r\nContent-Length: 15", zlib.compress(BODY)[:15]),
        (b"Content-Encoding: gzip\r\nContent-Length: 12", BODY),
    ],
    ids=["a chunk without a size", "a chunk that does not end", "deflated, in part", "not gzipped"],
)
@pytest.mark.parametrize("expected", [False, True], ids=["with its head", "when its head was read"])
async def test_a_body_that_cannot_be_read_is_400_at_once(
    port: int, said: bytes, sent: bytes, *, expected: bool
) -> None:
    async with connected(port) as (reader, writer):
        writer.write(b"POST /said" + HEAD + JSON + said + b"\r\n" + b"Expect: 100-continue\r\n" * expected + b"\r\n")
        if expected:
            assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        text = (await reader.read()).decode()
    assert re.findall(r"HTTP/1\.[01] (\d+)", text) == ["400"]


async def test_requests_sent_without_waiting_are_answered_in_order(port: int) -> None:
    one, two, last = (b"GET %s" % path + HEAD for path in (b"/said", b"/nowhere", b"/said"))
    async with connected(port) as (reader, writer):
        writer.write(one + b"\r\n" + two + b"\r\n" + last + b"Connection: close\r\n\r\n")
        text = (await reader.read()).decode()
    assert re.findall(r"HTTP/1\.1 (\d+)", text) == ["200", "404", "200"]


@pytest.mark.parametrize("sent", [b"", b"GET /said HTTP/1.1\r\nX-A: ", b"GET /said" + HEAD + b"\r\nGET /said HTT"])
async def test_a_connection_on_which_no_whole_request_arrives_is_closed(sent: bytes) -> None:
    async with listening(keepalive_s=0.5) as port, connected(port) as (reader, writer):
        writer.write(sent)
        # None where the machine stood still for so long.
        assert (await reader.read()).count(b" 200 OK") in (0, sent.count(b"\r\n\r\n"))


async def test_a_body_that_cannot_be_decoded_leaves_no_trace_in_the_log(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(port) as (reader, writer):
        writer.write(posted(b"Content-Encoding: gzip\r\n", BODY))
        await reader.read()
    assert "Traceback" not in caplog.text


async def test_who_leaves_in_the_middle_of_a_body_leaves_no_error_in_the_log(port: int) -> None:
    left = metrics.HTTP_REQUESTS.labels("POST", "/said", "499")._value
    before = left.get()
    with capture_logs() as logged:
        async with connected(port) as (_, writer):
            writer.write(posted(b"", BODY[:4], length=100))
            await writer.drain()
        await eventually(lambda: left.get() != before)
        assert (await tell(port, posted(b"", BODY)))[0] == 200, "by then it was seen to"
    assert [line["event"] for line in logged if line["log_level"] == "error"] == []


async def test_a_part_that_fails_in_the_middle_of_an_answer_cuts_it_and_is_told_the_log_once(port: int) -> None:
    with capture_logs() as logs:
        async with connected(port) as (reader, writer):
            writer.write(b"GET /half" + HEAD + b"\r\n")
            answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n\r\nhalf")
    assert [(line["event"], line["log_level"]) for line in logs] == [("upstream_unavailable", "warning")]

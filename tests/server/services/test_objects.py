"""The store's client: what is signed for whom, and what a store that is away means. What it does is in
`tests/handlers/test_files.py`."""

import asyncio
import io
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web

from embedded.s3 import ObjectStore
from server.config import S3
from server.services.objects import Objects, Part
from server.services.outside import ServiceAway, ServiceHasNone, ServiceRefused, ServiceSlow
from tests.support.files import s3_settings
from tests.support.local_server import LocalServer


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        ({"region": "eu-central-1"}, "https://s3.eu-central-1.amazonaws.com"),
        ({"endpoint_url": "https://x.r2.cloudflarestorage.com", "region": "auto"}, "https://x.r2.cloudflarestorage.com"),
        ({"endpoint_url": "http://minio:9000", "public_endpoint_url": "https://s3.example.org"}, "https://s3.example.org"),
    ],
)  # fmt: skip
async def test_addresses_are_signed_for_the_store_as_clients_know_it(
    http: aiohttp.ClientSession, settings: dict[str, str], origin: str
) -> None:
    store = await Objects.open(S3(access_key="key", secret_key="secret", **settings), http)
    url = await store.sign_download("a/b", content_type="text/plain", disposition="inline", ttl_s=300)
    (part,) = await store.sign_parts("a/b", "upload", [7], 86_400)
    await store.close()
    for address, members in ((url, {"X-Amz-Expires": "300"}), (part, {"X-Amz-SignedHeaders": "content-length;host"})):
        parts = urlsplit(address)
        assert (f"{parts.scheme}://{parts.netloc}", parts.path) == (origin, "/lectern/a/b")
        query = parse_qs(parts.query)
        assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
        assert {name: query[name][0] for name in members} == members


async def test_what_is_not_there_and_who_is_refused_are_told_apart_from_who_is_away(
    http: aiohttp.ClientSession, object_store: ObjectStore
) -> None:
    settings = S3(**s3_settings(object_store))
    store = await Objects.open(settings, http)
    with pytest.raises(ServiceHasNone):
        await store.size_of("private/none")
    with pytest.raises(ServiceHasNone):
        await store.read_head("private/none", 10)
    await store.put("private/some", io.BytesIO(b"hello"), 5, "text/plain")
    assert (await store.size_of("private/some"), await store.read_head("private/some", 3)) == (5, b"hel")
    await store.remove("private/some", "private/some")
    await store.close()
    stranger = await Objects.open(settings.model_copy(update={"secret_key": "x" * 40}), http)
    with pytest.raises(ServiceRefused):
        await stranger.put("private/some", io.BytesIO(b"hello"), 5, "text/plain")
    await stranger.close()
    away = await Objects.open(settings.model_copy(update={"endpoint_url": "http://127.0.0.1:9"}), http)
    for asking in (away.size_of("a"), away.put("a", io.BytesIO(b"x"), 1, "text/plain"), away.read_head("a", 1)):
        with pytest.raises(ServiceAway):
            await asking
    await away.close()


async def test_a_page_in_place_of_the_store_is_no_answer_of_its(http: aiohttp.ClientSession) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="<html>Please sign in</html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with LocalServer(app) as server:
        settings = S3(access_key="key", secret_key="secret", endpoint_url=str(server.make_url("")), timeout_s=20)
        store = await Objects.open(settings, http)
        for asking in (
            store.begin_upload("private/a", "text/plain"),
            store.list_parts("private/a", "upload"),
            store.finish_upload("private/a", "upload", [Part(1, 5, "etag")]),
            store.put("private/a", io.BytesIO(b"hello"), 5, "text/plain"),
            store.size_of("private/a"),
            store.read_head("private/a", 5),
            store.fetch("private/a", io.BytesIO(), 100),
            store.remove("private/a", "private/a"),
        ):
            with pytest.raises(ServiceAway):
                await asking
        await store.close()


async def test_what_a_store_takes_long_for_keeps_nobody_else_waiting(http: aiohttp.ClientSession) -> None:
    over, arrived = asyncio.Event(), 0

    async def finish(_: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        await over.wait()
        return web.Response(text='<A><ETag>"some"</ETag></A>', content_type="application/xml")

    async def tell(_: web.Request) -> web.Response:
        return web.Response(body=b"hello", headers={"ETag": '"some"'})

    app = web.Application()
    app.router.add_post("/{path:.*}", finish)
    app.router.add_get("/{path:.*}", tell)
    async with LocalServer(app) as server:
        settings = S3(access_key="key", secret_key="secret", endpoint_url=str(server.make_url("")), timeout_s=20)
        store = await Objects.open(settings, http)
        finishing = [asyncio.create_task(store.finish_upload(f"private/{n}", "upload", [])) for n in range(12)]
        async with asyncio.timeout(30):
            while arrived < 10:  # noqa: ASYNC110  # nothing tells us
                await asyncio.sleep(0.01)
        assert await store.size_of("private/a") == 5
        over.set()
        await asyncio.gather(*finishing)
        await store.close()


async def test_a_store_that_stops_in_mid_object_is_slow(http: aiohttp.ClientSession) -> None:
    over = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10", "ETag": '"some"'})
        await response.prepare(request)
        await response.write(b"half")
        await over.wait()
        return response

    app = web.Application()
    app.router.add_get("/lectern/{key:.*}", answer)
    async with LocalServer(app) as server:
        settings = S3(access_key="key", secret_key="secret", endpoint_url=str(server.make_url("")), timeout_s=0.2)
        store = await Objects.open(settings, http)
        for reading in (store.read_head("private/a", 10), store.fetch("private/a", io.BytesIO(), 10)):
            with pytest.raises(ServiceSlow):
                await reading
        over.set()
        await store.close()


@pytest.mark.parametrize("tells_size", [True, False])
async def test_no_more_is_copied_than_is_allowed_whatever_the_store_tells(
    http: aiohttp.ClientSession, tells_size: bool
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"some"'})
        size_bytes = 5 if request.path.endswith("small") else 100_000_000
        if tells_size:
            response.content_length = size_bytes
        else:
            response.enable_chunked_encoding()
        await response.prepare(request)
        for at in range(0, size_bytes, 100_000):
            await response.write(b"x" * min(100_000, size_bytes - at))
        return response

    app = web.Application()
    app.router.add_get("/lectern/{key:.*}", answer)
    async with LocalServer(app) as server:
        settings = S3(access_key="key", secret_key="secret", endpoint_url=str(server.make_url("")))
        store = await Objects.open(settings, http)
        whole, cut = io.BytesIO(), io.BytesIO()
        await store.fetch("private/small", whole, 5)
        with pytest.raises(ServiceRefused, match="larger than 1000000 bytes"):
            await store.fetch("private/large", cut, 1_000_000)
        await store.close()
    assert whole.getvalue() == b"xxxxx"
    assert len(cut.getvalue()) <= 1_000_000

"""Embeddings: vectors that fit what was asked, or one of our errors, whatever the endpoint answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from server.config import OpenAI
from server.services.embeddings import Embedder
from server.services.outside import ServiceAway, ServiceNotConfigured, ServiceRefused
from tests.support.language_model import speaking
from tests.support.local_server import LocalServer


@asynccontextmanager
async def asking(answer: bytes, status: int = 200) -> AsyncIterator[Embedder]:
    """An embedder whose endpoint always answers this."""

    async def embed(_request: web.Request) -> web.Response:
        return web.Response(body=answer, status=status)

    app = web.Application()
    app.router.add_post("/v1/embeddings", embed)
    async with LocalServer(app) as server, aiohttp.ClientSession() as http:
        settings = OpenAI(base_url=str(server.make_url("/v1")), api_key="x", embedding_model="x")
        yield Embedder(http, settings)


async def test_each_text_has_its_vector_in_their_order() -> None:
    async with speaking() as model, aiohttp.ClientSession() as http:
        embedder = Embedder(http, OpenAI(**model.settings))
        queues, stacks = await embedder.embed(["queues", "stacks"])
        assert await embedder.embed(["stacks"]) == [stacks]
    assert len(queues) == len(stacks)
    assert queues != stacks


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>The proxy is at lunch.</html>", b"", b"\xff", b"null", b"[]", b"{}", b'{"data": 5}', b"[" * 100_000,
        b'{"data": []}', b'{"data": [{"index": 0}]}', b'{"data": [{"index": 0, "embedding": ["x"]}]}',
        b'{"data": [{"index": 0, "embedding": []}]}', b'{"data": [{"index": 0, "embedding": [1e999]}]}',
        b'{"data": [{"index": 0, "embedding": [%s]}]}' % (b"9" * 400),
        b'{"data": [{"index": 0, "embedding": [-1e39]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": "x", "embedding": [1]}]}',
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused(answer: bytes) -> None:
    async with asking(answer) as embedder:
        with pytest.raises(ServiceRefused):
            await embedder.embed(["anything"], tries=1)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_cannot_answer_just_now_is_away(status: int) -> None:
    async with asking(b"", status) as embedder:
        with pytest.raises(ServiceAway):
            await embedder.embed(["anything"], tries=1)


async def test_without_a_key_there_is_none() -> None:
    async with aiohttp.ClientSession() as http:
        embedder = Embedder(http, OpenAI())
        assert not embedder.is_configured
        with pytest.raises(ServiceNotConfigured):
            await embedder.embed(["anything"])

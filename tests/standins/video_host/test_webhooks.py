from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from standins.video_host.store import STORE

StartHost = Callable[..., Awaitable[Any]]


class Receiver:
    """A webhook address that answers with the given statuses in turn, and then with the last."""

    def __init__(self, server: TestServer) -> None:
        self.server = server
        self.answers = [200]
        self.calls: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.calls.put_nowait((request.headers["Webhook-Signature"], await request.read()))
        return web.Response(status=self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    async def next_call(self) -> tuple[str, bytes]:
        async with asyncio.timeout(30):
            return await self.calls.get()


@pytest.fixture
async def receiver(aiohttp_server: Any) -> Receiver:
    app = web.Application()
    receiver = Receiver(TestServer(app))
    app.router.add_post("/hook", receiver.handle)
    server = await aiohttp_server(app)
    receiver.url = str(server.make_url("/hook"))
    return receiver


async def failed_video(host: Any) -> str:
    uid, path = await host.reserve(meta={"name": "Notes"})
    assert await host.upload(path, b"just some notes") == 200
    return str(uid)


async def delivered(host: Any, uid: str) -> None:
    async with asyncio.timeout(30):
        while True:
            video = host.client.server.app[STORE].videos[uid]
            if video.state == "error" and video.notice is None:
                return
            await asyncio.sleep(0.01)


async def test_the_end_of_an_encoding_is_told_signed_and_once(start_host: StartHost, receiver: Receiver) -> None:
    host = await start_host(webhook_url=receiver.url)
    uid = await failed_video(host)
    header, body = await receiver.next_call()
    found = re.fullmatch(r"time=(\d+),sig1=([0-9a-f]{64})", header)
    assert found
    assert abs(int(found[1]) - time.time()) < 60
    assert found[2] == hmac.new(b"webhook-secret", f"{found[1]}.".encode() + body, hashlib.sha256).hexdigest()
    await delivered(host, uid)
    assert receiver.calls.empty()


async def test_a_webhook_carries_what_the_api_answers(start_host: StartHost, receiver: Receiver) -> None:
    host = await start_host(webhook_url=receiver.url)
    uid = await failed_video(host)
    told = json.loads((await receiver.next_call())[1])
    assert told["status"]["errorReasonCode"] == "ERR_NON_VIDEO"
    asked = (await host.call("GET", f"/{uid}"))[1]["result"]
    assert told | {"modified": ""} == asked | {"modified": ""}


async def test_a_webhook_is_repeated_until_it_is_accepted(start_host: StartHost, receiver: Receiver) -> None:
    receiver.answers = [500, 302, 401, 204]
    host = await start_host(webhook_url=receiver.url)
    uid = await failed_video(host)
    for _ in range(4):
        await receiver.next_call()
    await delivered(host, uid)
    assert receiver.calls.empty()


async def test_a_webhook_that_nobody_takes_is_given_up(start_host: StartHost, receiver: Receiver) -> None:
    receiver.answers = [500]
    host = await start_host(webhook_url=receiver.url, webhook_tries=3)
    uid = await failed_video(host)
    await delivered(host, uid)
    assert receiver.calls.qsize() == 3


async def test_a_pending_webhook_survives_a_restart(start_host: StartHost, receiver: Receiver) -> None:
    first = await start_host(webhook_url="http://127.0.0.1:9/nobody-is-here", webhook_backoff_s=0.05)
    uid = await failed_video(first)
    await first.settled(uid)
    await first.client.close()

    await start_host(webhook_url=receiver.url)
    assert json.loads((await receiver.next_call())[1])["uid"] == uid


async def test_a_deleted_video_is_not_told_about(start_host: StartHost, receiver: Receiver) -> None:
    receiver.answers = [500]
    now = [datetime.now(UTC)]
    host = await start_host(webhook_url=receiver.url, webhook_backoff_s=30, now=lambda: now[0])
    uid = await failed_video(host)
    await receiver.next_call()
    assert (await host.call("DELETE", f"/{uid}"))[0] == 200
    now[0] += timedelta(minutes=1)  # its next try would be due, and before the other's first
    other = await failed_video(host)
    assert json.loads((await receiver.next_call())[1])["uid"] == other

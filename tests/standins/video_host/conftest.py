"""One host per test, in the test's own loop; the one real encoding that many tests look at is made once."""

from __future__ import annotations

import asyncio
import io
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient, unused_port
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from standins.video_host.app import create_app
from standins.video_host.clip import cached_clip
from standins.video_host.store import Settings
from tests.support.local_server import LocalServer

ACCOUNT, API_TOKEN, KEY_ID = "acc0", "api-token", "key0"
API = f"/client/v4/accounts/{ACCOUNT}/stream"
BEARER = {"Authorization": f"Bearer {API_TOKEN}"}
DEADLINE_S = 60

Json = dict[str, Any]


class Host:
    """A running host, and what one does to it as its customer."""

    def __init__(self, client: TestClient[Any, Any], settings: Settings, sign: Callable[..., str]) -> None:
        self.client, self.settings, self.sign = client, settings, sign

    async def call(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        """(status, JSON) of an API call with the right token; `path` follows `/stream`."""
        async with self.client.request(method, API + path, headers=BEARER, **request) as answer:
            return answer.status, await answer.json()

    async def reserve(self, **wish: Any) -> tuple[str, str]:
        """(uid, path of the upload address) of a new direct upload."""
        status, answer = await self.call("POST", "/direct_upload", json={"maxDurationSeconds": 60, **wish})
        assert status == 200, answer
        url = answer["result"]["uploadURL"]
        assert url.startswith(self.settings.public_url)
        return answer["result"]["uid"], url.removeprefix(self.settings.public_url)

    async def upload(self, path: str, content: bytes, field: str = "file") -> int:
        """The status of uploading `content` as a browser's form does."""
        form = FormData()
        form.add_field(field, io.BytesIO(content), filename="lecture.mp4", content_type="video/mp4")
        async with self.client.post(path, data=form) as answer:
            return answer.status

    async def put_captions(
        self, uid: str, content: bytes, language: str = "en", field: str = "file"
    ) -> tuple[int, Any]:
        """(status, JSON) of setting a video's captions in one language."""
        form = FormData()
        form.add_field(field, io.BytesIO(content), filename="captions.vtt", content_type="text/vtt")
        return await self.call("PUT", f"/{uid}/captions/{language}", data=form)

    async def once(self, uid: str, *states: str) -> Json:
        """The video when it has come to one of these states."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                _, answer = await self.call("GET", f"/{uid}")
                if answer["result"]["status"]["state"] in states:
                    result: Json = answer["result"]
                    return result
                await asyncio.sleep(0.02)

    async def settled(self, uid: str) -> Json:
        """The video once it is ready or has failed."""
        return await self.once(uid, "ready", "error")


@pytest.fixture(scope="session")
def key_pair() -> tuple[str, str]:
    """(private, public) playback key as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


@pytest.fixture
def settings(tmp_path: Path, key_pair: tuple[str, str]) -> Settings:
    return Settings(
        data_dir=tmp_path / "host",
        account_id=ACCOUNT,
        api_token=API_TOKEN,
        public_url=f"http://127.0.0.1:{unused_port()}",
        playback_key_pem=key_pair[1],
        key_id=KEY_ID,
        webhook_secret="webhook-secret",
        webhook_backoff_s=0.02,
    )


@pytest.fixture
def sign(key_pair: tuple[str, str]) -> Callable[..., str]:
    """Sign a playback token as the product does; claims given override the good ones, None leaves one out."""

    def sign(uid: str, *, kid: str = KEY_ID, **claims: Any) -> str:
        now = int(time.time())
        good = {"sub": uid, "kid": kid, "exp": now + 600, "nbf": now - 5, **claims}
        payload = {name: value for name, value in good.items() if value is not None}
        return jwt.encode(payload, key_pair[0], algorithm="RS256", headers={"kid": kid})

    return sign


@pytest.fixture
def start_host(aiohttp_client: Any, settings: Settings, sign: Callable[..., str]) -> Callable[..., Awaitable[Host]]:
    """Start a host with some settings changed; closing its client stops it as its process would stop."""

    async def start(**changes: Any) -> Host:
        changed = replace(settings, **{"public_url": f"http://127.0.0.1:{unused_port()}"} | changes)
        port = int(changed.public_url.rsplit(":", 1)[1])
        client = await aiohttp_client(LocalServer(create_app(changed), port=port))
        return Host(client, changed, sign)

    return start


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory, key_pair: tuple[str, str]) -> tuple[Path, str]:
    """(data folder, uid) of a host that has encoded one 6 s clip of 640x360; copy it, do not touch it."""
    folder = tmp_path_factory.mktemp("encoded")
    settings = Settings(folder, ACCOUNT, API_TOKEN, f"http://127.0.0.1:{unused_port()}", key_pair[1], KEY_ID)

    async def encode() -> str:
        port = int(settings.public_url.rsplit(":", 1)[1])
        async with TestClient(LocalServer(create_app(settings), port=port)) as client:
            host = Host(client, settings, lambda: "")
            uid, path = await host.reserve(requireSignedURLs=True, meta={"name": "Clip"})
            assert await host.upload(path, await asyncio.to_thread(cached_clip(seconds=6).read_bytes)) == 200
            video = await host.settled(uid)
            assert video["status"]["state"] == "ready", video
            return uid

    return folder, asyncio.run(encode())


@pytest.fixture
async def host_with_video(
    start_host: Callable[..., Awaitable[Host]], encoded: tuple[Path, str], settings: Settings
) -> tuple[Host, str]:
    """(host, uid) with one ready video that requires signed URLs."""
    await asyncio.to_thread(shutil.copytree, encoded[0], settings.data_dir)
    return await start_host(), encoded[1]

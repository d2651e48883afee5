"""A video host in a few lines: Cloudflare Stream's API and manifests, for tests that do not need real encoding."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.local_server import LocalServer

ACCOUNT, TOKEN, WEBHOOK_SECRET, KEY_ID = "account", "api-token", "webhook-secret", "key-1"

MASTER = """#EXTM3U
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="main",DEFAULT=YES,URI="audio.m3u8"
#EXT-X-STREAM-INF:BANDWIDTH=2000000,AVERAGE-BANDWIDTH=1500000,RESOLUTION=1280x720,CODECS="avc1.4d401f",AUDIO="a"
720.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=400000,RESOLUTION=426x240,CODECS="avc1.4d401f",AUDIO="a"
240.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=2000000,AVERAGE-BANDWIDTH=1500000,RESOLUTION=1280x720,CODECS="avc1.4d401f",AUDIO="b"
720b.m3u8
"""
MEDIA = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n" + "#EXTINF:4.0,\ns.m4s\n" * 3 + "#EXTINF:1.2,\nl.m4s\n#EXT-X-ENDLIST\n"
LADDER = [
    {"rung": 0, "br": 400, "width": 426, "height": 240},
    {"rung": 1, "br": 1500, "width": 1280, "height": 720},
]


@cache
def signing_key() -> rsa.RSAPrivateKey:
    """One RSA key for the whole run: making one takes long."""
    return rsa.generate_private_key(65537, 2048)


def signing_key_pem() -> str:
    """The key as PEM text."""
    return (
        signing_key()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def sign_webhook(body: bytes, *, at: float | None = None, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
    """The headers of a webhook."""
    moment = int(time.time() if at is None else at)
    signature = hmac.digest(secret.encode(), f"{moment}.".encode() + body, "sha256").hex()
    return {"Webhook-Signature": f"time={moment},sig1={signature}", "Content-Type": "application/json"}


class StreamHost:
    """The host's state. Set `failing` to a status, or clear `answering`, to make it misbehave."""

    def __init__(self) -> None:
        self.videos: dict[str, dict[str, Any]] = {}
        self.captions: dict[tuple[str, str], bytes] = {}
        # Languages of captions that it writes itself, and their status.
        self.generated: dict[tuple[str, str], str] = {}
        self.asked: list[str] = []
        self.uploads: list[dict[str, Any]] = []
        self.failing: int | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.master: str | None = MASTER
        self.origin = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Section `cloudflare` that points here."""
        return {
            "api_base": f"{self.origin}/client/v4",
            "account_id": ACCOUNT,
            "api_token": TOKEN,
            "webhook_secret": WEBHOOK_SECRET,
            "signing_key_id": KEY_ID,
            "signing_key_pem": signing_key_pem(),
            "customer_domain": self.origin,
            "timeout_s": 20.0,
            "poll_s": 0.001,
        }

    def set_state(self, uid: str, state: str, **members: Any) -> dict[str, Any]:
        """Change a video; what a webhook says of it."""
        status = {
            "state": state, "errorReasonCode": members.pop("code", ""), "errorReasonText": members.pop("reason", ""),
        }  # fmt: skip
        self.videos[uid] |= {"status": status, "readyToStream": state == "ready"} | members
        return self.videos[uid]

    def make_ready(self, uid: str, duration: float = 90.5) -> dict[str, Any]:
        """The video is encoded; what a webhook says of it."""
        thumbnail = f"{self.origin}/{uid}/thumbnails/thumbnail.jpg"
        return self.set_state(uid, "ready", duration=duration, thumbnail=thumbnail)

    def app(self) -> web.Application:
        """The host's application."""
        app = web.Application(middlewares=[self._misbehave], client_max_size=16 * 2**20)
        stream = f"/client/v4/accounts/{ACCOUNT}/stream"
        app.add_routes([
            web.post(f"{stream}/direct_upload", self._upload),
            web.get(f"{stream}/{{uid}}", self._get),
            web.delete(f"{stream}/{{uid}}", self._delete),
            web.post(stream, self._upload_by_tus),
            web.get(f"{stream}/{{uid}}/captions", self._list_captions),
            web.post(f"{stream}/{{uid}}/captions/{{lang}}/generate", self._generate_captions),
            web.put(f"{stream}/{{uid}}/captions/{{lang}}", self._put_captions),
            web.get(f"{stream}/{{uid}}/captions/{{lang}}/vtt", self._get_captions),
            web.delete(f"{stream}/{{uid}}/captions/{{lang}}", self._delete_captions),
            web.get("/{token}/manifest/{file}", self._manifest),
        ])  # fmt: skip
        return app

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        await self.answering.wait()
        if self.failing is not None:
            return web.Response(status=self.failing, text="<html>no</html>")
        if request.path.startswith("/client") and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"success": False, "errors": [{"code": 10000}]}, status=401)
        return await handler(request)  # type: ignore[no-any-return]

    async def _upload(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.uploads.append(body)
        uid = f"{len(self.uploads):032x}"
        self.videos[uid] = {"uid": uid, "creator": body["creator"], "duration": -1}
        self.set_state(uid, "pendingupload")
        return _success({"uid": uid, "uploadURL": f"{self.origin}/upload/{uid}"})

    async def _upload_by_tus(self, request: web.Request) -> web.Response:
        assert request.query["direct_user"] == "true"
        self.uploads.append(dict(request.headers))
        uid = f"{len(self.uploads):032x}"
        self.videos[uid] = {"uid": uid, "creator": request.headers["Upload-Creator"], "duration": -1}
        self.set_state(uid, "pendingupload")
        return web.Response(status=201, headers={"Location": f"{self.origin}/tus/{uid}", "stream-media-id": uid})

    async def _get(self, request: web.Request) -> web.Response:
        video = self.videos.get(request.match_info["uid"])
        return _success(video) if video else _missing()

    async def _delete(self, request: web.Request) -> web.Response:
        if self.videos.pop(request.match_info["uid"], None) is None:
            return _missing()
        return web.Response()

    async def _list_captions(self, request: web.Request) -> web.Response:
        uid = request.match_info["uid"]
        if uid not in self.videos:
            return _missing()
        languages = {lang for of, lang in [*self.captions, *self.generated] if of == uid}
        return _success([
            {"language": lang, "generated": (uid, lang) in self.generated,
             "status": self.generated.get((uid, lang), "ready")}
            for lang in sorted(languages)
        ])  # fmt: skip

    async def _generate_captions(self, request: web.Request) -> web.Response:
        self.generated[request.match_info["uid"], request.match_info["lang"]] = "inprogress"
        return _success({"language": request.match_info["lang"], "generated": True, "status": "inprogress"})

    async def _put_captions(self, request: web.Request) -> web.Response:
        form = await request.post()
        if request.match_info["uid"] not in self.videos:
            return _missing()
        self.captions[request.match_info["uid"], request.match_info["lang"]] = form["file"].file.read()  # type: ignore[union-attr]
        return _success({"language": request.match_info["lang"]})

    async def _get_captions(self, request: web.Request) -> web.Response:
        vtt = self.captions.get((request.match_info["uid"], request.match_info["lang"]))
        return web.Response(body=vtt, content_type="text/vtt") if vtt else _missing()

    async def _delete_captions(self, request: web.Request) -> web.Response:
        if self.captions.pop((request.match_info["uid"], request.match_info["lang"]), None) is None:
            return _missing()
        return _success("")

    async def _manifest(self, request: web.Request) -> web.Response:
        try:
            claims = jwt.decode(
                request.match_info["token"], signing_key().public_key(), algorithms=["RS256"],
                options={"require": ["sub", "kid", "exp"]},
            )  # fmt: skip
        except jwt.PyJWTError:
            return web.Response(status=401)
        if claims["sub"] not in self.videos or self.master is None:
            return web.Response(status=404)
        return web.Response(text=self.master if request.match_info["file"] == "video.m3u8" else MEDIA)


def _success(result: Any) -> web.Response:
    return web.json_response({"result": result, "success": True, "errors": [], "messages": []})


def _missing() -> web.Response:
    return web.json_response({"result": None, "success": False, "errors": [{"code": 10003}]}, status=404)


def webhook_body(video: dict[str, Any]) -> bytes:
    """A webhook's body, as the host writes it."""
    return json.dumps(video).encode()


@asynccontextmanager
async def hosting() -> AsyncIterator[StreamHost]:
    """A running host."""
    host = StreamHost()
    async with LocalServer(host.app()) as server:
        host.origin = str(server.make_url("")).rstrip("/")
        yield host
        host.answering.set()

"""Cloudflare Stream: uploads, status, captions and signed playback, over its HTTP API v4.

The bytes of a video never pass through us. Playback addresses are signed here, without asking the host. Everything that
does ask raises `ServiceError`s: ServiceNotConfigured, ServiceSlow, ServiceAway, ServiceRefused, ServiceHasNone.
"""

import asyncio
import base64
import codecs
import hmac
import io
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urljoin

import aiohttp
import jwt
import m3u8
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from server.clock import Clock
from server.config import Breaker, Cloudflare
from server.domain.ladder import Rendition, make_ladder, segment_length
from server.domain.videos import Status, error_of, status_of
from server.services.outside import (
    Service,
    ServiceAway,
    ServiceHasNone,
    ServiceNotConfigured,
    ServiceRefused,
    ServiceSlow,
)

# A language tag as far as the host and we look into it (BCP 47).
LANGUAGE = re.compile(r"[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8}){0,3}", re.ASCII)
# What asks for more is no rendition.
_MOST_BITS_PER_S = 10**9
_UID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_SIGNATURE = re.compile(r"time=([0-9]{1,12}),sig1=([0-9a-fA-F]{64})", re.ASCII)
# Time-outs are those of the call as a whole.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
_MANIFEST_BYTES = 1_048_576
_API_BYTES = 12 * 1_048_576
_SIGNED_URLS_KEPT = 10_000
# The host takes no expiry that is nearer than two minutes, by its own clock.
_SHORTEST_UPLOAD_S = 130
# The host's clock may be behind ours.
_SKEW_S = 60


class WebhookRefused(Exception):
    """The webhook's signature is missing, wrong, or not of about now."""


@dataclass(frozen=True, slots=True)
class HostedVideo:
    """What the host knows of a video. `duration_s` is None until it has been measured; `error` is for the uploader.

    One that is ready may not be `is_complete`: the higher rungs come later.
    """

    uid: str
    status: Status
    duration_s: float | None
    thumbnail_url: str | None
    error: str | None
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class HostedUpload:
    """Where the bytes of a new video go, once, until when, and whether as one form or by tus."""

    uid: str
    method: Literal["form", "tus"]
    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class HostedCaptions:
    """Captions of one language; `status` is `ready`, `inprogress` or `error`."""

    lang: str
    is_generated: bool
    status: str


def _captions(item: Any) -> HostedCaptions | None:
    if not isinstance(item, dict) or not LANGUAGE.fullmatch(lang := str(item.get("language"))):
        return None
    return HostedCaptions(lang, item.get("generated") is True, str(item.get("status", "ready")))


def read_video(result: Any) -> HostedVideo | None:
    """The video in an answer or webhook of the host; None when there is none in it."""
    if not isinstance(result, dict) or not isinstance(uid := result.get("uid"), str) or not _UID.fullmatch(uid):
        return None
    status = result.get("status")
    status = status if isinstance(status, dict) else {}
    ours = status_of(str(status.get("state", "")), result.get("readyToStream") is True)
    return HostedVideo(
        uid=uid,
        status=ours,
        duration_s=_duration(result.get("duration")),
        thumbnail_url=_text(result.get("thumbnail"), 2048),
        error=error_of(_text(status.get("errorReasonCode"), 100), _text(status.get("errorReasonText"), 1000))
        if ours == "error"
        else None,
        is_complete=_is_complete(status.get("pctComplete")),
    )


def _is_complete(percent: Any) -> bool:
    """The host says `"39.000000"`, or nothing."""
    try:
        return float(percent) >= 100
    except (TypeError, ValueError):
        return True


def _duration(value: Any) -> float | None:
    """Seconds; the host says -1 until it has measured them."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= 1_000_000 else None


class VideoHost:
    """One Cloudflare account.

    Args:
        http: the process's client session.
        settings: section `cloudflare`; `customer_domain` is a whole origin.
        clock: for expiries and for the age of webhooks.
        breaker: section `breaker`.

    Raises ValueError when `signing_key_pem` is set but is no RSA private key.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        settings: Cloudflare,
        clock: Clock | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self._http = http
        self._settings = settings
        self._clock = clock or Clock()
        self._service = Service("video_host", breaker, self._clock)
        # What is played comes from elsewhere: it may work while the API is away, and the other way round.
        self._delivery = Service("video_delivery", breaker, self._clock)
        self._stream = f"{settings.api_base.rstrip('/')}/accounts/{settings.account_id}/stream"
        self._origin = settings.customer_domain.rstrip("/")
        self._key = _load_key(settings.signing_key_pem)
        # By (uid, start, end): an RSA signature takes about a millisecond, and many ask for the same video at once.
        self._signed: dict[tuple[str, int, int], dict[str, Any]] = {}

    @property
    def is_configured(self) -> bool:
        """Whether the account's API can be asked."""
        return bool(self._settings.api_token and self._settings.account_id)

    @property
    def can_sign(self) -> bool:
        """Whether playback addresses can be given."""
        return self._key is not None and bool(self._settings.signing_key_id and self._origin)

    # -- uploads and status --------------------------------------------------------------------------------------------

    async def create_upload(self, *, name: str, creator: str, max_duration_s: int, size_bytes: int) -> HostedUpload:
        """A one-time address for the bytes: one form up to `form_bytes`, above it tus.

        The video can be watched by signed address only; `creator` is shown in the host's own lists.
        """
        settings = self._settings
        is_form = size_bytes <= settings.form_bytes
        ttl_s = max(settings.upload_ttl_s if is_form else settings.tus_ttl_s, _SHORTEST_UPLOAD_S)
        expires_at = (self._clock.now() + timedelta(seconds=ttl_s)).replace(microsecond=0)
        expiry = expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        if is_form:
            wish = {
                "maxDurationSeconds": max_duration_s,
                "expiry": expiry,
                "creator": creator,
                "requireSignedURLs": True,
                "meta": {"name": name},
            }
            result = await self._ask("create_upload", "POST", "/direct_upload", json=wish)
            uid, url = (result.get("uid"), result.get("uploadURL")) if isinstance(result, dict) else (None, None)
        else:
            metadata = {"maxDurationSeconds": str(max_duration_s), "expiry": expiry, "name": name}
            headers = {
                "Tus-Resumable": "1.0.0",
                "Upload-Length": str(size_bytes),
                "Upload-Creator": creator,
                "Upload-Metadata": f"{_tus_metadata(metadata)},requiresignedurls",
            }
            told, _ = await self._call("create_upload", "POST", "?direct_user=true", headers=headers)
            uid, url = told.get("stream-media-id"), told.get("Location")
        if not isinstance(uid, str) or not _UID.fullmatch(uid) or not isinstance(url, str):
            raise ServiceRefused("the video host gave no upload address")
        return HostedUpload(uid, "form" if is_form else "tus", url, expires_at)

    async def get_video(self, uid: str, timeout_s: float | None = None) -> HostedVideo:
        """What the host knows of a video now. Raises ServiceHasNone."""
        async with _within(timeout_s):
            video = read_video(await self._ask("get_video", "GET", f"/{uid}", tries=2))
        if video is None:
            raise ServiceRefused("the video host's answer is not a video")
        return video

    async def delete_video(self, uid: str) -> None:
        """Delete at the host; one that is not there any more is as good as deleted."""
        try:
            await self._ask("delete_video", "DELETE", f"/{uid}", tries=2)
        except ServiceHasNone:
            return

    # -- captions ------------------------------------------------------------------------------------------------------

    async def put_captions(self, uid: str, lang: str, vtt: bytes) -> None:
        """Store WebVTT as the captions of a language, in place of those before. Raises ServiceHasNone."""

        def form() -> aiohttp.FormData:
            form = aiohttp.FormData()
            form.add_field("file", io.BytesIO(vtt), filename=f"{lang}.vtt", content_type="text/vtt")
            return form

        await self._ask("put_captions", "PUT", f"/{uid}/captions/{lang}", form=form, tries=2)

    async def get_captions(self, uid: str, lang: str) -> bytes:
        """The WebVTT of a language. Raises ServiceHasNone."""
        _, vtt = await self._call("get_captions", "GET", f"/{uid}/captions/{lang}/vtt", tries=2)
        if not vtt.removeprefix(codecs.BOM_UTF8).startswith(b"WEBVTT"):  # a proxy's page, say, by which nothing is said
            raise ServiceAway("the video host did not answer in WebVTT")
        return vtt

    async def list_captions(self, uid: str) -> list[HostedCaptions]:
        """All captions of a video, with those that are being generated. Raises ServiceHasNone."""
        result = await self._ask("list_captions", "GET", f"/{uid}/captions", tries=2)
        return [captions for item in (result if isinstance(result, list) else []) if (captions := _captions(item))]

    async def generate_captions(self, uid: str, lang: str) -> None:
        """Ask the host to write captions from the sound; what becomes of it `list_captions` tells."""
        await self._ask("generate_captions", "POST", f"/{uid}/captions/{lang}/generate")

    async def delete_captions(self, uid: str, lang: str) -> None:
        """Delete the captions of a language. Raises ServiceHasNone."""
        await self._ask("delete_captions", "DELETE", f"/{uid}/captions/{lang}")

    # -- playback ------------------------------------------------------------------------------------------------------

    @property
    def playback_least_s(self) -> int:
        """For how long the addresses of playback are good at least, when the viewer's right does not end before."""
        return self._ttl_s - self._step_s

    @property
    def _ttl_s(self) -> int:
        return max(1, int(self._settings.playback_ttl_s))

    @property
    def _step_s(self) -> int:
        return max(1, min(60, self._ttl_s // 4))

    def sign_playback(self, uid: str, until: datetime | None = None) -> dict[str, Any] | None:
        """`{"hls", "dash", "thumbnail", "expires_at"}` of a video, good for about `playback_ttl_s`, and never after
        `until`, when the viewer's right to it ends.

        None when no signing key or domain is configured. The same addresses are given for up to a minute, and so may
        be that much nearer to their end.
        """
        if not self.can_sign:
            return None
        ttl, step = self._ttl_s, self._step_s
        start = int(self._clock.now().timestamp()) // step * step
        end = start + ttl if until is None else min(start + ttl, int(until.timestamp()))
        signed = self._signed.get((uid, start, end))
        if signed is None:
            if len(self._signed) >= _SIGNED_URLS_KEPT:
                self._signed.clear()
            signed = self._signed[uid, start, end] = self._sign(uid, start, end)
        return dict(signed)

    def playback(self, uid: str, until: datetime | None = None) -> dict[str, Any] | None:
        """`{"hls", "dash", "expires_at"}`, as `sign_playback`."""
        signed = self.sign_playback(uid, until)
        return signed and {name: signed[name] for name in ("hls", "dash", "expires_at")}

    async def fetch_ladder(self, uid: str, timeout_s: float | None = None) -> tuple[list[dict[str, Any]], float]:
        """What the HLS manifest of a ready video says: its rungs, `[{"rung", "br", "width", "height"}]` with `br` in
        kbit/s and the lowest first, and the length of its segments in seconds.
        """
        signed = self.sign_playback(uid)
        if signed is None:
            raise ServiceNotConfigured("cloudflare.signing_key_pem, signing_key_id or customer_domain is empty")
        url: str = signed["hls"]

        async def read() -> tuple[Any, Any]:
            master = _parse_manifest(await self._fetch(url))
            if not master.playlists:
                raise ServiceRefused("the manifest has no renditions")
            return master, _parse_manifest(await self._fetch(urljoin(url, master.playlists[0].uri)))

        async with _within(timeout_s):
            master, media = await self._delivery.call("fetch_ladder", read, timeout_s=self._settings.timeout_s, tries=2)
        renditions = (_rendition(playlist.stream_info) for playlist in master.playlists)
        ladder = make_ladder(one for one in renditions if 0 < one.bits_per_s <= _MOST_BITS_PER_S)
        if not ladder:
            raise ServiceRefused("the manifest has no renditions")
        segment_s = segment_length(segment.duration or 0 for segment in media.segments)
        if segment_s is None:
            raise ServiceRefused("the manifest has no segments")
        return ladder, segment_s

    # -- webhooks ------------------------------------------------------------------------------------------------------

    def verify_webhook(self, header: str | None, body: bytes) -> None:
        """Check `Webhook-Signature: time=..,sig1=..`, the HMAC-SHA256 of `<time>.<body>`.

        Raises WebhookRefused, also for one more than `webhook_tolerance_s` old or early, and ServiceNotConfigured.
        """
        secret = self._settings.webhook_secret
        if not secret:
            raise ServiceNotConfigured("cloudflare.webhook_secret is empty")
        match = _SIGNATURE.fullmatch((header or "").replace(" ", ""))
        if match is None:
            raise WebhookRefused("no signature")
        expected = hmac.digest(secret.encode(), match[1].encode() + b"." + body, "sha256").hex()
        if not hmac.compare_digest(expected, match[2].lower()):
            raise WebhookRefused("wrong signature")
        if abs(self._clock.now().timestamp() - int(match[1])) > self._settings.webhook_tolerance_s:
            raise WebhookRefused("stale signature")

    # -- the wire ------------------------------------------------------------------------------------------------------

    def _sign(self, uid: str, start: int, end: int) -> dict[str, Any]:
        kid = self._settings.signing_key_id
        claims = {"sub": uid, "kid": kid, "nbf": start - _SKEW_S, "exp": end}
        assert self._key is not None, "asked only where can_sign"
        token = jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": kid})
        return {
            "hls": f"{self._origin}/{token}/manifest/video.m3u8",
            "dash": f"{self._origin}/{token}/manifest/video.mpd",
            "thumbnail": f"{self._origin}/{token}/thumbnails/thumbnail.jpg",
            "expires_at": datetime.fromtimestamp(end, UTC),
        }

    async def _fetch(self, url: str) -> bytes:
        """A manifest, by signed address."""
        async with _speaking(), self._http.get(url, timeout=_NO_TIMEOUT) as answer:
            _check_status(answer.status, b"")
            return await _read(answer, _MANIFEST_BYTES)

    async def _ask(self, operation: str, method: str, path: str, **call: Any) -> Any:
        """The `result` of an API call; `call` as `_call`."""
        _, text = await self._call(operation, method, path, **call)
        if not text:
            return None
        try:
            envelope = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise ServiceAway("the video host did not answer in JSON") from None
        if not isinstance(envelope, dict) or envelope.get("success") is not True:
            raise ServiceRefused(f"the video host refused: {text[:500]!r}")
        return envelope.get("result")

    async def _call(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        json: Any = None,
        form: Callable[[], aiohttp.FormData] | None = None,
        headers: Mapping[str, str] | None = None,
        tries: int = 1,
    ) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of an answer; `form` makes the same form for every try."""
        if not self.is_configured:
            raise ServiceNotConfigured("cloudflare.account_id or api_token is empty")
        sent = {"Authorization": f"Bearer {self._settings.api_token}", **(headers or {})}

        async def once() -> tuple[Mapping[str, str], bytes]:
            async with (
                _speaking(),
                self._http.request(
                    method,
                    self._stream + path,
                    headers=sent,
                    timeout=_NO_TIMEOUT,
                    allow_redirects=False,
                    json=json,
                    data=form and form(),
                ) as answer,
            ):
                if answer.status >= 300:
                    _check_status(answer.status, await answer.content.read(500))
                return answer.headers, await _read(answer, _API_BYTES)

        return await self._service.call(operation, once, timeout_s=self._settings.timeout_s, tries=tries)


@asynccontextmanager
async def _speaking() -> AsyncIterator[None]:
    """The network's failures in a service's words."""
    try:
        yield
    except aiohttp.ClientError as error:
        raise ServiceAway(f"the video host cannot be reached: {error}") from error


@asynccontextmanager
async def _within(timeout_s: float | None) -> AsyncIterator[None]:
    """For who does not want to wait as long as the settings say; not held against the host. Raises ServiceSlow."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise ServiceSlow("the video host did not answer in time") from error


def _check_status(status: int, text: bytes) -> None:
    if status == 404:
        raise ServiceHasNone("the video host does not have it")
    if status == 429 or status >= 500:
        raise ServiceAway(f"the video host answered {status}: {text!r}")
    if status >= 300:
        raise ServiceRefused(f"the video host answered {status}: {text!r}")


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body, if it is not absurdly long."""
    body = bytearray()
    async for chunk in answer.content.iter_chunked(65_536):
        body += chunk
        if len(body) > limit:
            raise ServiceRefused("the video host's answer is too long")
    return bytes(body)


def _tus_metadata(members: Mapping[str, str]) -> str:
    """`Upload-Metadata`: keys with their values in base64."""
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in members.items())


def _load_key(pem: str) -> RSAPrivateKey | None:
    """The signing key; in an environment variable its line ends may be written as backslash and n."""
    if not pem:
        return None
    try:
        key = load_pem_private_key(pem.replace("\\n", "\n").encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("cloudflare.signing_key_pem is not an RSA private key in PEM form")
    return key


def _parse_manifest(text: bytes) -> Any:
    try:
        return m3u8.loads(text.decode())
    # Text that is not UTF-8, the library's ParseError, and what else it raises where attributes are missing or absurd.
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ServiceRefused("the manifest cannot be read") from error


def _rendition(info: Any) -> Rendition:
    width, height = info.resolution or (0, 0)
    return Rendition(bits_per_s=info.average_bandwidth or info.bandwidth or 0, width=width, height=height)


def _text(value: Any, limit: int) -> str | None:
    """Text that Postgres can keep (no NUL, no lone surrogate), cut to `limit` characters; None when there is none."""
    if not isinstance(value, str) or not value:
        return None
    return value.replace("\0", "")[:limit].encode(errors="replace").decode()

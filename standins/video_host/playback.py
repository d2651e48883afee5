"""Playback: playlists, segments, captions and the thumbnail, all under the token that permits them."""

from __future__ import annotations

import time
from pathlib import Path

from aiohttp import web

from standins.video_host.ladder import captions_playlist, master_playlist
from standins.video_host.signing import PlaybackTokens, TokenError
from standins.video_host.store import SETTINGS, STORE, Video

PLAYLIST = "application/vnd.apple.mpegurl"
CONTENT_TYPES = {".m3u8": PLAYLIST, ".m4s": "video/iso.segment", ".mp4": "video/mp4"}
CACHE_S = 86_400

TOKENS = web.AppKey("tokens", PlaybackTokens)
routes = web.RouteTableDef()


def _admit(request: web.Request) -> tuple[Video, int]:
    """(video, for how many seconds it may be cached) when the path's first part, a token or a bare uid, permits it."""
    name = request.match_info["token"]
    store = request.app[STORE]
    cache_s = CACHE_S
    if "." in name:
        try:
            uid, expires = request.app[TOKENS].verify(name)
        except TokenError as refusal:
            raise web.HTTPUnauthorized(text=f"token refused: {refusal}") from refusal
        video, cache_s = store.get(uid), max(0, min(CACHE_S, expires - int(time.time())))
    else:
        video = store.get(name)
        if video is not None and video.require_signed_urls:
            raise web.HTTPUnauthorized(text="this video needs a signed URL")
    if video is None:
        raise web.HTTPNotFound(text="no such video")
    if video.state != "ready":
        raise web.HTTPNotFound(text="not ready")
    return video, cache_s


def _playlist(text: str) -> web.Response:
    return web.Response(body=text.encode(), headers={"Content-Type": PLAYLIST, "Cache-Control": "no-store"})


def _file(path: Path, content_type: str, cache_s: int) -> web.FileResponse:
    cache = f"public, max-age={cache_s}" if cache_s else "no-store"
    return web.FileResponse(path, headers={"Content-Type": content_type, "Cache-Control": cache})


@routes.get("/{token}/manifest/video.m3u8")
async def get_master(request: web.Request) -> web.StreamResponse:
    """The multivariant playlist; everything it names lies beside it, so under the same token."""
    video, _ = _admit(request)
    return _playlist(master_playlist(video))


@routes.get(r"/{token}/manifest/captions/{language:[A-Za-z0-9-]+}.m3u8")
async def get_captions_playlist(request: web.Request) -> web.StreamResponse:
    """The playlist of one language's captions."""
    video, _ = _admit(request)
    language = _admit_language(request, video)
    return _playlist(captions_playlist(language, video.duration_s or 0.0))


@routes.get(r"/{token}/manifest/captions/{language:[A-Za-z0-9-]+}.vtt")
async def get_captions(request: web.Request) -> web.StreamResponse:
    """One language's captions; they can be replaced, so they are not kept in caches."""
    video, _ = _admit(request)
    path = request.app[STORE].folder(video.uid) / "captions" / f"{_admit_language(request, video)}.vtt"
    return _file(path, "text/vtt; charset=utf-8", 0)


def _admit_language(request: web.Request, video: Video) -> str:
    language = request.match_info["language"]
    if language not in video.captions:
        raise web.HTTPNotFound(text="no such captions")
    return language


@routes.get(r"/{token}/manifest/{rendition:[a-z0-9]+}/{name:index\.m3u8|init\.mp4|segment_\d{5,}\.m4s}")
async def get_media(request: web.Request) -> web.StreamResponse:
    """A rendition's playlist, its init segment, or a segment."""
    video, cache_s = _admit(request)
    name, rendition = request.match_info["name"], request.match_info["rendition"]
    path = request.app[STORE].folder(video.uid) / "media" / rendition / name
    return _file(path, CONTENT_TYPES[path.suffix], 0 if path.suffix == ".m3u8" else cache_s)


@routes.get("/{token}/thumbnails/thumbnail.jpg")
async def get_thumbnail(request: web.Request) -> web.StreamResponse:
    """One picture of the video."""
    video, cache_s = _admit(request)
    return _file(request.app[STORE].folder(video.uid) / "media" / "thumbnail.jpg", "image/jpeg", cache_s)


def allow_origin(request: web.Request) -> str | None:
    """The value of Access-Control-Allow-Origin for this request, or None when its origin is not allowed."""
    allowed = request.app[SETTINGS].allow_origins
    if "*" in allowed:
        return "*"
    origin = request.headers.get("Origin")
    return origin if origin in allowed else None

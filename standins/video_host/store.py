"""What the host remembers: one folder and one small JSON file per video.

Everything is written so that a kill leaves nothing half done. A video's folder holds `video.json` (its state),
`source` (until it is encoded; `source.tus` while it arrives bit by bit), `media/` (playlists, segments, the thumbnail;
it appears complete, by one rename) and `captions/<language>.vtt`.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

log = logging.getLogger(__name__)

State = Literal["pendingupload", "queued", "inprogress", "ready", "error"]


@dataclass(frozen=True)
class Settings:
    """How one host is run. `public_url` is the origin that browsers reach it by, without a trailing slash."""

    data_dir: Path
    account_id: str
    api_token: str
    public_url: str
    playback_key_pem: str
    """The RSA key of playback tokens as PEM; the public half is enough."""
    key_id: str
    webhook_url: str | None = None
    webhook_secret: str = ""
    allow_origins: tuple[str, ...] = ("*",)
    max_upload_bytes: int = 200 * 1024 * 1024
    max_tus_bytes: int = 30_000_000_000
    min_chunk_bytes: int = 5 * 1024 * 1024
    webhook_backoff_s: float = 1.0
    webhook_tries: int = 12
    generation_s: float = 1.0
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class Rendition(BaseModel):
    """One encoded stream as measured on disk; bits per second, pixels."""

    name: str
    codecs: str
    average_bps: int
    peak_bps: int
    width: int = 0
    height: int = 0
    frame_rate: float = 0.0


class Notice(BaseModel):
    """A webhook that has not been answered with 2xx yet; it lives in the video's own file, so it cannot get lost."""

    tries: int = 0
    due: datetime


class Video(BaseModel):
    """The state of one video, as kept in `video.json`."""

    uid: str
    upload_key: str
    created: datetime
    modified: datetime
    uploaded: datetime | None = None
    ready: datetime | None = None
    upload_expiry: datetime
    state: State = "pendingupload"
    percent: float = 0.0
    error_code: str = ""
    error_text: str = ""
    max_duration_s: int
    require_signed_urls: bool = False
    allowed_origins: list[str] = Field(default_factory=list)
    meta: dict[str, Any] = Field(default_factory=dict)
    creator: str | None = None
    tus_length: int | None = None
    """How many bytes are to come by tus; None for a form."""
    scheduled_deletion: datetime | None = None
    thumbnail_at: float = 0.0
    """Which moment the thumbnail shows, as a fraction of the duration."""
    size: int = 0
    duration_s: float | None = None
    width: int | None = None
    height: int | None = None
    rungs: list[Rendition] = Field(default_factory=list)
    audio: Rendition | None = None
    captions: dict[str, str] = Field(default_factory=dict)
    """Language tag to label."""
    generated: list[str] = Field(default_factory=list)
    """Languages of captions that the host wrote itself."""
    generating: dict[str, datetime] = Field(default_factory=dict)
    """Languages of those that it still writes, and when they are done."""
    notice: Notice | None = None


class Store:
    """All videos, in memory and on disk. Files are small, so they are written in place of a database."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.data_dir.resolve() / "videos"
        self._now = settings.now
        self._root.mkdir(parents=True, exist_ok=True)
        self.videos: dict[str, Video] = {}
        self._by_upload_key: dict[str, str] = {}
        for folder in sorted(self._root.iterdir()):
            self._load(folder)

    def _load(self, folder: Path) -> None:
        try:
            video = Video.model_validate_json((folder / "video.json").read_bytes())
        except FileNotFoundError:
            shutil.rmtree(folder, ignore_errors=True)  # what a kill left of a deletion
            return
        except ValidationError:
            log.warning("left aside a video whose state cannot be read: %s", folder.name)
            return
        # Whatever was on its way when the host died starts again from what is whole.
        if video.state == "inprogress":
            video.state = "queued"
        if video.tus_length is not None and video.state == "pendingupload":
            self._load_tus(video, folder)
        if video.state != "queued":
            (folder / "source").unlink(missing_ok=True)
        if video.state != "ready":
            shutil.rmtree(folder / "media", ignore_errors=True)
        for leftover in [*folder.glob("*.part"), *folder.glob("encoding-*")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self._remember(video)

    def _load_tus(self, video: Video, folder: Path) -> None:
        """What arrived before a kill is kept; where that was all of it, the end is made up for."""
        for name in ("source.tus", "source"):
            if (folder / name).exists() and (folder / name).stat().st_size == video.tus_length:
                self.complete_tus(video)
                return

    def complete_tus(self, video: Video) -> None:
        """All bytes are here. A kill in between is made up for by the next start."""
        folder = self.folder(video.uid)
        if (folder / "source.tus").exists():
            (folder / "source.tus").replace(folder / "source")
        video.state, video.size, video.uploaded = "queued", video.tus_length or 0, self._now()
        self.save(video)

    def _remember(self, video: Video) -> None:
        self.videos[video.uid] = video
        self._by_upload_key[video.upload_key] = video.uid

    def add(self, video: Video) -> None:
        """Keep a new video."""
        self.folder(video.uid).mkdir()
        self.save(video)
        self._remember(video)

    def get(self, uid: str) -> Video | None:
        """The video, or None when there is no such."""
        return self.videos.get(uid)

    def by_upload_key(self, key: str) -> Video | None:
        """The video that a one-time upload address belongs to, whether or not it was used."""
        uid = self._by_upload_key.get(key)
        return self.videos.get(uid) if uid is not None else None

    def folder(self, uid: str) -> Path:
        """Where the video's files lie."""
        return self._root / uid

    def save(self, video: Video) -> None:
        """Write the state at once or not at all."""
        video.modified = self._now()
        self.write(video.uid, "video.json", video.model_dump_json().encode())

    def write(self, uid: str, name: str, content: bytes) -> None:
        """Write a small file of a video's folder at once or not at all."""
        target = self.folder(uid) / name
        target.parent.mkdir(exist_ok=True)
        part = self.folder(uid) / f"{secrets.token_hex(8)}.part"
        part.write_bytes(content)
        part.replace(target)

    def forget(self, video: Video) -> None:
        """Remove the state; the files are for `sweep`. A kill in between leaves a folder that the next start sweeps."""
        del self.videos[video.uid]
        del self._by_upload_key[video.upload_key]
        (self.folder(video.uid) / "video.json").unlink(missing_ok=True)

    def sweep(self, uid: str) -> None:
        """Remove the files of a forgotten video."""
        shutil.rmtree(self.folder(uid), ignore_errors=True)


SETTINGS = web.AppKey("settings", Settings)
STORE = web.AppKey("store", Store)

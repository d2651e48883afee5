"""What a video is to whom: the host's states in our words, and the members of a row that a viewer may see."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal

Status = Literal["pending_upload", "processing", "ready", "error"]
VideoVisibility = Literal["private", "preview", "public"]

# The host's `errorReasonCode`s, and what an instructor can do about them.
ERRORS = {
    "ERR_NON_VIDEO": "This file is not a video. Upload an MP4, MOV, MKV, WebM or AVI file.",
    "ERR_MALFORMED_VIDEO": "The video is damaged, or was cut off. Export it again, best as MP4, and upload that.",
    "ERR_DURATION_EXCEED_CONSTRAINT": "The video is longer than was allowed for this upload. Shorten it, or upload it "
    "with a longer maximum duration.",
    "ERR_DURATION_TOO_SHORT": "The video is shorter than a tenth of a second.",
    "ERR_FETCH_ORIGIN_ERROR": "The video host could not fetch the file. Upload it again.",
    "ERR_UNKNOWN": "The video host could not process this video. Upload it again, or export it anew, best as MP4.",
}
NEVER_ARRIVED = "The upload was not finished in time. Upload the video again."

_PUBLIC_MEMBERS = (
    "id",
    "lecture_id",
    "title",
    "description",
    "status",
    "duration_seconds",
    "visibility",
    "upload_user_id",
    "error",
    "created_at",
    "updated_at",
)


def status_of(state: str, ready_to_stream: bool) -> Status:
    """Our status for the host's `status.state` (pendingupload, downloading, queued, inprogress, ready, error)."""
    if ready_to_stream or state == "ready":
        return "ready"
    if state == "error":
        return "error"
    return "pending_upload" if state == "pendingupload" else "processing"


def error_of(code: str | None, text: str | None) -> str:
    """What the uploader is told of an error of the host's; its own words for a code that is not known."""
    return ERRORS.get(code or "") or text or ERRORS["ERR_UNKNOWN"]


def show_video(
    row: Mapping[str, Any],
    *,
    owner: bool,
    may_watch: bool,
    until: datetime | None = None,
    sign: Callable[[str, datetime | None], dict[str, Any] | None],
) -> dict[str, Any]:
    """The row as one viewer may see it.

    Args:
        row: of `videos`.
        owner: whether the viewer owns the course, and so sees the host's id.
        may_watch: whether a ready video's signed addresses are given.
        until: when the viewer's right ends; None: not by itself.
        sign: from the host's id and `until` to `{"hls", "dash", "thumbnail", "expires_at"}`, None where nothing can be
            signed.
    """
    video = {name: row[name] for name in _PUBLIC_MEMBERS}
    uid = row["cloudflare_uid"]
    video["thumbnail_url"] = row["thumbnail_url"] if owner else None
    if owner:
        video["cloudflare_uid"] = uid
    if may_watch and row["status"] == "ready" and uid is not None and (signed := sign(uid, until)) is not None:
        video["thumbnail_url"] = signed["thumbnail"]
        video["playback"] = {name: signed[name] for name in ("hls", "dash", "expires_at")}
    return video

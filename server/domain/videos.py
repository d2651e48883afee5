"""What a video is to whom: the host's states in our words, and the members of a row that a viewer may see."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

Status = Literal["pending_upload", "processing", "ready", "error"]

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


def show_video(
    row: Mapping[str, Any], *, owner: bool, may_watch: bool, sign: Callable[[str], dict[str, Any] | None]
) -> dict[str, Any]:
    """The row as one viewer may see it.

    Args:
        row: of `videos`.
        owner: whether the viewer owns the course, and so sees the host's id.
        may_watch: whether a ready video's signed addresses are given.
        sign: from the host's id to `{"hls", "dash", "thumbnail", "expires_at"}`, None where nothing can be signed.
    """
    video = {name: row[name] for name in _PUBLIC_MEMBERS}
    uid = row["cloudflare_uid"]
    video["thumbnail_url"] = row["thumbnail_url"] if owner else None
    if owner:
        video["cloudflare_uid"] = uid
    if may_watch and row["status"] == "ready" and uid is not None and (signed := sign(uid)) is not None:
        video["thumbnail_url"] = signed["thumbnail"]
        video["playback"] = {name: signed[name] for name in ("hls", "dash", "expires_at")}
    return video

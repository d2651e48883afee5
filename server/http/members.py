"""Members of bodies and answers that more than one part of the API takes and gives."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from server.domain.accounts import check_email, check_password, check_username
from server.domain.videos import Status


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Username = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_username)]
EmailAddress = Annotated[str, Field(min_length=3, max_length=254), AfterValidator(check_email)]
# A new one; any text, of which every character counts.
Password = Annotated[str, Field(min_length=8, max_length=256), AfterValidator(check_password)]
Title = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_not_blank)]
Description = Annotated[str, Field(max_length=20_000)]


class User(BaseModel):
    """An account, as its own user and admins see it."""

    id: UUID
    username: str
    email: str
    role: str
    email_verified: bool
    avatar_url: str | None
    created_at: datetime
    updated_at: datetime


class Playback(BaseModel):
    """Signed addresses of a video, good until `expires_at`."""

    hls: str
    dash: str
    expires_at: datetime


class Video(BaseModel):
    """A video; `cloudflare_uid` for the owner, `playback` where it is ready and may be watched."""

    id: UUID
    lecture_id: UUID
    title: str
    description: str
    status: Status
    duration_seconds: float | None
    thumbnail_url: str | None
    visibility: str
    upload_user_id: UUID
    error: str | None
    created_at: datetime
    updated_at: datetime
    cloudflare_uid: str | None = None
    playback: Playback | None = None


class Progress(BaseModel):
    """What a learner has watched of a lecture: seconds, ranges to the millisecond, `watched_duration` floored."""

    user_id: UUID
    lecture_id: UUID
    watched_duration: int
    watched_ranges: list[list[float]]
    position: float
    completed: bool
    completed_at: datetime | None
    last_watched_at: datetime
    created_at: datetime
    updated_at: datetime

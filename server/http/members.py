"""Members of bodies and answers that more than one part of the API takes and gives."""

import unicodedata
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from server.domain.accounts import UNSEEN, check_email, check_password, check_username
from server.domain.files import FileStatus, Purpose, Visibility
from server.domain.videos import Status, VideoVisibility
from server.http.auth import Role

TransactionStatus = Literal[
    "pending", "requires_action", "succeeded", "failed", "canceled", "partially_refunded", "refunded", "disputed"
]
EnrollmentSource = Literal["free", "purchase", "subscription", "admin", "own"]


def is_blank(text: str) -> bool:
    """Whether there is nothing to see."""
    # Blanks of all kinds, controls, and what has no width: signs of direction, joiners, fillers.
    return all(unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf") for character in UNSEEN.sub("", text))


def not_blank(text: str) -> str:
    """The text. Raises ValueError where there is nothing to see."""
    if is_blank(text):
        raise ValueError("must not be blank")
    return text


Username = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_username)]
EmailAddress = Annotated[str, Field(min_length=3, max_length=254), AfterValidator(check_email)]
# A new one; any text, of which every character counts.
Password = Annotated[str, Field(min_length=8, max_length=256), AfterValidator(check_password)]
Title = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(not_blank)]
Description = Annotated[str, Field(max_length=20_000)]


class User(BaseModel):
    """An account, as its own user and admins see it."""

    id: UUID
    username: str
    email: str
    role: Role
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
    visibility: VideoVisibility
    upload_user_id: UUID
    error: str | None
    created_at: datetime
    updated_at: datetime
    cloudflare_uid: str | None = None
    playback: Playback | None = None


class Thumbnail(BaseModel):
    """A small picture, as WebP. Those of files that are not public are asked for with a token."""

    width: int
    height: int
    url: str


class File(BaseModel):
    """A file; `width`, `height` and `thumbnails` (smallest first) of pictures."""

    id: UUID
    owner_id: UUID
    course_id: UUID | None
    lecture_id: UUID | None
    filename: str
    size_bytes: int
    content_type: str
    purpose: Purpose
    visibility: Visibility
    status: FileStatus
    width: int | None
    height: int | None
    thumbnails: list[Thumbnail]
    created_at: datetime
    updated_at: datetime


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


class Enrollment(BaseModel):
    """An enrolment; `progress` is how far its learner is, in percent of the course's lectures."""

    user_id: UUID
    course_id: UUID
    transaction_id: UUID | None
    source: EnrollmentSource
    enrolled_at: datetime
    expires_at: datetime | None
    is_active: bool
    progress: float
    created_at: datetime
    updated_at: datetime


class PaymentMethod(BaseModel):
    """A card by which its user pays; its token never leaves."""

    id: UUID
    provider: str
    brand: str
    card_last_four: str
    card_expiry: str = Field(description="`MM/YYYY`")
    is_default: bool
    created_at: datetime
    updated_at: datetime


class Transaction(BaseModel):
    """A payment; of a course, or of a subscription's period. `transaction_reference` is Stripe's payment intent."""

    id: UUID
    user_id: UUID
    course_id: UUID | None
    subscription_id: UUID | None
    payment_method_id: UUID | None
    amount: str
    currency: str
    status: TransactionStatus
    refunded_amount: str
    transaction_reference: str | None
    failure_code: str | None
    created_at: datetime
    updated_at: datetime

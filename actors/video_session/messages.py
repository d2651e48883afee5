"""What a player and its session say to each other, and what is kept of it in the stream.

Every kind of message stands here once, apart from sockets and actors. CMCD keys (CTA-5004) and CMSD keys (CTA-5006)
keep their own names on the wire; Python spells them out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

PROTOCOL = "lectern.v1"
MAX_SEQ = 2**53 - 1
MAX_SEQ_JUMP = 100_000

# Above these a figure is absurd (a player on loopback measures hundreds of Mbit/s) and would swamp every sum.
MAX_KBPS = 1_000_000.0
MAX_MS = 86_400_000.0
MAX_BYTES = 2**40

T = TypeVar("T")
Position = Annotated[float, Meta(ge=0, le=1_000_000)]
Amount = Annotated[float, Meta(ge=0)]
# CMCD version 1 sends a number, version 2 an inner list with one number per kind of object.
Amounts = Amount | list[Amount]
Count = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
Seq = Annotated[int, Meta(ge=1, le=MAX_SEQ)]


class Cmcd(Struct, omit_defaults=True, gc=False, rename={
    "buffer_length_ms": "bl", "measured_throughput_kbps": "mtp", "encoded_bitrate_kbps": "br", "top_bitrate_kbps": "tb",
    "object_duration_ms": "d", "deadline_ms": "dl", "playback_rate": "pr", "player_state": "sta", "starved": "bs",
    "starved_ms": "bsd", "startup_delay_ms": "msd", "requested_throughput_kbps": "rtp", "startup": "su",
    "target_buffer_ms": "tbl",
}):  # fmt: skip
    """The CMCD keys that we read; others are ignored. Durations in ms, rates in kbit/s."""

    buffer_length_ms: Amounts | UnsetType = UNSET
    measured_throughput_kbps: Amounts | UnsetType = UNSET
    encoded_bitrate_kbps: Amounts | UnsetType = UNSET
    top_bitrate_kbps: Amounts | UnsetType = UNSET
    object_duration_ms: Amounts | UnsetType = UNSET
    deadline_ms: Amounts | UnsetType = UNSET
    playback_rate: Amounts | UnsetType = UNSET
    player_state: str | UnsetType = UNSET
    starved: bool | UnsetType = UNSET
    starved_ms: Amounts | UnsetType = UNSET
    startup_delay_ms: Amounts | UnsetType = UNSET
    requested_throughput_kbps: Amounts | UnsetType = UNSET
    startup: bool | UnsetType = UNSET
    target_buffer_ms: Amounts | UnsetType = UNSET


class Segment(Struct, omit_defaults=True, gc=False):
    """One media segment that the player fetched: rung's bitrate (kbit/s), size, download time, time to first byte."""

    br: Amount = 0
    bytes: Amount = 0
    ms: Amount = 0
    ttfb_ms: Amount = 0


class Report(Struct, tag="telemetry", tag_field="type", omit_defaults=True, gc=False):
    """A player's report as it is kept. `seq` counts 1, 2, 3, ... within a session; one by REST may come without, and
    one that CMCD alone tells may lack the position too."""

    position: Position | UnsetType = UNSET
    seq: Seq | UnsetType = UNSET
    cmcd: Cmcd = field(default_factory=Cmcd)
    segments: list[Segment] = field(default_factory=list)
    dropped_frames: Count | UnsetType = UNSET
    viewport: tuple[Count, Count] | UnsetType = UNSET


class Telemetry(Report, tag="telemetry", tag_field="type", omit_defaults=True, gc=False, kw_only=True):
    """A player's report, as a REST frame: `seq` counts 1, 2, 3, ... within a session, or is not there."""

    position: Position


class SocketTelemetry(Telemetry, tag="telemetry", tag_field="type", omit_defaults=True, gc=False, kw_only=True):
    """A player's report. `seq` counts 1, 2, 3, ... within a session."""

    seq: Seq


class PlainCmcd(Cmcd, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """CMCD without a key that we do not read."""


class PlainSegment(Segment, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A segment of which nothing is told that we do not read."""


class PlainTelemetry(Report, tag="telemetry", tag_field="type", forbid_unknown_fields=True, gc=False, kw_only=True):
    """A numbered report that says nothing beyond what is kept: then its text is what is kept, as it stands."""

    position: Position
    seq: Seq
    cmcd: PlainCmcd = field(default_factory=PlainCmcd)
    segments: list[PlainSegment] = field(default_factory=list)  # type: ignore[assignment]


class Bye(Struct, tag="bye", tag_field="type"):
    """The player ends the session."""


class BadFrame(ValueError):
    """An offence: what is wrong with the frame in words its sender can use, and where (a JSON pointer)."""

    def __init__(self, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer

    @property
    def told(self) -> str:
        """Both in one text."""
        return f"{self.detail} at {self.pointer}" if self.pointer else self.detail


_socket_decoder: msgspec.json.Decoder[SocketTelemetry | Bye] = msgspec.json.Decoder(SocketTelemetry | Bye)
_plain_decoder = msgspec.json.Decoder(PlainTelemetry | Bye)
_kept_decoder = msgspec.json.Decoder(Report)
_encoder = msgspec.json.Encoder()
# A message to the player as JSON.
encode: Callable[[Struct], bytes] = _encoder.encode
# The frame as kept in the stream: what we know of it, and nothing else. And back again.
encode_frame: Callable[[Report], bytes] = _encoder.encode
parse_kept_frame: Callable[[bytes], Report] = _kept_decoder.decode


def read_frame(decoder: msgspec.json.Decoder[T], text: str | bytes) -> T:
    """The message in one text frame of any socket.

    Raises:
        BadFrame: not a JSON object, an unknown type, or a member that is missing, of the wrong type or out of range.
    """
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _offence(str(error)) from None


def parse_socket_frame(text: str | bytes) -> SocketTelemetry | Bye:
    """The message in one text frame of a player's. Raises BadFrame."""
    return read_frame(_socket_decoder, text)


def parse_plain_frame(text: str) -> PlainTelemetry | None:
    """A numbered report of which every member is kept, so that its text is as good as what `encode_frame` makes of it;
    None for whatever else there may be in a text frame."""
    try:
        frame = _plain_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return frame if type(frame) is PlainTelemetry else None


def parse_rest_frame(value: dict[str, Any]) -> Telemetry:
    """The telemetry in one member of a REST body; `type` and `seq` may be absent. Raises BadFrame."""
    try:
        return msgspec.convert(value, Telemetry)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _offence(str(error)) from None


_PATH = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_MISSING = re.compile(r"missing required field `(\w+)`")


def _offence(text: str) -> BadFrame:
    """msgspec's sentence and path (`$.segments[0].ms`) as a detail and a JSON pointer (`/segments/0/ms`)."""
    match = _PATH.fullmatch(text)
    assert match is not None, "the pattern matches every text"
    detail, path = match[1], match[2] or ""
    pointer = "".join(f"/{part}" for part in re.split(r"[.\[\]]+", path) if part)
    missing = _MISSING.search(detail)
    return BadFrame(detail, f"{pointer}/{missing[1]}" if missing else pointer)


def first(amounts: Amounts | UnsetType, most: float) -> float | None:
    """A CMCD figure as one number, at most `most`: the first of an inner list, None when there is none."""
    if amounts is UNSET:
        return None
    if isinstance(amounts, list):
        return min(amounts[0], most) if amounts else None
    return min(amounts, most)


def total(amounts: Amounts | UnsetType, most: float) -> float:
    """A CMCD figure summed over its inner list, at most `most`; 0 when there is none."""
    if amounts is UNSET:
        return 0.0
    return min(math.fsum([min(amount, most) for amount in amounts]) if isinstance(amounts, list) else amounts, most)


# To the player ------------------------------------------------------------------------------------------------------


class Rung(Struct, frozen=True):
    """One rung of a ladder: bitrate in kbit/s, picture in pixels. Rung 0 is the lowest."""

    rung: int
    br: float
    width: int | None = None
    height: int | None = None


class Cmsd(Struct, omit_defaults=True):
    """CTA-5006's words: maximum suggested bitrate, estimated throughput (both kbit/s; as much as `mb` before anything
    was measured), and duress: a full link that many share, on which nothing should be fetched that can wait."""

    mb: int
    etp: int
    du: bool | UnsetType = UNSET


class Advice(Struct):
    """A quality decision: fetch at most `rung`, for `ttl_ms` and as long as acknowledgements come. `n` counts from 1
    within an `epoch`; `reason` is for people. `abandon`: give up what is being fetched above `rung`; it will outlast
    the buffer."""

    n: int
    epoch: int
    rung: int
    cmsd: Cmsd
    reason: str
    ttl_ms: int
    abandon: bool | UnsetType = UNSET


class Decision(Advice, tag="decision", tag_field="type"):
    """A decision that changed."""


class Limits(Struct):
    """What a player may send, and how often it should report (`interval_ms`)."""

    frame_bytes: int
    rate: float
    per_s: float
    burst: float
    interval_ms: int


class Hello(Struct, tag="hello", tag_field="type"):
    """The first message of a socket: where the session stands and what it may send. `seq` is the highest frame that is
    applied, `saved` the highest in Postgres; positions in seconds."""

    protocol: str
    session_id: UUID
    epoch: int
    seq: int
    saved: int
    resume_position: float
    ladder: list[Rung]
    decision: Advice
    token: str
    heartbeat_s: float
    limits: Limits


class Ack(Struct, tag="ack", tag_field="type", gc=False):
    """`seq`: highest in Redis and applied. `saved`: highest in Postgres. `gaps`: frames that never came, in all."""

    seq: int
    saved: int
    gaps: int


class Token(Struct, tag="token", tag_field="type"):
    """New credentials before the old ones run out, all good until `expires_at`."""

    token: str
    playback: dict[str, Any] | None
    expires_at: datetime


class Error(Struct, tag="error", tag_field="type"):
    """A frame was refused."""

    code: str
    detail: str
    retryable: bool = False


TO_PLAYER = (Hello, Ack, Decision, Token, Error)
FROM_PLAYER = (SocketTelemetry, Bye)

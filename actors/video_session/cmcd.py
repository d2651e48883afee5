"""CMCD as players send it by themselves (CTA-5004, versions 1 and 2): a line of members becomes a report.

The syntax is a dictionary of structured fields (RFC 9651), which version 2 uses whole and version 1 in part. It is read
leniently, for what is wrong comes from players that nobody here can mend: a member that cannot be read is left out and
the others count, keys that we do not know are ignored, absurd figures are clamped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from actors.video_session.messages import MAX_KBPS, MAX_MS, Cmcd, Report, Segment, first

HEADERS = ("CMCD-Request", "CMCD-Object", "CMCD-Status", "CMCD-Session")
# No player has more to say in a line, in a list or after one item; who sends more shall not cost more.
MOST_MEMBERS, MOST_ITEMS = 64, 16

Bare = bool | float | str
Value = Bare | list[Bare]

_SPACE = re.compile(r"[ \t]*")
_BETWEEN = re.compile(r"[ \t,]*")
_KEY = re.compile(r"[A-Za-z*][A-Za-z0-9_.*-]*")
_BARE = re.compile(
    r"""(?P<number>-?[0-9]+(?:\.[0-9]*)?)(?![A-Za-z_])
      | "(?P<string>(?:[^"\\]|\\.)*)"
      | \?(?P<boolean>[01])
      | (?P<token>[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*)
      | :(?P<bytes>[A-Za-z0-9+/=]*):
      | @(?P<date>-?[0-9]+)
      | %"(?P<display>[^"]*)"
    """,
    re.VERBOSE,
)

_RATES_KBPS = {"br", "mtp", "rtp", "tb"}
_TIMES_MS = {"bl", "bsd", "d", "dl", "msd", "tbl"}
_PICTURE = (None, "v", "av")  # the bitrate of a sound track is none of a rung
_VIDEO = ("v", "av")
MAX_POSITION_S = 1_000_000.0


def parse_members(text: str) -> dict[str, Value]:
    """The members of a dictionary of structured fields; of a key that stands twice the last counts.

    An inner list gives a list, in which items marked as video (`;v`) come first; other parameters are left out.
    """
    members: dict[str, Value] = {}
    at = 0
    for _ in range(MOST_MEMBERS):
        at = _skip(text, at, _BETWEEN)
        if at == len(text):
            break
        try:
            key, value, at = _member(text, at)
        except ValueError:
            comma = text.find(",", at)
            at = comma if comma >= 0 else len(text)
        else:
            members[key] = value
    return members


def report_of(members: dict[str, Value]) -> Report:
    """What the members say, as a report without a number; its position is unknown where `pt` is not among them."""
    shown = members.get("ot") in _PICTURE
    told: dict[str, Any] = {}
    for key in _RATES_KBPS | _TIMES_MS:
        if shown or key not in ("br", "tb", "d"):
            most = MAX_KBPS if key in _RATES_KBPS else MAX_MS
            if amounts := _amounts(members.get(key), most):
                told[key] = amounts[0] if len(amounts) == 1 else amounts
    if rates := _amounts(members.get("pr"), 16.0):
        told["pr"] = rates[0]
    if isinstance(state := members.get("sta"), str):
        told["sta"] = state[:8]
    for key in ("bs", "su"):
        if members.get(key) is True or members.get(key) == [True]:
            told[key] = True
    cmcd = msgspec.convert(told, Cmcd)
    playhead_ms = _amounts(members.get("pt"), MAX_POSITION_S * 1000)
    return Report(
        position=playhead_ms[0] / 1000 if playhead_ms else UNSET,
        cmcd=cmcd,
        segments=_segments(members, cmcd) if shown else [],
    )


def _segments(members: dict[str, Value], cmcd: Cmcd) -> list[Segment]:
    """The segment whose answer this event tells of. CMCD has no member for a size: it is what bitrate and duration
    make."""
    took_ms = _amounts(members.get("ttlb"), MAX_MS)
    kbps, duration_ms = first(cmcd.encoded_bitrate_kbps, MAX_KBPS), first(cmcd.object_duration_ms, MAX_MS)
    status = _amounts(members.get("rc"), 1000)
    failed = bool(status) and not 200 <= status[0] < 300
    if members.get("e") != "rr" or failed or not took_ms or not kbps or not duration_ms:
        return []
    waited_ms = _amounts(members.get("ttfb"), MAX_MS) or [0.0]
    return [Segment(br=kbps, bytes=round(kbps * duration_ms / 8), ms=took_ms[0], ttfb_ms=min(waited_ms[0], took_ms[0]))]


def _amounts(value: Value | None, most: float) -> list[float]:
    """The numbers of a member, between 0 and `most`."""
    listed: Iterable[Bare] = value if isinstance(value, list) else () if value is None else (value,)
    return [min(max(float(n), 0.0), most) for n in listed if isinstance(n, float)]


# Structured fields ----------------------------------------------------------------------------------------------------


def _skip(text: str, at: int, what: re.Pattern[str] = _SPACE) -> int:
    match = what.match(text, at)
    return match.end() if match else at


def _member(text: str, at: int) -> tuple[str, Value, int]:
    """One member and where its comma is. Raises ValueError."""
    key = _KEY.match(text, at)
    if key is None:
        raise ValueError
    at = key.end()
    found: Value = True
    if text.startswith("=", at):
        found, at = _inner_list(text, at + 1) if text.startswith("(", at + 1) else _bare(text, at + 1)
    _, at = _parameters(text, at)
    at = _skip(text, at)
    if at < len(text) and text[at] != ",":
        raise ValueError
    return key[0], found, at


def _inner_list(text: str, at: int) -> tuple[list[Bare], int]:
    items: list[Bare] = []
    at = _skip(text, at + 1)
    while not text.startswith(")", at):
        item, at = _bare(text, at)
        names, at = _parameters(text, at)
        if any(name in names for name in _VIDEO):
            items.insert(0, item)
        else:
            items.append(item)
        after = _skip(text, at)
        if len(items) > MOST_ITEMS or (after == at and not text.startswith(")", at)):
            raise ValueError
        at = after
    return items, at + 1


def _parameters(text: str, at: int) -> tuple[list[str], int]:
    """The names of what follows semicolons."""
    names: list[str] = []
    while text.startswith(";", at):
        key = _KEY.match(text, _skip(text, at + 1))
        if key is None or len(names) == MOST_ITEMS:
            raise ValueError
        names.append(key[0])
        at = key.end()
        if text.startswith("=", at):
            _, at = _bare(text, at + 1)
    return names, at


def _bare(text: str, at: int) -> tuple[Bare, int]:
    match = _BARE.match(text, at)
    if match is None:
        raise ValueError
    kind, value = match.lastgroup, match[match.lastgroup or 0]
    if kind == "number":
        return float(value), match.end()
    if kind == "boolean":
        return value == "1", match.end()
    if kind == "string":
        return re.sub(r"\\(.)", r"\1", value), match.end()
    return value, match.end()

"""What is kept of a frame: what we know of it, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.video_session.messages import (
    BadFrame,
    Telemetry,
    encode_frame,
    parse_kept_frame,
    parse_plain_frame,
    parse_socket_frame,
)

_amount = st.integers(0, 10**6) | st.floats(0, 1e6)
_frames = st.fixed_dictionaries(
    {"type": st.just("telemetry"), "seq": st.integers(1, 2**53 - 1), "position": st.floats(0, 1e6)},
    optional={
        "cmcd": st.fixed_dictionaries(
            {}, optional={"bl": _amount | st.lists(_amount), "sta": st.text(), "pr": _amount}
        ),
        "segments": st.lists(st.fixed_dictionaries({}, optional={"br": _amount, "bytes": _amount, "ms": _amount})),
        "dropped_frames": st.integers(0, 100),
        "viewport": st.tuples(st.integers(0, 4000), st.integers(0, 4000)),
    },
)
_SOMEWHERE: tuple[tuple[str | int, ...], ...] = ((), ("cmcd",), ("segments", 0))


@given(_frames)
def test_the_text_of_a_plain_frame_means_what_would_be_kept_of_it(frame: dict[str, Any]) -> None:
    text = json.dumps(frame)
    told = parse_socket_frame(text)
    assert isinstance(told, Telemetry)
    plain = parse_plain_frame(text)
    assert plain is not None
    assert plain.seq == told.seq
    assert parse_kept_frame(text.encode()) == parse_kept_frame(encode_frame(told))


@given(_frames, st.sampled_from(_SOMEWHERE))
def test_a_frame_that_says_more_than_we_keep_is_not_plain(frame: dict[str, Any], where: tuple[str | int, ...]) -> None:
    frame = {"cmcd": {}, **frame, "segments": [{}]}
    member: Any = frame
    for step in where:
        member = member[step]
    member["sid"] = "a name that is nobody's business"
    text = json.dumps(frame)
    assert parse_plain_frame(text) is None
    told = parse_socket_frame(text)
    assert isinstance(told, Telemetry)
    assert b"sid" not in encode_frame(told)


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"bye"}', '{"seq":1,"position":1}', '{"type":"telemetry","position":1}', "[]", "",
        '{"type":"telemetry","seq":0,"position":1}', '{"type":"telemetry","seq":1,"position":-1}',
        '{"type":"telemetry","seq":1,"position":1,"cmcd":{"bl":-1}}',
        '{"type":"telemetry","seq":1,"position":1,"segments":[{"ms":"1"}]}',
    ],
)  # fmt: skip
def test_what_is_no_numbered_report_is_not_plain_either(text: str) -> None:
    assert parse_plain_frame(text) is None
    if text != '{"type":"bye"}':
        with pytest.raises(BadFrame):
            parse_socket_frame(text)

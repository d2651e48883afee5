"""The fold: exact functions of the frames that were applied, in order."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import asdict

from actors.video_session.messages import encode_frame, parse_kept_frame, parse_rest_frame
from actors.video_session.state import MAX_RANGES, SessionState, apply, dump_state, load_state
from server.data.streams import Entry
from tests.support.model import applied_frames, expected_folds

amounts = st.integers(0, 10**7) | st.lists(st.integers(0, 10**6), min_size=1, max_size=3)
cmcds = st.fixed_dictionaries(
    {},
    optional={
        "sta": st.sampled_from(["p", "s", "k", "r", "a"]), "bs": st.booleans(), "bsd": amounts, "msd": amounts,
        "br": st.sampled_from([300, 800, 1600, [800], [3200]]), "bl": amounts, "mtp": amounts, "pr": st.just(1.5),
    },
)  # fmt: skip
segments = st.lists(
    st.fixed_dictionaries({"br": st.just(800), "bytes": st.integers(0, 10**9), "ms": st.integers(0, 60_000)}),
    max_size=3,
)
# Positions close together and far apart, so that playing, pausing, seeking and jumping past 60 s all come up.
positions = st.integers(0, 200_000).map(lambda ms: ms / 1000) | st.floats(0, 1_000_000).map(lambda s: round(s, 3))
frames = st.lists(
    st.fixed_dictionaries(
        {"position": positions}, optional={"seq": st.integers(1, 60), "cmcd": cmcds, "segments": segments}
    ),
    max_size=40,
)


# Whatever is a frame, however absurd: the smallest and largest numbers that JSON can tell, above all.
absurd = st.sampled_from([0, 5e-324, 1e-300, 1e-9, 200, 1e16, 2**53, 1.7e308]) | st.floats(0, 1e308)
any_amount = absurd | st.lists(absurd, max_size=3)
any_frame = st.fixed_dictionaries(
    {"position": st.floats(0, 1_000_000)},
    optional={
        "cmcd": st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(["bl", "mtp", "br", "tb", "d", "dl", "pr", "bsd", "msd", "rtp", "tbl"], any_amount)
            | {"sta": st.text(max_size=2), "bs": st.booleans(), "su": st.booleans()},
        ),
        "segments": st.lists(
            st.fixed_dictionaries({}, optional=dict.fromkeys(["br", "bytes", "ms", "ttfb_ms"], absurd)), max_size=4
        ),
        "dropped_frames": st.integers(0, 2**53 - 1),
        "viewport": st.tuples(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1)),
    },
)
bitrates_kbps = st.sampled_from([(), (300.0, 800.0, 1600.0)])


def entries_of(arrivals: list[dict[str, Any]]) -> list[Entry]:
    """The stream that the arrivals would make: duplicates refused, frames without a number under the highest seq."""
    made: list[Entry] = []
    seq, sub = 0, 0
    for arrival in applied_frames(arrivals):
        seq, sub = (arrival["seq"], 0) if "seq" in arrival else (seq, sub + 1)
        made.append(Entry(seq, sub, None, encode_frame(parse_rest_frame(arrival))))
    return made


def folded(entries: list[Entry]) -> SessionState:
    state = SessionState()
    for entry in entries:
        apply(state, entry)
    return state


def folds(state: SessionState) -> dict[str, Any]:
    return {
        "frames": state.frames, "last_seq": state.seq, "segments": state.segments, "bytes": state.bytes,
        "position": None if state.position_ms is None else state.position_ms / 1000,
        "watched_seconds": state.watched_total_ms / 1000, "stalls": state.stalls, "stall_ms": state.stall_ms,
        "startup_ms": state.startup_ms, "switches": state.switches, "gaps": state.gaps,
    }  # fmt: skip


@given(frames)
def test_the_fold_is_what_a_plain_model_says(arrivals: list[dict[str, Any]]) -> None:
    assert folds(folded(entries_of(arrivals))) == pytest.approx(expected_folds(arrivals), abs=0.0006)


@given(frames)
def test_a_frame_is_kept_as_it_was_told(arrivals: list[dict[str, Any]]) -> None:
    for arrival in applied_frames(arrivals):
        frame = parse_rest_frame(arrival)
        assert asdict(parse_kept_frame(encode_frame(frame))) == asdict(frame)


@given(st.lists(any_frame, min_size=1, max_size=8), bitrates_kbps)
@example([{"position": 0, "segments": [{"bytes": 5e-324, "ms": 1e16}] * 4}], ())
@example([{"position": 0, "cmcd": {"bsd": [1.7e308, 1.7e308]}}], ())
@example([{"position": 0, "cmcd": {"d": 200}, "segments": [{"br": 5e-324, "bytes": 1, "ms": 1}]}], ())
def test_whatever_is_a_frame_is_folded_and_kept(arrivals: list[dict[str, Any]], ladder_kbps: Sequence[float]) -> None:
    state = SessionState()
    for seq, arrival in enumerate(arrivals, 1):
        assert apply(state, Entry(seq, 0, None, encode_frame(parse_rest_frame(arrival))), ladder_kbps)
    assert state.frames == len(arrivals)
    numbers = [value for value in orjson.loads(dump_state(state)).values() if isinstance(value, int | float)]
    assert all(abs(number) < 1e18 for number in numbers)
    assert load_state(dump_state(state), state.cursor) == state


@given(frames, st.data())
def test_a_crash_at_any_point_is_a_replay(arrivals: list[dict[str, Any]], data: st.DataObject) -> None:
    entries = entries_of(arrivals)
    whole = folded(entries)
    cut = data.draw(st.integers(0, len(entries)))
    before = folded(entries[:cut])
    resumed = load_state(dump_state(before), before.cursor)
    for entry in entries:  # the stream may still hold what the checkpoint has
        apply(resumed, entry)
    assert dump_state(resumed) == dump_state(whole)


@given(frames, st.randoms())
def test_entries_had_before_change_nothing(arrivals: list[dict[str, Any]], random: Any) -> None:
    state = SessionState()
    seen: list[Entry] = []
    for entry in entries_of(arrivals):
        assert apply(state, entry)
        seen.append(entry)
        before = dump_state(state)
        assert not apply(state, random.choice(seen))
        assert dump_state(state) == before


def test_an_entry_that_cannot_be_read_raises_and_changes_nothing() -> None:
    state = folded(entries_of([{"seq": 1, "position": 1.0}]))
    before = dump_state(state)
    with pytest.raises(ValueError, match="malformed"):
        apply(state, Entry(2, 0, 1, b"{nonsense"))
    assert dump_state(state) == before


def test_a_player_that_seeks_for_ever_does_not_grow_for_ever() -> None:
    state = SessionState()
    for n in range(MAX_RANGES * 2 + 100):
        frame = parse_rest_frame({"position": n // 2 * 100.0 + n % 2})
        apply(state, Entry(n + 1, 0, None, encode_frame(frame)))
    assert len(state.watched_ranges_ms) == MAX_RANGES


@pytest.mark.parametrize("absurd", [1e300, 10**30])
def test_absurd_figures_are_clamped_and_stay_in_range(absurd: float) -> None:
    frame = {
        "position": 1.0, "cmcd": {"bsd": absurd, "msd": absurd, "br": absurd, "mtp": absurd},
        "segments": [{"br": 1, "bytes": absurd, "ms": 1}],
    }  # fmt: skip
    state = folded(entries_of([frame] * 3))
    assert state.bytes < 2**63
    assert state.stall_ms <= 3 * 86_400_000
    assert b"e+" not in dump_state(state)

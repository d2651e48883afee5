"""One session as an object: what it takes, refuses, counts and says. No part behind it, and no time but the test's."""

from typing import Any
from uuid import uuid4

import pytest

from actors.video_session.actor import VideoSession, decide_all
from actors.video_session.messages import MAX_SEQ_JUMP, BadFrame, encode_frame
from server.data.streams import Entry
from tests.support.core import Listener, report
from tests.support.lectures import LADDER

TTL_MS = 10_000


def claimed(**row: Any) -> VideoSession:
    """A session as `claim_session` gives it, claimed at second 0."""
    columns = {
        "id": uuid4(), "video_id": uuid4(), "epoch": 1, "state": "{}",
        "last_seq": 0, "last_sub": 0, "duplicates": 0, "ladder": LADDER, "viewport": None, "save_data": False,
        "resume_ms": 0, "length_ms": 600_000, "decisions": None, "claimed_by": "socket",
    }  # fmt: skip
    return VideoSession(columns | row, now=0.0)


def entry(seq: int, prev: int | None = None, blob: bytes | None = None) -> Entry:
    return Entry(seq, 0, prev, blob or encode_frame(report(seq)))


def test_a_frame_is_new_once() -> None:
    session = claimed()
    assert session.accept(report(1))
    assert not session.accept(report(1))
    assert session.accept(report(3))
    assert not session.accept(report(2))
    assert (session.highest, session.duplicates) == (3, 2)
    session.take([entry(1), entry(3)])
    assert not session.accept(report(3))
    assert (session.state.frames, session.state.gaps, session.duplicates) == (2, 1, 3)


def test_a_seq_may_not_leap_absurdly() -> None:
    session = claimed(last_seq=10)
    assert session.accept(report(10 + MAX_SEQ_JUMP))
    with pytest.raises(BadFrame) as refused:
        session.accept(report(10 + 2 * MAX_SEQ_JUMP + 1))
    assert refused.value.pointer == "/seq"


def test_frames_stay_pending_until_they_are_read_back() -> None:
    session = claimed()
    for seq in (1, 2, 3):
        session.accept(report(seq))
    write = session.next_write(2)
    assert write is not None
    assert (write.cursor, [seq for seq, _ in write.frames]) == ((0, 0), [1, 2])
    session.settle_write(2, added=2)
    assert len(session.pending) == 3
    session.take([entry(1), entry(2)])
    write = session.next_write(2)
    assert write is not None
    assert (write.cursor, [seq for seq, _ in write.frames]) == ((2, 0), [3])


def test_a_late_frame_that_the_stream_refuses_is_a_duplicate_but_one_written_again_is_not() -> None:
    session = claimed()
    session.accept(report(1))
    session.settle_write(1, added=0)  # never tried before: another process wrote a later one meanwhile
    assert session.duplicates == 1
    session = claimed()
    session.accept(report(1))
    session.mark_tried(1)  # the answer was lost
    session.settle_write(1, added=0)
    assert session.duplicates == 0


def test_an_entry_that_cannot_be_applied_is_told_and_the_others_go_on() -> None:
    session = claimed()
    dead = session.take([entry(1), entry(2, blob=b'{"type":"telemetry","position":-1}'), entry(3)])
    assert [each.seq for each, _ in dead] == [2]
    assert (session.state.seq, session.state.frames, session.state.gaps) == (3, 2, 0)


def test_a_replay_stops_where_redis_lost_data() -> None:
    session = claimed(last_seq=2)
    dead, whole = session.replay([entry(3, prev=2), entry(4, prev=3), entry(6, prev=5), entry(7, prev=6)])
    assert (dead, whole, session.state.seq) == ([], False, 4)


def test_a_replay_trusts_holes_that_the_owner_knew() -> None:
    session = claimed()
    _, whole = session.replay([entry(1, prev=0), entry(5, prev=1), Entry(5, 1, None, encode_frame(report(None, 9.0)))])
    assert whole
    assert (session.state.cursor, session.state.gaps, session.state.position_ms) == ((5, 1), 3, 9000)


def test_only_a_changed_decision_is_pushed_and_numbered() -> None:
    session, listener = claimed(), Listener()
    decide_all([session], TTL_MS)
    session.peer = listener
    for seq in range(1, 9):
        session.take([Entry(seq, 0, None, encode_frame(report(seq, segments=[{"bytes": 10**6, "ms": 400}])))])
        decide_all([session], TTL_MS)
        session.answer(now=float(seq))
    assert [decision.n for decision in listener.decisions] == list(range(2, len(listener.decisions) + 2))
    assert listener.decisions[-1].rung == 3
    assert len(listener.acks) == 8
    session.answer(now=9.0)
    assert len(listener.decisions) < 8


def test_a_checkpoint_moves_what_is_saved_and_the_player_has_to_be_told_once() -> None:
    session, listener = claimed(), Listener()
    decide_all([session], TTL_MS)
    session.peer = listener
    session.take([entry(1), entry(2)])
    checkpoint = session.checkpoint(release=False)
    session.take([entry(3)])
    assert session.unsaved == 3
    assert session.saved_as(checkpoint, now=1.0)
    session.send_ack(now=1.0)
    assert [(ack.seq, ack.saved) for ack in listener.acks] == [(3, 2)]
    assert session.version != session.saved_version
    assert not session.saved_as(checkpoint, now=2.0)


def test_nobody_needs_a_session_without_a_socket_that_was_not_used_for_a_while() -> None:
    session = claimed()
    assert not session.idle(now=9.0, linger_s=10.0, give_up_s=4.0)
    assert session.idle(now=10.0, linger_s=10.0, give_up_s=4.0)
    session.peer, session.closed_at = Listener(), None
    assert not session.idle(now=99.0, linger_s=10.0, give_up_s=4.0)


def test_frames_that_redis_does_not_take_are_let_go_when_their_player_is_gone() -> None:
    session = claimed()
    session.accept(report(1))
    session.used_at = -100.0
    assert not session.idle(now=3.9, linger_s=10.0, give_up_s=4.0)
    assert session.idle(now=4.0, linger_s=10.0, give_up_s=4.0)

"""Each broken promise is seen, and kept ones are not."""

from typing import Any

import pytest

from tests.support.witness import Witness


def decision(n: int, epoch: int = 1) -> dict[str, Any]:
    return {"type": "decision", "n": n, "epoch": epoch, "rung": 0}


def hello(seq: int = 0, saved: int = 0, epoch: int = 1, first: int = 1) -> dict[str, Any]:
    return {"type": "hello", "seq": seq, "saved": saved, "epoch": epoch, "decision": decision(first, epoch)}


def ack(seq: int, saved: int = 0, gaps: int = 0) -> dict[str, Any]:
    return {"type": "ack", "seq": seq, "saved": saved, "gaps": gaps}


def after(*said: dict[str, Any], sent: int = 5, **options: Any) -> Witness:
    """A witness that sent 1..`sent` and heard `said`; every hello comes on a new socket."""
    witness = Witness(**options)
    for seq in range(1, sent + 1):
        witness.sent(seq)
    for message in said:
        if message["type"] == "hello":
            witness.opened()
        witness.received(message)
    return witness


def test_kept_promises_are_silent():
    said = (hello(), ack(2), decision(2), ack(4, 2), decision(3), hello(4, 4, 2), ack(5, 4), decision(2, 2), ack(5, 5))
    assert after(*said).violations == []


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ((hello(epoch=3), hello(epoch=3)), "hello.epoch 3 does not rise"),
        ((hello(epoch=3), hello(epoch=2)), "hello.epoch 2 does not rise"),
        ((hello(), ack(4), hello(3, epoch=2)), "hello.seq 3 is below 4, which was acknowledged"),
        ((hello(), ack(4, 4), hello(3, 3, epoch=2)), "hello.seq 3 is below 4, which was saved"),
        ((hello(), ack(4, 4), hello(4, 3, epoch=2)), "hello.saved 3 is below 4"),
        ((hello(9),), "hello.seq 9 was never sent"),
        ((hello(), ack(6)), "ack.seq 6 was never sent"),
        ((hello(), ack(3, 4)), "ack.saved 4 is above ack.seq 3"),
        ((hello(2, 3),), "hello.saved 3 is above hello.seq 2"),
        ((hello(), ack(4), ack(3)), "ack.seq fell from 4 to 3"),
        ((hello(), ack(4, 3), ack(4, 2)), "ack.saved fell from 3 to 2"),
        ((hello(), ack(4, 0, 1), ack(4, 0, 0)), "ack.gaps fell from 1 to 0"),
        ((hello(3, 2), ack(2, 2)), "is below the hello before it"),
        ((hello(), ack(4, 0, 2)), "ack.gaps is 2 at seq 4, where 0"),
        ((hello(first=2),), "the first decision of epoch 1 has n 2"),
        (({**hello(), "decision": None},), "hello has no decision"),
        ((hello(), decision(2), decision(2)), "decision.n 2 does not rise"),
        ((hello(), decision(2, epoch=7)), "decision of epoch 7 within epoch 1"),
    ],
)
def test_each_broken_promise_is_seen(said: tuple[dict[str, Any], ...], seen: str):
    assert any(seen in violation for violation in after(*said).violations)


def test_anything_before_hello_is_seen():
    witness = Witness()
    witness.opened()
    witness.received(ack(0))
    assert witness.violations == ["ack came before hello"]


def test_a_second_hello_on_one_socket_is_seen():
    witness = after(hello())
    witness.received(hello(epoch=2))
    assert "a second hello on one socket" in witness.violations


def test_a_frame_left_out_may_not_be_acknowledged_but_must_be_a_gap():
    witness = Witness()
    for seq in (1, 2, 5):
        witness.sent(seq)
    witness.opened()
    for said in (hello(), ack(2), ack(5, 0, 2)):
        witness.received(said)
    assert witness.violations == []
    witness.received(ack(5, 4, 2))
    assert witness.violations == ["ack.saved 4 was never sent"]


def test_a_wiped_redis_may_forget_what_was_acknowledged_but_not_what_was_saved():
    witness = after(hello(), ack(5, 3))
    witness.forgive_redis()
    witness.opened()
    witness.received(hello(3, 3, 2))
    assert witness.violations == []
    witness.forgive_redis()
    witness.opened()
    witness.received(hello(2, 2, 3))
    assert "hello.seq 2 is below 3, which was saved" in witness.violations


def test_redis_is_forgiven_once():
    witness = after(hello(), ack(5, 1))
    witness.forgive_redis()
    for said in (hello(2, 2, 2), ack(4, 2), hello(3, 2, 3)):
        if said["type"] == "hello":
            witness.opened()
        witness.received(said)
    assert witness.violations == ["hello.seq 3 is below 4, which was acknowledged"]


def test_a_decision_that_a_slow_reader_missed_is_counted_not_condemned():
    witness = after(hello(), decision(4))
    assert witness.violations == []
    assert witness.decisions_skipped == 2


def test_what_was_sent_before_by_another_is_no_violation():
    assert after(hello(40, 40), sent=0, had_before=40).violations == []


def answer(last_seq: int, **folds: Any) -> dict[str, Any]:
    return {"last_seq": last_seq, "saved_seq": last_seq, "frames": last_seq, "watched_seconds": 0.0, "segments": 0,
            "bytes": 0, "stalls": 0, "stall_ms": 0, "switches": 0, "gaps": 0, **folds}  # fmt: skip


def test_an_answer_that_goes_back_is_seen():
    witness = after(hello(), ack(5, 5))
    witness.answered(answer(5, bytes=10))
    witness.answered(answer(5, bytes=9))
    assert witness.violations == ["the answer's bytes fell from 10 to 9"]


def test_an_answer_below_what_was_saved_or_above_what_was_sent_is_seen():
    witness = after(hello(), ack(5, 5))
    witness.answered(answer(4))
    witness.answered(answer(6, saved_seq=5))
    assert witness.violations == [
        "the answer's last_seq 4 is below 5, which was saved",
        "the answer's last_seq 6 is not its saved_seq 5",
        "the answer's last_seq 6 was never sent",
    ]

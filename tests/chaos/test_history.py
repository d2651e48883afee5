"""Each thing that a history must not show is seen, and an ordinary history is in order."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tests.chaos.history import Write, broken_promises, untrue_saves

SESSION, OWNER = UUID(int=1), UUID(int=2)


def write(
    epoch: int, seq: int, writer: str = "a", at: float = 0.0, status: str = "active", owner: UUID | None = OWNER,
    **folds: Any,
) -> Write:  # fmt: skip
    state = {"frames": seq, **folds}
    return Write(datetime.fromtimestamp(at, UTC).timestamp(), writer, SESSION, epoch, owner, status, (seq, 0), state)


def test_claims_and_checkpoints_that_go_forward_are_in_order():
    writes = [write(0, 0), write(1, 0, "b"), write(1, 4, "b"), write(2, 4, "c"), write(2, 4, "c"), write(2, 9, "c")]
    assert broken_promises({SESSION: writes}) == []


def test_whoever_lost_a_session_may_ask_for_it_to_be_looked_at_when_nobody_has_it():
    assert broken_promises({SESSION: [write(2, 4, "c", owner=None), write(2, 4, "b"), write(3, 6, "c")]}) == []


@pytest.mark.parametrize(
    ("writes", "seen"),
    [
        ([write(2, 4, "c", owner=None), write(2, 5, "b")], "b wrote (5, 0) under epoch 2, which c claimed"),
        ([write(1, 4, "b"), write(2, 4, "c"), write(2, 4, "b")], "b wrote (4, 0) under epoch 2, which c claimed"),
        ([write(1, 4), write(1, 3)], "went from (1, (4, 0)) to (1, (3, 0))"),
        ([write(2, 4), write(1, 4)], "epoch 2 was followed by 1"),
        ([write(1, 4), write(1, 5, frames=3)], "frames fell from 4 to 3"),
        ([write(1, 4, bytes=9), write(1, 5, bytes=8)], "bytes fell from 9 to 8"),
        ([write(1, 4, status="ended"), write(1, 5, status="ended")], "was written after the end"),
    ],
)
def test_a_broken_promise_is_seen_in_the_history(writes: list[Write], seen: str):
    assert any(seen in found for found in broken_promises({SESSION: writes}))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([(1.0, 0), (10.5, 4), (11.0, 4), (20.1, 9)], []),
        ([(10.5, 4), (19.0, 9)], ["was told that 9 is saved 1.000 s before it was"]),
        ([(10.5, 10)], ["was told that 10 is saved, which it never was"]),
    ],
)
def test_what_is_said_to_be_saved_must_be_in_the_history_by_then(said: list[tuple[float, int]], found: list[str]):
    assert untrue_saves(said, [write(1, 0, at=0), write(1, 4, at=10), write(1, 9, at=20)]) == found

"""What was put for a time is due once, not before, and hardly later."""

import math

from hypothesis import given
from hypothesis import strategies as st

from server.timer_wheel import TimerWheel

STEP_S = 0.25
Seconds = st.floats(0, 100, allow_nan=False)


@given(began_at=Seconds, things=st.lists(Seconds, max_size=20), pauses_s=st.lists(st.floats(0, 30), min_size=1))
def test_each_is_due_once_and_when_it_is_time(began_at: float, things: list[float], pauses_s: list[float]) -> None:
    wheel: TimerWheel[int] = TimerWheel(STEP_S, began_at)
    for thing, at in enumerate(things):
        wheel.put(thing, at)
    now, waiting = began_at, set(range(len(things)))
    for pause_s in pauses_s:
        now += pause_s
        due = wheel.due(now)
        assert len(set(due)) == len(due)
        assert all(things[thing] <= now for thing in due)
        waiting -= set(due)
        assert all(max(things[thing], began_at) > now - STEP_S - 1e-9 for thing in waiting)


def test_what_was_removed_is_never_due_and_neither_is_what_has_no_time() -> None:
    wheel: TimerWheel[str] = TimerWheel(STEP_S, 0.0)
    for thing, at in (("kept", 1.0), ("gone", 1.0), ("never", math.inf)):
        wheel.put(thing, at)
    wheel.remove("gone", 1.0)
    wheel.remove("never", math.inf)
    wheel.remove("unknown", 3.0)
    assert wheel.due(1000.0) == ["kept"]
    assert wheel.due(2000.0) == []


def test_what_is_late_already_is_due_next_and_can_be_removed() -> None:
    wheel: TimerWheel[str] = TimerWheel(STEP_S, 10.0)
    wheel.put("late", 3.0)
    wheel.put("gone", 3.0)
    wheel.remove("gone", 3.0)
    assert wheel.due(10.0 + STEP_S) == ["late"]

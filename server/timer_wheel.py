"""What is due when, so that of ten thousand things the few that are due are found without looking at all (the hashed
wheel of Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, with a dict for its slots)."""

from collections.abc import Hashable
from math import floor, isfinite
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class TimerWheel(Generic[T]):
    """Times are monotonic seconds. A thing is due when its slot of `step_s` is over: late by up to one slot, and by how
    long it takes until somebody asks."""

    def __init__(self, step_s: float, now: float) -> None:
        self._step_s = step_s
        self._slots: dict[int, set[T]] = {}
        self._next = self._slot(now)

    def put(self, thing: T, at: float) -> None:
        """Have it due at `at`; never, when that is infinite."""
        if isfinite(at):
            self._slots.setdefault(max(self._slot(at), self._next), set()).add(thing)

    def remove(self, thing: T, at: float) -> None:
        """Forget a thing that was put for `at`, where it is not due yet."""
        if isfinite(at) and (slot := self._slots.get(max(self._slot(at), self._next))):
            slot.discard(thing)

    def due(self, now: float) -> list[T]:
        """What is due by now; it is forgotten here."""
        first, self._next = self._next, max(self._slot(now), self._next)
        return [thing for number in range(first, self._next) for thing in self._slots.pop(number, ())]

    def _slot(self, at: float) -> int:
        return floor(at / self._step_s)

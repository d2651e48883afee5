"""The service's own time: the machine's, and whatever it was moved on by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Unix seconds. It is moved on, never back; what falls due on the way happens at its own time."""

    def __init__(self, wall: Callable[[], float], ahead_s: float = 0.0) -> None:
        self.wall = wall
        self.ahead_s = ahead_s
        self._fixed: int | None = None

    def now(self) -> int:
        """The time that objects carry."""
        return int(self.wall() + self.ahead_s) if self._fixed is None else self._fixed

    @contextmanager
    def at(self, time: int) -> Iterator[None]:
        """Another time for as long as the block lasts."""
        before, self._fixed = self._fixed, time
        try:
            yield
        finally:
            self._fixed = before

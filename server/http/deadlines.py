"""How long the work on a request may take.

As `asyncio.timeout`, but that one timer looks at all of a process: to set and cancel one for each request costs more
than most of them take. Nothing here asks for the loop or the task under way, which is a system call in Python 3.11.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import Any, Self

# How much later than asked for an end may come.
LOOK_S = 0.05


class Deadlines:
    """Of all requests of a process; times are those of `time.monotonic`."""

    def __init__(self) -> None:
        self._running: set[Deadline] = set()
        self._looking = False

    def within(self, seconds: float, task: asyncio.Task[Any]) -> Deadline:
        """A block of `task` that is cancelled after `seconds` and then raises TimeoutError."""
        return Deadline(self, seconds, task)

    def add(self, deadline: Deadline) -> None:
        """Look at it from now on."""
        self._running.add(deadline)
        if not self._looking:
            self._look_again()

    def discard(self, deadline: Deadline) -> None:
        """Look at it no longer."""
        self._running.discard(deadline)

    def _look_again(self) -> None:
        self._looking = True
        asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._looking = False
        now = time.monotonic()
        for deadline in [running for running in self._running if running.left_s(now) <= 0]:
            deadline.expire()
        if self._running:
            self._look_again()


class Deadline:
    """One block's, and its `with`."""

    __slots__ = ("_all", "_cancelling", "_expired", "_task", "_when")

    def __init__(self, deadlines: Deadlines, seconds: float, task: asyncio.Task[Any]) -> None:
        self._all = deadlines
        self._task = task
        self._cancelling = task.cancelling()
        self._when: float | None = time.monotonic() + seconds
        self._expired = False

    def __enter__(self) -> Self:
        self._all.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._all.discard(self)
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def left_s(self, now: float) -> float:
        """The time that is left; without end while no time runs."""
        return inf if self._when is None else self._when - now

    def pause(self) -> float:
        """No time runs from now on; how much was left, s."""
        left_s = self.left_s(time.monotonic())
        self._when = None
        return left_s

    def go_on(self, seconds: float) -> None:
        """So much is left from now on, s."""
        self._when = None if seconds == inf else time.monotonic() + seconds

    def expire(self) -> None:
        """Cancel the block."""
        self._all.discard(self)
        self._expired = True
        self._task.cancel()

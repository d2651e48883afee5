"""A loop whose time passes as soon as nobody does anything: for actors, which wait for seconds and do no I/O."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from server.clock import Clock

Result = TypeVar("Result")
# Longer than anything waits: a test that waits for nothing at all should fail, not hang.
MOST_S = 86_400.0


class _Selector(selectors.DefaultSelector):
    """Instead of waiting it lets the loop's time pass."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None or self.passed_s > MOST_S:
                raise AssertionError("everything waits, and nothing will come")
            self.passed_s += max(timeout, 0.0)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.virtual = _Selector()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.passed_s


class VirtualClock(Clock):
    """The clock of the running virtual loop."""

    def now(self) -> datetime:
        """Some day, and the seconds that have passed."""
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """The loop's own time."""
        return asyncio.get_running_loop().time()


def run_virtually(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on a loop of its own, in virtual time."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)

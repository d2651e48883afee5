"""Whether this process has more to do than it can: then who comes new is sent elsewhere, and those inside are served.

One core is all that a process has. How much of it the loop's thread uses tells that it is full before anybody waits;
how late the loop is tells the same where the core is shared with others. Both are means over a few seconds, so that a
burst, such as a thousand players who come back at once, is taken; what rises steadily is not seen late for that. And a
process that stood still, with its machine or stopped, has room as soon as it goes on: that is when players come back.
"""

from __future__ import annotations

from math import exp

# Over how long both are averaged, s.
MEMORY_S = 4.0
# However long it took to come to it, one look counts for so long at most, and its lag for twice what is too late: one
# alone makes nobody full.
LONGEST_S = 1.0


class Load:
    """What the loop's thread did lately."""

    def __init__(self, full_share: float, full_lag_s: float) -> None:
        self._full_share = full_share
        self._full_lag_s = full_lag_s
        self._share = _Mean()
        self._lag_s = _Mean()

    def look(self, busy_s: float, passed_s: float, lag_s: float) -> None:
        """In the `passed_s` since the last look the thread used the processor for `busy_s`, and was `lag_s` late."""
        weight = 1 - exp(-min(passed_s, LONGEST_S) / MEMORY_S)
        self._share.add(min(busy_s / passed_s, 1.0), weight)
        self._lag_s.add(min(lag_s, 2 * self._full_lag_s), weight)

    @property
    def full(self) -> bool:
        """Whether to take nobody new."""
        return min(self._share.now, 1.0) > self._full_share or self._lag_s.now > self._full_lag_s


class _Mean:
    """Brown's double exponential smoothing: a mean lags behind what rises, and a mean of that as much again."""

    def __init__(self) -> None:
        self._once = 0.0
        self._twice = 0.0

    def add(self, value: float, weight: float) -> None:
        self._once += weight * (value - self._once)
        self._twice += weight * (self._once - self._twice)

    @property
    def now(self) -> float:
        """What is probably the case now."""
        return 2 * self._once - self._twice

"""Waiting for what another process does."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], timeout_s: float = 5) -> bool:
    """Whether `condition` comes to hold within `timeout_s`; looked at every 10 ms. For tests without a loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True

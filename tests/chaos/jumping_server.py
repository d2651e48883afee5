"""`python -m tests.chaos.jumping_server`: the server, with a wall clock that jumps at every SIGUSR1, to and fro within
what `auth.leeway_s` forgives."""

import itertools
import signal
import sys
from datetime import timedelta
from typing import Any

from server.__main__ import main
from server.clock import Clock

JUMPS_S = itertools.cycle([25, -25, 10, 0, -20])


def jump(*_: Any) -> None:
    """From now on the clock is off by the next of these."""
    off = timedelta(seconds=next(JUMPS_S))
    Clock.now = lambda self, right=RIGHT: right(self) + off  # type: ignore[misc]


RIGHT = Clock.now

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, jump)
    sys.exit(main())

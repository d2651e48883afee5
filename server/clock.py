"""The one source of time, so that a test can give another."""

import time
from datetime import UTC, datetime


class Clock:
    """Real time. A test's clock has the same two methods."""

    def now(self) -> datetime:
        """Wall-clock time in UTC."""
        return datetime.now(UTC)

    # Seconds that never go back, from an arbitrary zero; asked for with every frame.
    monotonic = staticmethod(time.monotonic)

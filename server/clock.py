"""The one source of time, so that a test can give another."""

import time
from datetime import UTC, datetime


class Clock:
    """Real time. A test's clock has the same two methods."""

    def now(self) -> datetime:
        """Wall-clock time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary zero."""
        return time.monotonic()

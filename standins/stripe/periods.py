"""When the period of a subscription ends."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta

from standins.stripe.wire import Json


def period_after(start: int, recurring: Json, anchor: int) -> int:
    """The end of the period that begins at `start`: so many days, weeks, months or years later.

    Months keep the day of `anchor`, as far as they have it: from 31 January to 28 February, and then to 31 March.
    """
    count = recurring["interval_count"]
    begin, first = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(anchor, UTC)
    if recurring["interval"] in ("day", "week"):
        days = count * (7 if recurring["interval"] == "week" else 1)
        return int((begin + timedelta(days=days)).timestamp())
    months = begin.year * 12 + begin.month - 1 + count * (12 if recurring["interval"] == "year" else 1)
    year, month = divmod(months, 12)
    day = min(first.day, calendar.monthrange(year, month + 1)[1])
    return int(begin.replace(year=year, month=month + 1, day=day).timestamp())

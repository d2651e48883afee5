"""The routes of a simulated player: what was put off is asked for again, by each in its own time."""

from typing import Any

import pytest

from loadtests.api import MOST_WAITS, Api, ApiError


class Overloaded(Api):
    """Puts off whatever is asked for; `waited` has how long each try was waited for (s)."""

    def __init__(self, retry_after_s: float) -> None:
        self.waited: list[float] = []
        super().__init__("http://nowhere", self.waited.append)
        self.retry_after_s = retry_after_s

    def _once(self, *_: Any) -> tuple[int, Any, float]:
        return 503, {"code": "overloaded"}, self.retry_after_s


def test_players_that_are_put_off_at_once_do_not_come_back_at_once():
    overloaded = Overloaded(2.0)
    with pytest.raises(ApiError, match="503 overloaded"):
        overloaded.request("GET", "/api/courses")
    assert len(set(overloaded.waited)) == MOST_WAITS
    assert all(2.0 <= wait_s <= 4.0 for wait_s in overloaded.waited)


def test_who_is_asked_to_wait_for_long_does_not():
    overloaded = Overloaded(900.0)
    with pytest.raises(ApiError):
        overloaded.request("GET", "/api/courses")
    assert overloaded.waited == []

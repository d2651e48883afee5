"""When a process takes nobody new."""

import pytest

from server.http.load import Load


def busy(load: Load, share: float, seconds: float, lag_s: float = 0.0) -> None:
    for _ in range(round(seconds / 0.25)):
        load.look(share * 0.25, 0.25, lag_s)


def test_a_burst_is_taken_and_what_lasts_is_not() -> None:
    load = Load(0.9, 0.5)
    busy(load, 0.5, 10)
    busy(load, 1.0, 2)
    assert not load.full
    busy(load, 1.0, 8)
    assert load.full


def test_who_has_room_again_takes_again_within_seconds() -> None:
    load = Load(0.9, 0.5)
    busy(load, 1.0, 60)
    assert load.full
    busy(load, 0.5, 2)
    assert not load.full


def test_where_the_core_is_anothers_the_lag_tells() -> None:
    load = Load(0.9, 0.5)
    busy(load, 0.4, 10, lag_s=0.8)
    assert load.full


@pytest.mark.parametrize("stood_still_s", [2, 8, 60])
def test_who_stood_still_takes_again_at_once(stood_still_s: float) -> None:
    load = Load(0.9, 0.5)
    busy(load, 0.4, 10)
    load.look(0.1, stood_still_s, stood_still_s - 0.25)
    assert not load.full


def test_who_stands_still_again_and_again_takes_nobody() -> None:
    load = Load(0.9, 0.5)
    for _ in range(3):
        load.look(0.1, 2.0, 1.75)
    assert load.full


def test_what_rises_steadily_is_seen_when_it_comes() -> None:
    load = Load(0.9, 0.5)
    share = 0.0
    while not load.full:
        busy(load, share, 0.25)
        share += 0.09 * 0.25
    assert 0.85 < share < 1.0

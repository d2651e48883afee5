"""Renditions become rungs."""

from server.domain.ladder import Rendition, make_ladder, segment_length


def test_rungs_are_numbered_from_the_lowest_and_each_stands_once() -> None:
    high, low = Rendition(1_499_600, 1280, 720), Rendition(300_000, 0, 0)
    assert make_ladder([high, low, high]) == [
        {"rung": 0, "br": 300, "width": 0, "height": 0},
        {"rung": 1, "br": 1500, "width": 1280, "height": 720},
    ]
    assert make_ladder([]) == []


def test_the_usual_segment_counts_not_the_short_last_one() -> None:
    assert segment_length([4.0, 4.0, 4.0, 0.7]) == 4.0
    assert segment_length([]) is None
    assert segment_length([0.0]) is None

"""The page's colours: what is written can be read, by day and by night (WCAG 2.2, 1.4.3), and as large as one likes."""

import re

import pytest

from tests.web.stage import ROOT

STYLE = (ROOT / "web" / "style.css").read_text()
COLOURS = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{([^}]*)\}", STYLE)]
LEAST = 4.5
WASH = 0.13  # how much of a pill's ground is of the colour that its word has


def channels(colour: str) -> list[float]:
    return [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]


def luminance(colour: list[float]) -> float:
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(ink: list[float], ground: list[float]) -> float:
    darker, lighter = sorted((luminance(ink), luminance(ground)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", COLOURS, ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "ink-soft", "ink-faint", "accent", "good", "warn", "bad"])
def test_words_can_be_read_on_paper_on_a_card_and_on_a_pill(scheme: dict[str, str], name: str) -> None:
    ink, card, paper = (channels(scheme[each]) for each in (name, "card", "paper"))
    pill = [WASH * mine + (1 - WASH) * its for mine, its in zip(ink, card, strict=True)]
    assert min(contrast(ink, ground) for ground in (card, paper, pill)) >= LEAST


def test_nothing_is_kept_from_who_has_no_mouse() -> None:
    """A tablet has no pointer that hovers, and may have keys, or somebody who speaks to it (2.1.4)."""
    assert re.findall(r"@media[^{]*\b(?:hover|pointer)", STYLE) == []


def test_letters_are_as_large_as_the_reader_has_them_and_so_is_the_room_that_they_need() -> None:
    """Who sets twice as large ones in the browser is shown all of them so, and what a smaller window shows (1.4.4)."""
    assert re.findall(r"font(?:-size)?:[^;]*\dpx", STYLE) == []
    assert re.findall(r"@media[^{]*\dpx", STYLE) == []

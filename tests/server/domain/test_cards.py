"""What is taken for a card's number and what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.cards import HIDDEN, has_card_number, hide_card_numbers

NUMBERS = [
    "4242424242424242", "4000056655665556", "5555555555554444", "2223003122003222", "378282246310005",
    "6011111111111117", "3056930009020004", "36227206271667", "3566002020360505", "6200000000000005",
]  # fmt: skip


def grouped(number: str, size: int, mark: str) -> str:
    """With a mark after every so many digits."""
    return mark.join(number[at : at + size] for at in range(0, len(number), size))


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_all_kinds_are_found_and_blotted_out(number: str) -> None:
    for form in (number, *(grouped(number, 4, mark) for mark in " -._")):
        text = f'{{"a": "{form}", "b": 1}}'
        assert has_card_number(text)
        assert hide_card_numbers(text) == f'{{"a": "{HIDDEN}", "b": 1}}'


@pytest.mark.parametrize(
    "text",
    [
        "4242424242424241", "0198a1b2-0000-7000-8000-000000000000", "1764393600000", "2026-11-29T05:48:51.204326Z",
        "a4242424242424242", "42424242424242424242424242", "4242 4242 4242", "", "pi_3Nabc4242424242424242x",
    ],
)  # fmt: skip
def test_other_numbers_are_left_alone(text: str) -> None:
    assert not has_card_number(text)
    assert hide_card_numbers(text) == text


@given(st.uuids())
def test_no_id_is_taken_for_a_card(value: object) -> None:
    assert not has_card_number(str(value))


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert has_card_number(text) == (hide_card_numbers(text) != text)

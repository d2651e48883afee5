"""Card numbers, which must never come in here: how they are told from other numbers, and how they are blotted out."""

import re

HIDDEN = "[card number]"

# 13 to 19 digits, singly or in groups with a blank, dash, dot or underscore between, and nothing of a word or an id
# around them: the digits within a UUID or a hash are none. No card's number begins with 0, 1, 7, 8 or 9, so that times
# in milliseconds and most counters are none either.
_DIGITS = re.compile(r"(?<![0-9A-Za-z.-])[2-6](?:[ ._-]?[0-9]){12,18}(?![0-9A-Za-z-])", re.ASCII)


def has_card_number(text: str) -> bool:
    """Whether what looks like a card's number stands in the text: long enough, and with the right check digit."""
    return any(_passes_luhn(match[0]) for match in _DIGITS.finditer(text))


def hide_card_numbers(text: str) -> str:
    """The text with each of them replaced by a word."""
    return _DIGITS.sub(lambda match: HIDDEN if _passes_luhn(match[0]) else match[0], text)


def _passes_luhn(number: str) -> bool:
    """Luhn's check (ISO/IEC 7812-1): from the right every second digit counts double, its own digits summed."""
    digits = [int(character) for character in reversed(number) if character.isdigit()]
    return sum(digits[0::2] + [digit * 2 - 9 * (digit > 4) for digit in digits[1::2]]) % 10 == 0

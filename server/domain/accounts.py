"""What a user name, an e-mail address and a password may be. Each check gives its text back or raises ValueError."""

import re
import unicodedata
from itertools import pairwise

from zxcvbn.frequency_lists import FREQUENCY_LISTS

# No character that means something in a mail's header, where an address must be one address, and each address one box:
# a mail to "ada@example.com,1" would go to Ada's.
_PLAIN = r"[^@\s,;:<>()\[\]\\\"]"
_LABEL = r"[^@\s,;:<>()\[\]\\\".]+"
_EMAIL = re.compile(rf"{_PLAIN}+@{_LABEL}(\.{_LABEL})+")

# What is tried first everywhere, of eight and more characters: from zxcvbn's ranking of leaked passwords.
COMMON_PASSWORDS = frozenset(word for word in FREQUENCY_LISTS["passwords"] if len(word) >= 8)
# zxcvbn finds simple numbers by rule and so leaves them out of its ranking. Longer ones than this nobody tries first.
_LONGEST_NUMBER = 12

# What leaves no ink and is neither a blank nor a control by its category: Unicode's Default_Ignorable_Code_Point among
# letters and marks (Hangul fillers, selectors of variants), and the Braille pattern without a dot.
UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def check_username(name: str) -> str:
    """A user name: printable, without blanks, and without an @ in any spelling, which tells an address from it."""
    if not name.isprintable() or any(character.isspace() for character in name) or UNSEEN.search(name):
        raise ValueError("must hold no blanks and no invisible characters")
    if "@" in unicodedata.normalize("NFKC", name):
        raise ValueError("must not hold an @")
    return name


def check_email(address: str) -> str:
    """An address that looks like one; whether it is one only a mail to it tells."""
    if not address.isprintable() or not _EMAIL.fullmatch(address):
        raise ValueError("must be an e-mail address")
    return address


def check_password(password: str) -> str:
    """A password that is not one of those that everybody tries first."""
    if password.lower() in COMMON_PASSWORDS or _is_simple_number(password):
        raise ValueError("is one of the most common passwords")
    return password


def _is_simple_number(password: str) -> bool:
    """The same again and again ("00000000", "123123123"), or each digit the next one ("23456789", "987654321")."""
    if len(password) > _LONGEST_NUMBER or not (password.isascii() and password.isdecimal()):
        return False
    steps = {ord(second) - ord(first) for first, second in pairwise(password)}
    return password in (password + password)[1:-1] or steps in ({1}, {-1})

"""What a user name, an e-mail address and a password may be. Each check gives its text back or raises ValueError."""

import re
import unicodedata

_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")

# The passwords of eight and more characters that are tried first everywhere.
COMMON_PASSWORDS = frozenset(
    """
    password password1 password12 password123 password! passw0rd p@ssw0rd p@ssword 12345678 123456789 1234567890
    0123456789 87654321 987654321 11111111 00000000 88888888 12341234 11223344 1q2w3e4r 1q2w3e4r5t 1qaz2wsx qwertyui
    qwertyuiop qwerty12 qwerty123 qwerty1234 asdfghjk asdfghjkl zxcvbnm1 abcd1234 abc12345 abcdefgh a1b2c3d4 iloveyou
    sunshine princess football baseball superman batman123 trustno1 starwars whatever computer internet michelle
    jennifer welcome1 welcome123 letmein1 letmein123 admin123 administrator changeme changeme1 dragon123 monkey123
    master123 shadow123 liverpool charlie1 google123 test1234 testtest
    """.split()  # noqa: SIM905 - a list of words reads as one
)


def check_username(name: str) -> str:
    """A user name: printable, without blanks, and without an @ in any spelling, which tells an address from it."""
    if not name.isprintable() or any(character.isspace() for character in name):
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
    if password.lower() in COMMON_PASSWORDS:
        raise ValueError("is one of the most common passwords")
    return password

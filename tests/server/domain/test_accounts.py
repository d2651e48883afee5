"""What a user name, an e-mail address and a password may be."""

from collections.abc import Callable

import pytest

from server.domain.accounts import COMMON_PASSWORDS, check_email, check_password, check_username


@pytest.mark.parametrize("name", ["a", "Ada_L", "jürgen", "李雷", "o'neil", "a-b.c"])
def test_names_of_all_scripts_are_taken(name: str) -> None:
    assert check_username(name) == name


@pytest.mark.parametrize("address", ["a@b.cd", "first.last+tag@mail.example.com", "ü@exämple.com"])
def test_addresses_are_taken_as_written(address: str) -> None:
    assert check_email(address) == address


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (check_username, "a b"), (check_username, "a\u00a0b"), (check_username, "a\u202eb"), (check_username, "a@b"),
        (check_email, "a"), (check_email, "a@"), (check_email, "@b.cd"), (check_email, "a@b"), (check_email, "a@b..cd"),
        (check_email, "a@b.cd\n"), (check_password, "Password"), (check_password, "12345678"),
    ],
)  # fmt: skip
def test_what_is_none_is_refused(check: Callable[[str], str], text: str) -> None:
    with pytest.raises(ValueError, match=r"must|most common"):
        check(text)


@pytest.mark.parametrize("password", ["00000000", "123123123", "12341234", "987654321", "0123456789", "23456789"])
def test_a_number_that_anybody_would_go_on_with_is_common(password: str) -> None:
    with pytest.raises(ValueError, match="most common"):
        check_password(password)


@pytest.mark.parametrize("password", ["x" * 256, "密码密码密码密码", "abcdefgh", "12341235", "0" * 13, "ü" * 8])
def test_a_password_that_is_long_or_of_ones_own_is_taken(password: str) -> None:
    assert check_password(password) == password


@pytest.mark.parametrize("more", [",1", "(1)", ";a@b.cd", "<a@b.cd>", ">", '"', ":25", "[1]", "\\1"])
def test_what_a_mail_program_reads_as_another_address_is_none(more: str) -> None:
    for address in (f"ada@example.com{more}", f"ada{more}@example.com", f"ada@example{more}.com"):
        with pytest.raises(ValueError, match="must"):
            check_email(address)


def test_the_common_passwords_are_such_as_would_pass_otherwise() -> None:
    assert all(len(password) >= 8 and password == password.lower() for password in COMMON_PASSWORDS)

import asyncio

from server.http.passwords import Passwords
from server.http.problems import Overloaded


async def test_every_character_of_a_password_counts_beyond_72_bytes_and_nul() -> None:
    passwords = Passwords(4)
    long = "päßwörd 🔑" * 30
    stored = await passwords.hash(long + "a")
    assert stored.startswith("$2b$04$")
    assert await passwords.verify(long + "a", stored)
    assert not await passwords.verify(long + "b", stored)
    stored = await passwords.hash("a\0b")
    assert not await passwords.verify("a\0c", stored)
    passwords.close()


async def test_who_would_wait_long_for_a_password_to_be_looked_at_is_refused_at_once() -> None:
    passwords = Passwords(10)
    stored = await passwords.hash("correct horse battery")
    asked = (passwords.verify("correct horse battery", stored) for _ in range(2000))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert set(map(type, answers)) == {bool, Overloaded}
    assert all(answer for answer in answers if isinstance(answer, bool))
    assert isinstance(answers[-1], Overloaded)
    assert await passwords.verify("correct horse battery", stored), "and all is well when the flood is over"
    passwords.close()


async def test_nobody_has_no_password_and_an_anonymised_row_neither() -> None:
    passwords = Passwords(4)
    assert not await passwords.verify("nobody has this password", None)
    assert not await passwords.verify("x", "")
    assert not await passwords.verify("nobody has this password", "")
    assert not await passwords.verify("x", "not a hash")
    passwords.close()

import asyncio
import subprocess
import sys
import time

import bcrypt
import pytest

from embedded.processes import ROOT
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


async def test_on_a_busy_machine_no_more_wait_for_passwords_than_can_be_answered_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passwords = Passwords(4)
    stored = await passwords.hash("correct horse battery")
    check = bcrypt.checkpw

    def slowly(password: bytes, hashed: bytes) -> bool:
        time.sleep(0.5)  # of which the processor's time says nothing
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", slowly)
    await asyncio.gather(*(passwords.verify("correct horse battery", stored) for _ in range(4)))
    asked = (passwords.verify("correct horse battery", stored) for _ in range(50))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert 2 <= answers.count(True) <= 7, "they are done in four times half a second"
    assert sum(isinstance(answer, Overloaded) for answer in answers) == 50 - answers.count(True)
    passwords.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no niceness of their own")
def test_passwords_are_looked_at_behind_the_loop_also_where_the_whole_process_gives_way() -> None:
    # As under `nice` or a unit's `Nice=`: who is not root may only become nicer.
    script = """
import asyncio, os
from server.http.passwords import Passwords
own = os.nice(15)
passwords = Passwords(4)
theirs = asyncio.run(passwords._run(os.getpriority, os.PRIO_PROCESS, 0))
passwords.close()
assert theirs == min(own + 10, 19), (own, theirs)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_nobody_has_no_password_and_an_anonymised_row_neither() -> None:
    passwords = Passwords(4)
    assert not await passwords.verify("nobody has this password", None)
    assert not await passwords.verify("x", "")
    assert not await passwords.verify("nobody has this password", "")
    assert not await passwords.verify("x", "not a hash")
    passwords.close()

import asyncio
import hashlib
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import bcrypt
import jwt
import pytest

from embedded.processes import ROOT
from server.clock import Clock
from server.http.auth import SESSION, Passwords, Tokens, Versions
from server.http.problems import Overloaded, Unauthorized

SECRET = "a secret of at least thirty-two bytes"
USER = uuid4()


class SetClock(Clock):
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def tokens(clock: SetClock) -> Tokens:
    return Tokens(SECRET, clock=clock)


def forged(clock: Clock, key: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    """A token like ours but for `changes`; None takes a claim away."""
    iat = int(clock.now().timestamp())
    claims: dict[str, Any] = {
        "iss": "lectern",
        "aud": "lectern:api",
        "sub": str(USER),
        "role": "student",
        "ver": 1,
        "iat": iat,
        "exp": iat + 900,
        "jti": "1",
    }
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm)


def test_an_access_token_says_what_the_api_promises(tokens: Tokens, clock: SetClock) -> None:
    token, expires_at = tokens.issue_access(USER, "instructor", 3)
    assert expires_at == clock.now() + timedelta(minutes=15)
    header, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    assert header == {"alg": "HS256", "typ": "JWT", "kid": hashlib.sha256(SECRET.encode()).hexdigest()[:8]}
    assert (claims["iss"], claims["aud"], claims["sub"]) == ("lectern", "lectern:api", str(USER))
    assert set(claims) == {"iss", "aud", "sub", "role", "ver", "iat", "exp", "jti"}
    verified = tokens.verify(token)
    assert (verified.sub, verified.role, verified.ver, verified.session_id) == (USER, "instructor", 3, None)
    assert verified.expires_at == expires_at
    assert tokens.verify(token) is verified


def test_a_session_token_is_for_its_session_alone(tokens: Tokens) -> None:
    session_id = uuid4()
    token, _ = tokens.issue_session(USER, session_id, 1, ttl_s=60)
    assert tokens.verify(token, SESSION).session_id == session_id
    with pytest.raises(Unauthorized):
        tokens.verify(token)
    with pytest.raises(Unauthorized):
        tokens.verify(tokens.issue_access(USER, "student", 1)[0], SESSION)


def test_a_token_ends_after_its_time_and_thirty_seconds_also_when_it_was_seen_before(
    tokens: Tokens, clock: SetClock
) -> None:
    token, _ = tokens.issue_access(USER, "student", 1)
    clock.advance(929)
    tokens.verify(token)
    clock.advance(1)
    with pytest.raises(Unauthorized, match="expired"):
        tokens.verify(token)
    with pytest.raises(Unauthorized, match="expired"):
        Tokens(SECRET, clock=clock).verify(token)


def test_a_token_from_the_future_is_refused_beyond_what_clocks_may_differ(tokens: Tokens, clock: SetClock) -> None:
    now = int(clock.now().timestamp())
    tokens.verify(forged(clock, iat=now + 30))
    with pytest.raises(Unauthorized, match="not valid yet"):
        tokens.verify(forged(clock, iat=now + 31))


@pytest.mark.parametrize("claim", ["sub", "role", "ver", "iat", "exp", "jti", "iss", "aud"])
def test_a_token_without_one_of_its_claims_is_refused(tokens: Tokens, clock: SetClock, claim: str) -> None:
    tokens.verify(forged(clock))
    with pytest.raises(Unauthorized):
        tokens.verify(forged(clock, **{claim: None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "other"},
        {"aud": "other"},
        {"aud": ["lectern:api", "x"]},
        {"sub": "me"},
        {"role": "king"},
        {"role": ["admin"]},
        {"ver": "1"},
        {"ver": True},
        {"exp": 1e300},
        {"exp": 1 << 62},
        {"exp": "soon"},
        {"key": "another secret of thirty-two bytes!!"},
        {"algorithm": "HS512", "key": SECRET * 2},
        {"algorithm": "none", "key": ""},
    ],
)
def test_a_token_that_is_not_ours_is_refused(tokens: Tokens, clock: SetClock, changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized):
        tokens.verify(forged(clock, **changes))


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "é.é.é", "....", "eyJhbGciOiJIUzI1NiJ9.e30.", "\0", "a" * 100_000])
def test_what_is_no_token_is_refused(tokens: Tokens, text: str) -> None:
    with pytest.raises(Unauthorized):
        tokens.verify(text)


def test_a_key_rotates_without_logging_anybody_out(clock: SetClock) -> None:
    old, new = SECRET, "the next secret, of forty bytes or so..."
    before = Tokens(old, clock=clock).issue_access(USER, "student", 1)[0]
    rotated = Tokens(new, [old], clock=clock)
    assert rotated.verify(before).sub == USER
    after = rotated.issue_access(USER, "student", 1)[0]
    with pytest.raises(Unauthorized):
        Tokens(old, clock=clock).verify(after)
    with pytest.raises(Unauthorized):
        Tokens(new, clock=clock).verify(before)


def test_short_secrets_sign_nothing() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Tokens("short")


class CountingDatabase:
    """Answers the version of one user and counts how often it is asked."""

    def __init__(self) -> None:
        self.ver: int | None = 1
        self.asked = 0

    async def fetchval(self, _sql: str, *_args: Any) -> int | None:
        self.asked += 1
        return self.ver


async def test_a_version_is_believed_for_a_few_seconds_and_then_asked_again(clock: SetClock) -> None:
    database, versions = CountingDatabase(), Versions(4, clock)
    user = UUID(int=1)
    assert [await versions.current(database, user, 1) for _ in range(3)] == [1, 1, 1]
    database.ver = 2
    clock.advance(3.9)
    assert await versions.current(database, user, 1) == 1
    clock.advance(0.2)
    assert await versions.current(database, user, 1) == 2
    database.ver = None
    versions.forget(user)
    assert await versions.current(database, user, 1) is None
    assert database.asked == 3


async def test_a_token_that_is_newer_than_the_version_believed_has_it_asked_again(clock: SetClock) -> None:
    database, versions = CountingDatabase(), Versions(4, clock)
    user = UUID(int=1)
    assert await versions.current(database, user, 1) == 1
    database.ver = 2
    assert [await versions.current(database, user, shown) for shown in (1, 2, 1, 2)] == [1, 2, 2, 2]
    assert database.asked == 2


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
from server.http.auth import Passwords
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

"""Who is asking: passwords, tokens, and whether a token's user is still what the token says.

A token is an HS256 JWT. Its `ver` is compared with `users.ver`, which every new role or password raises, so old tokens
end without a list of revoked ones; the comparison is cached for `auth.version_cache_s` (at most 5 s).
"""

import asyncio
import base64
import hashlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, Protocol
from uuid import UUID, uuid4

import bcrypt
import jwt
from aiohttp import web

from server.clock import Clock
from server.config import SECRET_BYTES
from server.data.db import queries
from server.http.keys import DATABASE, TOKENS, VERSIONS
from server.http.problems import Overloaded, Unauthorized

Role = Literal["student", "instructor", "admin"]
Audience = Literal["lectern:api", "lectern:session"]

API: Audience = "lectern:api"
SESSION: Audience = "lectern:session"
RANKS: dict[str, int] = {"student": 1, "instructor": 2, "admin": 3}
ISSUER = "lectern"

_REQUIRED = ["sub", "role", "ver", "iat", "exp", "jti", "iss", "aud"]
# The end of the year 9999, after which there are no times.
_LAST_MOMENT = 253_402_300_799
_CACHED_TOKENS = 20_000
_CACHED_USERS = 100_000
_users = queries("principals")


@dataclass(frozen=True, slots=True)
class Principal:
    """The user on whose behalf a request is made."""

    id: UUID
    role: str
    ver: int
    # The family of refresh tokens that the access token came with: this device's, as against others'.
    family_id: UUID | None = None

    def has(self, role: str) -> bool:
        """Whether this user's role is `role` or one above it."""
        return RANKS[self.role] >= RANKS[role]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says. `iat` and `exp` are Unix seconds; `session_id` only in a session's token, `family_id`
    only in an access token that was given with a refresh token."""

    sub: UUID
    role: str
    ver: int
    iat: int
    exp: int
    jti: str
    session_id: UUID | None = None
    family_id: UUID | None = None
    # The token's user.
    principal: Principal = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "principal", Principal(self.sub, self.role, self.ver, self.family_id))

    @property
    def expires_at(self) -> datetime:
        """`exp` as a time in UTC."""
        return datetime.fromtimestamp(self.exp, UTC)


class Tokens:
    """Issues and verifies tokens.

    `previous_secrets` verify only, so that a key is rotated without signing anybody out.
    """

    def __init__(
        self,
        secret: str,
        previous_secrets: Sequence[str] = (),
        access_ttl_s: float = 900.0,
        clock: Clock | None = None,
        leeway_s: float = 30.0,
    ) -> None:
        secrets = [s.encode() for s in (secret, *previous_secrets)]
        if any(len(s) < SECRET_BYTES for s in secrets):
            raise ValueError(f"a secret must have at least {SECRET_BYTES} bytes")
        self._key = secrets[0]
        self._kid = key_id(secrets[0])
        self._keys = {key_id(s): s for s in reversed(secrets)}
        self._access_ttl_s = access_ttl_s
        self._leeway_s = leeway_s
        self._clock = clock or Clock()
        # Verifying costs 45 us, and a client shows the same token again and again. By digest, a tenth as long.
        self._verified: dict[bytes, Claims] = {}

    def issue_access(self, user_id: UUID, role: str, ver: int, family_id: UUID | None = None) -> tuple[str, datetime]:
        """An access token and when it ends; `family_id` of the refresh token that is given with it."""
        more = {"fam": str(family_id)} if family_id else {}
        return self._issue(API, user_id, role, ver, self._access_ttl_s, **more)

    def issue_session(
        self, user_id: UUID, session_id: UUID, ver: int, role: str = "student", ttl_s: float = 43_200.0
    ) -> tuple[str, datetime]:
        """A token for one video session's socket and REST frames alone, and when it ends."""
        return self._issue(SESSION, user_id, role, ver, ttl_s, sid=str(session_id))

    def verify(self, token: str, audience: Audience = API) -> Claims:
        """The claims of a token that is ours, unexpired and made for `audience`. Raises Unauthorized."""
        shown = hashlib.sha256(f"{audience} {token}".encode("utf-8", "surrogatepass")).digest()
        claims = self._verified.get(shown)
        if claims is None:
            claims = self._decode(token, audience)
            if len(self._verified) >= _CACHED_TOKENS:
                self._verified.clear()
            self._verified[shown] = claims
        now = self._clock.now().timestamp()
        if claims.exp + self._leeway_s <= now:
            raise Unauthorized("The token has expired.")
        if claims.iat - self._leeway_s > now:
            raise Unauthorized("The token is not valid yet.")
        return claims

    def _issue(
        self, audience: Audience, user_id: UUID, role: str, ver: int, ttl_s: float, **more: str
    ) -> tuple[str, datetime]:
        iat = int(self._clock.now().timestamp())
        exp = int(iat + ttl_s)
        claims = {
            "iss": ISSUER,
            "aud": audience,
            "sub": str(user_id),
            "role": role,
            "ver": ver,
            "iat": iat,
            "exp": exp,
            "jti": str(uuid4()),
            **more,
        }
        token = jwt.encode(claims, self._key, algorithm="HS256", headers={"kid": self._kid})
        return token, datetime.fromtimestamp(exp, UTC)

    def _decode(self, token: str, audience: Audience) -> Claims:
        """Everything about a token but its age, which the caller compares with this object's clock."""
        try:
            kid = jwt.get_unverified_header(token).get("kid", self._kid)
            claims = jwt.decode(
                token,
                self._keys.get(kid, b"\0" * SECRET_BYTES),
                algorithms=["HS256"],
                audience=audience,
                issuer=ISSUER,
                options={"require": _REQUIRED, "verify_exp": False, "verify_iat": False, "strict_aud": True},
            )
            return _claims(claims, audience)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Unauthorized("The token is not valid.") from None


def _claims(claims: dict[str, Any], audience: Audience) -> Claims:
    """Check the types of the claims that were signed. Raises ValueError, TypeError, KeyError."""
    role, ver, iat, exp = claims["role"], claims["ver"], claims["iat"], claims["exp"]
    if role not in RANKS or any(type(number) is not int for number in (ver, iat, exp)) or exp > _LAST_MOMENT:
        raise ValueError
    session_id = UUID(claims["sid"]) if audience == SESSION else None
    family_id = UUID(claims["fam"]) if "fam" in claims else None
    return Claims(UUID(claims["sub"]), role, ver, iat, exp, str(claims["jti"]), session_id, family_id)


def key_id(secret: bytes) -> str:
    """The `kid` of a secret: the first 8 hex digits of its SHA-256."""
    return hashlib.sha256(secret).hexdigest()[:8]


class _Database(Protocol):
    async def fetchval(self, sql: str, *args: Any) -> Any: ...


class Versions:
    """`users.ver` by user, at most `max_age_s` old."""

    def __init__(self, max_age_s: float, clock: Clock) -> None:
        self._max_age_s = max_age_s
        self._clock = clock
        self._seen: dict[UUID, tuple[int | None, float]] = {}

    async def current(self, database: _Database, user_id: UUID, shown: int) -> int | None:
        """The user's version; None when the user is gone. Raises PostgresAway.

        `shown` is what a token says: where it is newer than what is known here, another process knows more.
        """
        now = self._clock.monotonic()
        ver, asked_at = self._seen.get(user_id, (None, -math.inf))
        if now - asked_at < self._max_age_s and (ver is None or ver >= shown):
            return ver
        ver = await _users.get_user_version(database, user_id=user_id)
        if len(self._seen) >= _CACHED_USERS:
            self._seen.clear()
        self._seen[user_id] = (ver, now)
        return ver  # type: ignore[no-any-return]

    def forget(self, user_id: UUID) -> None:
        """Ask Postgres at the user's next request: a role or password has just changed."""
        self._seen.pop(user_id, None)


def bearer_token(request: web.Request) -> str | None:
    """The token of the header `Authorization: Bearer`; None without the header. Raises Unauthorized on another kind."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("The header Authorization must be `Bearer <token>`.")
    return token


async def verify_current(app: web.Application, token: str, audience: Audience = API) -> Claims:
    """The claims of a valid token whose user still has the token's `ver`. Raises Unauthorized, PostgresAway."""
    claims = app[TOKENS].verify(token, audience)
    if await app[VERSIONS].current(app[DATABASE], claims.sub, claims.ver) != claims.ver:
        raise Unauthorized("The token is no longer valid: sign in again.")
    return claims


async def authenticate(request: web.Request) -> Principal | None:
    """The user of the request's access token; None when none is sent. Raises Unauthorized, PostgresAway."""
    token = bearer_token(request)
    if token is None:
        return None
    return (await verify_current(request.app, token)).principal


# Passwords that are looked at at the same time, and how long waiting for it and the work may take together.
_AT_ONCE = 2
_LONGEST_S = 2.25
# Of so many the quickest tells how long one takes: not a moment in which the machine stood still, but that it is busy.
_LATELY = 4
# Behind the loop's thread: about a tenth of what that gets.
_NICENESS = 10


class Passwords:
    """bcrypt over base64(sha256(password)): bcrypt alone stops at 72 bytes and at NUL.

    Two at a time in threads of their own, so that a flood of sign-ins slows sign-ins and nothing else. Whoever finds
    them taken and would need longer than `_LONGEST_S` is refused at once. What was begun is waited for, however slow
    the machine is (`paused`): if the handler's time ran out meanwhile, it would be done for nobody.
    """

    def __init__(self, cost: int) -> None:
        self._cost = cost
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="bcrypt", initializer=_give_way)
        self._waiting = 0
        self._took_s = deque[float](maxlen=_LATELY)  # the last ones, by the clock and not by the processor's time
        # Made now: the first unknown user would be told apart by the time it takes.
        self._threads.submit(self._timed, lambda: self._nobodys_hash)

    async def hash(self, password: str) -> str:
        """A hash to store. Raises Overloaded."""
        return await self._run(self._hash, password)  # type: ignore[no-any-return]

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password is the stored one. Without one (no such user, an erased one) it takes the
        same time and is False. Raises Overloaded."""
        return await self._run(self._verify, password, stored)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the threads; what waits in the queue is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Any, *args: Any) -> Any:
        longest_s = (self._waiting / _AT_ONCE + 1) * min(self._took_s, default=0.0)
        if self._waiting >= _AT_ONCE and longest_s > _LONGEST_S:
            raise Overloaded("Too many passwords wait to be looked at.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._timed, work, *args)
        finally:
            self._waiting -= 1

    def _timed(self, work: Any, *args: Any) -> Any:
        began = time.monotonic()
        try:
            return work(*args)
        finally:
            self._took_s.append(time.monotonic() - began)

    def _hash(self, password: str) -> str:
        return bcrypt.hashpw(_digest(password), bcrypt.gensalt(self._cost)).decode()

    def _verify(self, password: str, stored: str | None) -> bool:
        hashed = (stored or self._nobodys_hash).encode()
        try:
            return bcrypt.checkpw(_digest(password), hashed) and bool(stored)
        except ValueError:  # not a hash
            return False

    @cached_property
    def _nobodys_hash(self) -> str:
        return self._hash("nobody has this password")


def _give_way() -> None:
    """The loop's thread first, where both want the same core: on Linux each thread has a niceness of its own."""
    if sys.platform == "linux":
        os.nice(_NICENESS)


def _digest(password: str) -> bytes:
    """44 bytes without NUL. Lone surrogates cannot come here: bodies with them are refused."""
    return base64.b64encode(hashlib.sha256(password.encode()).digest())

"""Accounts: registering, signing in, and the pair of tokens that keeps somebody signed in.

A refresh token is opaque and kept as its SHA-256. It is good for one use, which gives the next of its family. One that
comes a second time was either sent again because the answer got lost (within `auth.refresh_grace_s`: nothing happens)
or stolen: then its whole family ends.
"""

import hashlib
import secrets
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from pydantic import BaseModel, Field

from server.data.db import Connection, Record, queries
from server.http import mails
from server.http.auth import Role, verify_current
from server.http.keys import EDGE, TOKENS
from server.http.login_limits import Wrong, account_of, guarded
from server.http.members import EmailAddress, Password, User, Username
from server.http.passwords import hash_password, verify_password
from server.http.problems import (
    BadCredentials,
    EmailTaken,
    Overloaded,
    RateLimited,
    RedisUnavailable,
    RefreshReused,
    RefreshSpent,
    Unauthorized,
    UsernameTaken,
    UserNotFound,
)
from server.http.routing import ANONYMOUS, STUDENT, Body, Call, Routes

routes = Routes("auth")
auth = queries("auth")
users = queries("users")

# The id, password hash and familiarity of a user whom nobody knows.
_NOBODY = None, None, False


class Registration(Body):
    """A new account. The password may be any text; every character of it counts."""

    username: Username
    email: EmailAddress
    password: Password


class Credentials(Body):
    """`login` is a user name or an e-mail address, in any case."""

    login: str = Field(max_length=254)
    password: str = Field(max_length=256)


class RefreshToken(Body):
    """A refresh token as it was given."""

    refresh_token: str = Field(max_length=1024)


class AccessToken(Body):
    """An access token to be looked at."""

    token: str = Field(max_length=8192)


class SignedIn(BaseModel):
    """A pair of tokens; `expires_in` is the access token's life in seconds."""

    user: User
    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    refresh_token: str


class Validity(BaseModel):
    """What a token is good for; `valid: false` stands alone."""

    valid: bool
    user_id: UUID | None = None
    role: Role | None = None
    expires_at: datetime | None = None


@routes.post(
    "/api/auth/register",
    role=ANONYMOUS,
    body=Registration,
    answer=SignedIn,
    status=201,
    location="/api/auth/me",
    problems=(UsernameTaken, EmailTaken, Overloaded),
    rate="auth",
)
async def register(call: Call[Registration]) -> dict[str, Any]:
    """Make an account, always a student's, and sign in to it."""
    password_hash = await hash_password(call, call.body.password)
    async with call.db.transaction() as tx:
        user = await auth.insert_user(
            tx, username=call.body.username, email=call.body.email, password_hash=password_hash
        )
        await mails.ask_to_verify(call, tx, user["id"])
        return await _enter(call, tx, user)


@routes.post(
    "/api/auth/login",
    role=ANONYMOUS,
    body=Credentials,
    answer=SignedIn,
    problems=(BadCredentials, RateLimited, RedisUnavailable, Overloaded),
    rate="auth",
)
async def login(call: Call[Credentials]) -> dict[str, Any]:
    """Sign in. An unknown user and a wrong password are told alike, in the same time.

    Failures are limited per account and per address; while they cannot be counted nobody signs in.
    """
    found = await auth.find_user_by_login(
        call.db, login=call.body.login, network=_network(call), known_days=call.config.auth.known_address_days
    )
    user_id, stored, known_here = (found["id"], found["password_hash"], found["known_here"]) if found else _NOBODY
    try:
        async with guarded(call, account_of(user_id, call.body.login), known_here=known_here, closed=True):
            if not await verify_password(call, call.body.password, stored):
                raise Wrong
    except Wrong:
        raise BadCredentials from None
    async with call.db.transaction() as tx:
        user = await auth.lock_verified_user(tx, user_id=user_id, password_hash=stored)
        if user is None:
            raise BadCredentials
        return await _enter(call, tx, user)


@routes.post(
    "/api/auth/refresh",
    role=ANONYMOUS,
    body=RefreshToken,
    answer=SignedIn,
    problems=(Unauthorized, RefreshSpent, RefreshReused),
    rate="auth",
)
async def refresh(call: Call[RefreshToken]) -> dict[str, Any]:
    """Give a refresh token for a new pair. Of several uses at once exactly one succeeds."""
    token_hash = _hash(call.body.refresh_token)
    async with call.db.transaction() as tx:
        user = await auth.lock_token_owner(tx, token_hash=token_hash)
        token = await auth.get_refresh_token(tx, token_hash=token_hash)
        if user is None or token is None or token["is_expired"]:
            raise Unauthorized("The refresh token is not valid.")
        if token["used_ago_s"] is None:
            await auth.spend_refresh_token(tx, token_hash=token_hash)
            return await _sign_in(call, tx, user, family_id=token["family_id"])
        if token["used_ago_s"] <= call.config.auth.refresh_grace_s:
            raise RefreshSpent
        await auth.end_token_family(tx, family_id=token["family_id"])
    raise RefreshReused


@routes.post("/api/auth/logout", role=ANONYMOUS, body=RefreshToken, status=204, rate="auth")
async def logout(call: Call[RefreshToken]) -> None:
    """End the refresh token's family. A token that is not good any more is as good as logged out."""
    token_hash = _hash(call.body.refresh_token)
    async with call.db.transaction() as tx:
        await auth.lock_token_owner(tx, token_hash=token_hash)
        await auth.delete_token_family(tx, token_hash=token_hash)


@routes.post("/api/auth/validate", role=ANONYMOUS, body=AccessToken, answer=Validity, rate="auth")
async def validate(call: Call[AccessToken]) -> dict[str, Any]:
    """Whether an access token is good now, and whose it is."""
    try:
        claims = await verify_current(call.app, call.body.token)
    except Unauthorized:
        return {"valid": False}
    return {"valid": True, "user_id": claims.sub, "role": claims.role, "expires_at": claims.expires_at}


@routes.get("/api/auth/me", role=STUDENT, answer=User, problems=(UserNotFound,), rate="read")
async def get_me(call: Call[None]) -> Record:
    """The account of the caller."""
    user: Record | None = await users.get_user(call.db, user_id=call.user.id)
    if user is None:
        raise UserNotFound
    return user


async def _enter(call: Call[Any], tx: Connection, user: Record) -> dict[str, Any]:
    """Sign in with a family of tokens of its own, and remember from where."""
    if network := _network(call):
        days = call.config.auth.known_address_days
        await auth.remember_address(tx, user_id=user["id"], network=network, known_days=days)
    return await _sign_in(call, tx, user, family_id=uuid4())


def _network(call: Call[Any]) -> str | None:
    """The caller's address as limits see it; None on a Unix socket."""
    return call.app[EDGE].client_network(call.request) or None


async def _sign_in(call: Call[Any], tx: Connection, user: Record, family_id: UUID) -> dict[str, Any]:
    """The answer with a new pair; the refresh token is stored in the caller's transaction."""
    refresh_token = secrets.token_urlsafe(32)
    await auth.insert_refresh_token(
        tx,
        user_id=user["id"],
        family_id=family_id,
        token_hash=_hash(refresh_token),
        ttl_s=call.config.auth.refresh_ttl_s,
    )
    access_token, _ = call.app[TOKENS].issue_access(user["id"], user["role"], user["ver"], family_id)
    return {
        "user": user,
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": int(call.config.auth.access_ttl_s),
        "refresh_token": refresh_token,
    }


def _hash(refresh_token: str) -> bytes:
    return hashlib.sha256(refresh_token.encode()).digest()

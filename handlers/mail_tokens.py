"""What is done with the links in mails: proving an address, and setting a password that was forgotten."""

from typing import Any
from uuid import UUID

from pydantic import Field

from server.data.db import queries
from server.http import mails
from server.http.keys import REVOCATION
from server.http.members import Password
from server.http.passwords import hash_password
from server.http.problems import BadToken, NotConfigured, Overloaded
from server.http.routing import ANONYMOUS, STUDENT, Body, Call, Reply, Routes
from server.services.mail import mail_configured

routes = Routes("auth")
tokens = queries("mails")
account = queries("account")


class Forgotten(Body):
    """The address of an account, in any case."""

    email: str = Field(max_length=254)


class MailToken(Body):
    """The token of a link."""

    token: str = Field(max_length=256)


class Reset(Body):
    """The token of a link, and the new password."""

    token: str = Field(max_length=256)
    new_password: Password


@routes.post("/api/auth/email/verify/resend", role=STUDENT, status=202, problems=(NotConfigured,), rate="auth")
async def resend_verification(call: Call[None]) -> Reply:
    """Send the mail that proves the address once more, if it is not proven."""
    if not mail_configured(call.config):
        raise NotConfigured
    async with call.db.transaction() as tx:
        await mails.ask_to_verify(call, tx, call.user.id)
    return Reply(status=202)


@routes.post("/api/auth/email/verify", role=ANONYMOUS, body=MailToken, status=204, problems=(BadToken,), rate="auth")
async def verify_email(call: Call[MailToken]) -> None:
    """Prove an address with the token that was sent to it."""
    async with call.db.transaction() as tx:
        user_id, email = await _spend(tx, call.body.token, "verify")
        await tokens.verify_email(tx, user_id=user_id, email=email)
        await tokens.end_tokens(tx, user_id=user_id, purpose="verify")


@routes.post("/api/auth/password/forgot", role=ANONYMOUS, body=Forgotten, status=202, rate="auth")
async def forget_password(call: Call[Forgotten]) -> Reply:
    """Ask for a mail to set a new password. The answer is the same for an address that nobody has."""
    await mails.ask_to_reset(call, call.body.email)
    return Reply(status=202)


@routes.post(
    "/api/auth/password/reset", role=ANONYMOUS, body=Reset, status=204, problems=(BadToken, Overloaded), rate="auth"
)
async def reset_password(call: Call[Reset]) -> None:
    """Set a new password with the token that was sent; one is signed out everywhere."""
    # Looked at first: hashing is too dear for whoever guesses.
    if await tokens.find_token(call.db, token_hash=mails.hash_token(call.body.token), purpose="reset") is None:
        raise _bad_token()
    password_hash = await hash_password(call, call.body.new_password)
    async with call.db.transaction() as tx:
        user_id, _ = await _spend(tx, call.body.token, "reset")
        await tokens.reset_password(tx, user_id=user_id, password_hash=password_hash)
        await tokens.end_tokens(tx, user_id=user_id, purpose=None)
        await account.end_families(tx, user_id=user_id, but_for=None)
        await mails.tell_password_changed(call, tx, user_id)
    await call.app[REVOCATION].announce(user_id)


async def _spend(tx: Any, token: str, purpose: mails.Purpose) -> tuple[UUID, str]:
    """Whose token it is, which is good no more, and the address that it was sent to. Raises BadToken."""
    row = await tokens.spend_token(tx, token_hash=mails.hash_token(token), purpose=purpose)
    if row is None:
        raise _bad_token()
    return row["user_id"], row["email"]


def _bad_token() -> BadToken:
    return BadToken(errors=[{"pointer": "/token", "detail": "is wrong, was used, or is too old"}])

"""The mails that accounts cause: asked for in the transaction of their cause, written and sent by a job.

Anybody can give an account anybody's address. So an address gets no more than `limits.mail`, from all accounts
together; what is more is not sent.

A job holds no token. It is made when the mail is written, from the job's id and a key, so that a mail that is sent
twice, because nobody knows whether it went out, holds the same one; kept is its hash.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from typing import Any, Literal
from uuid import UUID

from server.config import Config
from server.data.db import Connection, Database, queries
from server.data.jobs import Hopeless, Job, add_job
from server.data.limits import Limiter, Try
from server.http.login_limits import account_of
from server.http.routing import Call
from server.logs import get_logger
from server.services.mail import Mailer, mail_configured, page_address
from server.services.outside import ServiceRefused

KIND = "mail"
# The class of limits that counts them.
LIMIT = "mail"
# Mails with a token that somebody can have at the same time at one address: nobody's box is flooded through us.
MOST_TOKENS = 5

Purpose = Literal["verify", "reset"]
_mails = queries("mails")
log = get_logger()

GREETING = "Hello {username},\n\n"
VERIFY = (
    "Confirm your e-mail address",
    GREETING + "please confirm that this is your address:\n\n{link}\n\nThe link is good for {minutes} minutes. If you "
    "have no account at Lectern, somebody mistyped theirs: ignore this mail.\n",
)
RESET = (
    "Set a new password",
    GREETING + "somebody, probably you, asked for a new password. Set it here:\n\n{link}\n\nThe link is good for "
    "{minutes} minutes, and once. If it was not you, ignore this mail: your password stays as it is.\n",
)
PASSWORD_CHANGED = (
    "Your password was changed",
    GREETING + "your password was changed, and you are signed out on all other devices.\n\nIf it was not you, set "
    "another one now:\n\n{link}\n",
)
EMAIL_CHANGED = (
    "Your e-mail address was changed",
    GREETING + "your account has another e-mail address now; mails no longer come here.\n\nIf it was not you, sign in "
    "and change address and password:\n\n{link}\n",
)


async def ask_to_verify(call: Call[Any], tx: Connection, user_id: UUID) -> None:
    """A mail to the user's present address, if it is not verified."""
    await _ask(call, tx, mail="verify", user_id=str(user_id))


async def ask_to_reset(call: Call[Any], email: str) -> None:
    """A mail to whoever has this address. Whether anybody has is found out by the job: here it takes the same time."""
    await _ask(call, call.db, mail="reset", email=email)


async def tell_password_changed(call: Call[Any], tx: Connection, user_id: UUID) -> None:
    """A mail to the user's present address."""
    await _ask(call, tx, mail="password_changed", user_id=str(user_id))


async def tell_email_changed(call: Call[Any], tx: Connection, user_id: UUID, before: str) -> None:
    """A mail to the address of before."""
    await _ask(call, tx, mail="email_changed", user_id=str(user_id), email=before)


async def _ask(call: Call[Any], tx: Connection | Database, **payload: Any) -> None:
    if mail_configured(call.config):
        await add_job(tx, KIND, **payload)


def hash_token(token: str) -> bytes:
    """What is kept of a mail's token."""
    return hashlib.sha256(token.encode()).digest()


class Post:
    """Writes and sends the mails that were asked for."""

    def __init__(self, config: Config, database: Database, mailer: Mailer, limiter: Limiter) -> None:
        self._config = config
        self._database = database
        self._mailer = mailer
        self._limiter = limiter
        self._key = hmac.digest(config.auth.secret.encode(), b"lectern:mail-token", "sha256")
        self._writers: dict[str, Callable[[Job], Awaitable[None]]] = {
            "verify": self._verify,
            "reset": self._reset,
            "password_changed": self._password_changed,
            "email_changed": self._email_changed,
        }

    async def work(self, job: Job) -> None:
        """Do a job of the kind `mail`. Raises Hopeless for one that cannot be delivered, ServiceAway for the rest."""
        try:
            await self._writers[job.payload["mail"]](job)
        except ServiceRefused as error:
            raise Hopeless(str(error)) from error

    async def _verify(self, job: Job) -> None:
        user = await _mails.get_recipient(self._database, user_id=UUID(job.payload["user_id"]))
        if user is not None and not user["email_verified"]:
            await self._send_with_token(job, user, "verify", VERIFY)

    async def _reset(self, job: Job) -> None:
        user = await _mails.find_recipient(self._database, email=job.payload["email"])
        if user is not None:
            # To the address that we know, not to the one that was typed: they may differ in spelling.
            await self._send_with_token(job, user, "reset", RESET)

    async def _password_changed(self, job: Job) -> None:
        user = await _mails.get_recipient(self._database, user_id=UUID(job.payload["user_id"]))
        if user is not None:
            await self._send(user["email"], user, PASSWORD_CHANGED, "/forgot")

    async def _email_changed(self, job: Job) -> None:
        user = await _mails.get_recipient(self._database, user_id=UUID(job.payload["user_id"]))
        if user is not None:
            await self._send(job.payload["email"], user, EMAIL_CHANGED, "/account")

    async def _send_with_token(self, job: Job, user: Any, purpose: Purpose, mail: tuple[str, str]) -> None:
        if job.age_s > self._config.auth.mail_token_ttl_s:
            return  # whoever waited for it has asked again
        token = urlsafe_b64encode(hmac.digest(self._key, job.id.bytes, "sha256")).decode().rstrip("=")
        async with self._database.transaction() as tx:
            user = await _mails.lock_recipient(tx, user_id=user["id"])  # so that many at once are counted one by one
            if user is None:
                return
            kept = await _mails.insert_token(
                tx,
                user_id=user["id"],
                purpose=purpose,
                email=user["email"],
                token_hash=hash_token(token),
                ttl_s=self._config.auth.mail_token_ttl_s,
                most=MOST_TOKENS,
            )
        if kept is not None:
            await self._send(user["email"], user, mail, f"/{purpose}/{token}")

    async def _send(self, to: str, user: Any, mail: tuple[str, str], page: str) -> None:
        subject, text = mail
        link = page_address(self._config, page)
        minutes = max(1, round(self._config.auth.mail_token_ttl_s / 60))
        whose, tried = account_of(None, to), Try()
        try:
            verdict = await self._limiter.take(LIMIT, whose, tried=tried)
            if verdict is not None and not verdict.allowed:
                log.warning("mail_held_back", subject=subject, user=str(user["id"]))
                return
            await self._mailer.send(to, subject, text.format(username=user["username"], link=link, minutes=minutes))
        except BaseException:  # also where nobody knows whether it was counted: rather one mail more than none
            await self._limiter.give_back(LIMIT, whose, tried)
            raise

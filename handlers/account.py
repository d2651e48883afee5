"""One's own account: changing it, taking everything along, and leaving."""

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, Field

from server.data.answers import answers_key
from server.data.db import Connection, Record, queries
from server.data.jobs import Job, add_job
from server.data.streams import ANNOUNCED_WITHIN_S, REDIS_AWAY
from server.http import mails
from server.http.keys import CLOCK, DATABASE, EDGE, REDIS, REVOCATION
from server.http.login_limits import Wrong, account_of, guarded
from server.http.members import EmailAddress, Password, User, Username
from server.http.passwords import hash_password, verify_password
from server.http.problems import (
    EmailTaken,
    LastAdmin,
    Overloaded,
    RateLimited,
    UsernameTaken,
    UserNotFound,
    ValidationFailed,
    WrongPassword,
)
from server.http.routing import STUDENT, Body, Call, Change, Reply, Routes

routes = Routes("auth")
account = queries("account")
personal = queries("personal")
users = queries("users")

EXPORT_TIMEOUT_S = 20.0

# Jobs that erase once more, when whatever had begun before somebody left is over: what takes longest to arrive, and so
# much beyond it.
LEFTOVERS = "leftovers"
BEYOND_S = 60.0


class AccountChange(Change):
    """The members of the account to be changed. An address has to be verified anew."""

    username: Username = ""
    email: EmailAddress = ""
    avatar_file_id: UUID | None = Field(None, description="A public picture among one's files; null takes it away.")


class NewPassword(Body):
    """The password, and what it is to be."""

    current_password: str = Field(max_length=256)
    new_password: Password


class Farewell(Body):
    """Leaving takes the password."""

    current_password: str = Field(max_length=256)


class Export(BaseModel):
    """All that is kept about a user: the account, and by table the rows that name them. Positions are milliseconds."""

    exported_at: datetime
    account: User
    tables: dict[str, list[dict[str, Any]]]


@routes.patch(
    "/api/auth/me",
    role=STUDENT,
    body=AccountChange,
    answer=User,
    problems=(UserNotFound, UsernameTaken, EmailTaken),
    rate="write",
)
async def change_me(call: Call[AccountChange]) -> Record:
    """Change one's account."""
    changed = call.body.model_dump(exclude_unset=True)
    async with call.db.transaction() as tx:
        before = await users.lock_user(tx, user_id=call.user.id)
        if before is None:
            raise UserNotFound
        if "avatar_file_id" in changed and not await account.set_avatar(
            tx, user_id=call.user.id, file_id=changed["avatar_file_id"]
        ):
            raise ValidationFailed.at("/avatar_file_id", "You have no such public picture.")
        user: Record = await account.change_account(
            tx, user_id=call.user.id, username=changed.get("username"), email=changed.get("email")
        )
        if user["email"] != before["email"]:
            await mails.tell_email_changed(call, tx, user["id"], before["email"])
            await mails.ask_to_verify(call, tx, user["id"])
    return user


@routes.put(
    "/api/auth/me/password",
    role=STUDENT,
    body=NewPassword,
    status=204,
    problems=(UserNotFound, WrongPassword, RateLimited, Overloaded),
    rate="auth",
)
async def change_password(call: Call[NewPassword]) -> None:
    """Set another password. One is signed out everywhere else; here the refresh token gives the next access token."""
    user = await _own_account(call, call.body.current_password)
    password_hash = await hash_password(call, call.body.new_password)
    async with call.db.transaction() as tx:
        changed = await account.change_password(
            tx, user_id=user["id"], before=user["password_hash"], password_hash=password_hash
        )
        if changed is None:
            raise WrongPassword
        await account.end_families(tx, user_id=user["id"], but_for=call.user.family_id)
        await account.forget_resets(tx, user_id=user["id"])
        await mails.tell_password_changed(call, tx, user["id"])
    await call.app[REVOCATION].announce(user["id"])


@routes.get(
    "/api/auth/me/export",
    role=STUDENT,
    answer=Export,
    problems=(UserNotFound,),
    rate="write",
    timeout_s=EXPORT_TIMEOUT_S,
)
async def export_me(call: Call[None]) -> Reply:
    """All that is kept about the caller, as one document."""
    async with call.db.transaction() as tx:
        user = await users.lock_user(tx, user_id=call.user.id)
        if user is None:
            raise UserNotFound
        tables = {
            name.removeprefix("export_"): await query(tx, user_id=user["id"])
            for name, query in personal.statements.items()
            if name.startswith("export_")
        }
    body = {"exported_at": call.app[CLOCK].now(), "account": user, "tables": tables}
    return Reply(body, headers={"Content-Disposition": 'attachment; filename="lectern.json"'})


@routes.delete(
    "/api/auth/me",
    role=STUDENT,
    body=Farewell,
    status=204,
    problems=(UserNotFound, WrongPassword, RateLimited, Overloaded, LastAdmin),
    rate="auth",
)
async def erase_me(call: Call[Farewell]) -> None:
    """Leave: nothing says any more who it was. Courses one made, and what was paid, stay without a name.

    What one's other devices were just sending goes too, some minutes later.
    """
    user = await _own_account(call, call.body.current_password)
    over_in_s = call.config.files.receive_timeout_s + BEYOND_S
    async with call.db.transaction() as tx:
        await users.lock_user(tx, user_id=user["id"])
        await _erase_rows(tx, user["id"])
        await account.erase_account(tx, user_id=user["id"])
        await add_job(tx, LEFTOVERS, in_s=over_in_s, user_id=str(user["id"]))
    # First the sockets: who finds their sessions ended before would tell them that, and not to sign in again.
    await call.app[REVOCATION].announce(user["id"])
    # What the tutor said last is on its way there for a while; with Redis away it goes by itself (`chat.stream_ttl_s`).
    with suppress(*REDIS_AWAY):
        async with asyncio.timeout(ANNOUNCED_WITHIN_S):
            await call.app[REDIS].delete(answers_key(user["id"]))


def leftovers_eraser(app: web.Application) -> Any:
    """The work of jobs of the kind LEFTOVERS: rows that were written while their user left, and what was paid then."""

    async def erase(job: Job) -> None:
        user_id = UUID(job.payload["user_id"])
        async with app[DATABASE].transaction() as tx:
            await account.give_back_late_payments(tx, user_id=user_id)
            await _erase_rows(tx, user_id)

    return erase


async def _erase_rows(tx: Connection, user_id: UUID) -> None:
    for name, query in personal.statements.items():
        if name.startswith("erase_"):
            await query(tx, user_id=user_id)


async def _own_account(call: Call[Any], password: str) -> Record:
    """The caller's account after its password was checked, which is limited as signing in is.

    Raises UserNotFound, WrongPassword, RateLimited.
    """
    user: Record | None = await account.get_own_account(
        call.db,
        user_id=call.user.id,
        network=call.app[EDGE].client_network(call.request) or None,
        known_days=call.config.auth.known_address_days,
    )
    if user is None:
        raise UserNotFound
    try:
        async with guarded(call, account_of(user["id"]), known_here=user["known_here"], closed=False):
            if not await verify_password(call, password, user["password_hash"]):
                raise Wrong
    except Wrong:
        raise WrongPassword from None
    return user

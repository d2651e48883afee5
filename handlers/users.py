"""Users as administrators see them, and their roles. One has exactly one role, which includes those below it."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from server.data.audit import audit
from server.data.db import Record, queries
from server.http.auth import RANKS, Role
from server.http.keys import REVOCATION
from server.http.members import User
from server.http.paging import Page, PageQuery, page, read_cursor
from server.http.problems import LastAdmin, RoleNotFound, UserNotFound
from server.http.routing import ADMIN, STUDENT, Body, Call, Routes

routes = Routes("auth")
users = queries("users")


class UserFilter(PageQuery):
    """Which users."""

    q: Annotated[str, Field(max_length=254)] | None = Field(None, description="Part of a user name or address.")


class NewRole(Body):
    """The role that one is to have, above or below the present one."""

    role: Role


class Roles(BaseModel):
    """A user's role, and with it those included, highest first."""

    user_id: UUID
    role: Role
    roles: list[Role]


@routes.get("/api/auth/users", role=ADMIN, query=UserFilter, answer=Page[User], rate="read")
async def list_users(call: Call[None]) -> dict[str, Any]:
    """All users, newest first."""
    (after,) = read_cursor(call.query.cursor, UUID) or (None,)
    rows = await users.list_users(call.db, term=call.query.q or None, after=after, count=call.query.limit + 1)
    return page(call, rows, key=lambda row: (row["id"],))


@routes.get("/api/auth/users/{user_id}", role=ADMIN, answer=User, problems=(UserNotFound,), rate="read")
async def get_user(call: Call[None]) -> Record:
    """One user's account."""
    return await _user(call)


@routes.get("/api/auth/users/{user_id}/roles", role=STUDENT, answer=Roles, problems=(UserNotFound,), rate="read")
async def get_roles(call: Call[None]) -> dict[str, Any]:
    """A user's role and those it includes; others' are an administrator's to see."""
    if call.path.user_id != call.user.id and not call.user.has(ADMIN):
        raise UserNotFound
    return _roles(await _user(call))


@routes.post(
    "/api/auth/users/{user_id}/roles",
    role=ADMIN,
    body=NewRole,
    answer=Roles,
    problems=(UserNotFound, LastAdmin),
    rate="write",
)
async def assign_role(call: Call[NewRole]) -> dict[str, Any]:
    """Give a user exactly this role. Tokens and sockets of before end."""
    return await _set_role(call, call.body.role)


@routes.delete(
    "/api/auth/users/{user_id}/roles/{role}",
    role=ADMIN,
    answer=Roles,
    problems=(UserNotFound, RoleNotFound, LastAdmin),
    rate="write",
)
async def remove_role(call: Call[None]) -> dict[str, Any]:
    """Take a user's role; what is left is `student`. Tokens and sockets of before end."""
    return await _set_role(call, "student", only_from=call.path.role)


async def _user(call: Call[Any]) -> Record:
    row: Record | None = await users.get_user(call.db, user_id=call.path.user_id)
    if row is None:
        raise UserNotFound
    return row


async def _set_role(call: Call[Any], role: Role, only_from: str | None = None) -> dict[str, Any]:
    """Change the role in one transaction with the note of it, then tell every process. One that is there stays."""
    async with call.db.transaction() as tx:
        row = await users.lock_user(tx, user_id=call.path.user_id)
        if row is None:
            raise UserNotFound
        if only_from not in (None, row["role"]):
            raise RoleNotFound
        if row["role"] == role:
            return _roles(row)
        changed = await users.set_role(tx, user_id=row["id"], role=role)
        await audit(tx, call.user.id, "role_set", "user", row["id"], before=row["role"], after=role)
    await call.app[REVOCATION].announce(row["id"])
    return _roles(changed)


def _roles(row: Record) -> dict[str, Any]:
    included = [name for name in reversed(RANKS) if RANKS[name] <= RANKS[row["role"]]]
    return {"user_id": row["id"], "role": row["role"], "roles": included}

"""Mails about what is unread in the forums: wanting them, and having no more."""

from typing import Any

from pydantic import BaseModel, Field

from server.data.db import queries
from server.http.digests import UNSUBSCRIBE, read_token
from server.http.problems import BadToken
from server.http.routing import ANONYMOUS, STUDENT, Body, Call, Query, Routes

routes = Routes("forums")
digests = queries("digests")


class Wanted(Body):
    """Whether one wants a mail once a day about what is unread."""

    enabled: bool


class Digest(BaseModel):
    """Whether one gets a mail once a day about what is unread in the forums of one's courses; at first nobody does."""

    enabled: bool


class Unsubscribing(Query):
    """Whose mails are not wanted."""

    token: str = Field(max_length=200, description="Of the mail's link.")


@routes.get("/api/forums/digest", role=STUDENT, answer=Digest, rate="read")
async def get_digest(call: Call[None]) -> dict[str, Any]:
    """Whether one gets mails about what is unread."""
    return {"enabled": await digests.is_wanted(call.db, user_id=call.user.id)}


@routes.put("/api/forums/digest", role=STUDENT, body=Wanted, answer=Digest, rate="write")
async def set_digest(call: Call[Wanted]) -> dict[str, Any]:
    """Want mails about what is unread, or none. They go to an address that was proven, and to no other."""
    change = digests.want if call.body.enabled else digests.unwant
    await change(call.db, user_id=call.user.id)
    return {"enabled": call.body.enabled}


@routes.post(
    UNSUBSCRIBE,
    role=ANONYMOUS,
    query=Unsubscribing,
    status=204,
    problems=(BadToken,),
    rate="auth",
)
async def unsubscribe(call: Call[None]) -> None:
    """Have no more mails, by the link of one of them; as often as one likes. A body is not looked at (RFC 8058)."""
    user_id = read_token(call.config, call.query.token)
    if user_id is None:
        raise BadToken(errors=[{"pointer": "/token", "detail": "It is not one of ours."}])
    await digests.unwant(call.db, user_id=user_id)

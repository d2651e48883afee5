"""What waits for an operator to look at it: events of Stripe that were of no use, and jobs that were given up.

What can be done about them is `bin/admin`'s.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from server.data.db import queries
from server.http.paging import Page, PageQuery, page, read_cursor
from server.http.routing import ADMIN, Call, Routes

routes = Routes("ops")
payments = queries("payments")
jobs = queries("jobs")


class DeadEvent(BaseModel):
    """An event of Stripe, by Stripe's id, that was signed and changed nothing: why, and what was kept of its object."""

    id: str
    type: str
    reason: str
    facts: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class DeadJob(BaseModel):
    """Work that is tried no more: what it was, how often it was tried, and what it failed of in the end."""

    id: UUID
    kind: str
    payload: dict[str, Any]
    attempts: int
    error: str | None
    dead_at: datetime
    created_at: datetime
    updated_at: datetime


@routes.get("/api/ops/events", role=ADMIN, query=PageQuery, answer=Page[DeadEvent], rate="read")
async def list_events(call: Call[None]) -> dict[str, Any]:
    """Dead events of Stripe, the newest first."""
    before_at, before_id = read_cursor(call.query.cursor, datetime, str) or (None, None)
    rows = await payments.list_dead_events(
        call.db, before_at=before_at, before_id=before_id, count=call.query.limit + 1
    )
    return page(call, rows, key=lambda row: (row["created_at"], row["id"]))


@routes.get("/api/ops/jobs", role=ADMIN, query=PageQuery, answer=Page[DeadJob], rate="read")
async def list_jobs(call: Call[None]) -> dict[str, Any]:
    """Dead jobs, the newest first."""
    (before,) = read_cursor(call.query.cursor, UUID) or (None,)
    rows = await jobs.list_dead_jobs(call.db, before=before, count=call.query.limit + 1)
    return page(call, rows, key=lambda row: (row["id"],))

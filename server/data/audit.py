"""The record of what administrators do: who, what, to which row, in which request."""

from typing import Any
from uuid import UUID

from server.data.db import Connection, Database, queries
from server.logs import request_id

_audit = queries("audit")


async def audit(
    tx: "Connection | Database", actor_id: UUID | None, action: str, subject: str, subject_id: UUID, **details: Any
) -> None:
    """Note it in the transaction of what was done, so that neither is there without the other.

    Args:
        actor_id: who did it; None for an operator at the command line.
        action: what, as `noun_verb_in_the_past`: "role_set".
        subject: what kind of row it was done to ("user", "course"), and `subject_id` which.
        details: what else one will want to know, as JSON has it; never a secret, and no personal data that an erasure
            would have to find.
    """
    await _audit.insert_entry(
        tx,
        actor_id=actor_id,
        action=action,
        subject=subject,
        subject_id=subject_id,
        details=details,
        request_id=request_id.get() or None,
    )


async def audit_foreign(
    tx: "Connection | Database",
    actor_id: UUID,
    owner_id: UUID,
    action: str,
    subject: str,
    subject_id: UUID,
    **details: Any,
) -> None:
    """Note what was done to a row of `owner_id`, unless one did it to what is one's own: an administrator's doing."""
    if actor_id != owner_id:
        await audit(tx, actor_id, action, subject, subject_id, **details)

"""Every write to every session's row, in order: what end states do not show, such as a zombie that writes.

A trigger of the rig's own keeps them, in the same transaction. Each server process has a database role of its own, so
that it is known who wrote.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

KEEP = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.history (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    writer text NOT NULL DEFAULT session_user,
    session_id uuid NOT NULL, epoch bigint NOT NULL, owner uuid, status text NOT NULL,
    last_seq bigint NOT NULL, last_sub numeric NOT NULL, state jsonb NOT NULL
);
CREATE FUNCTION chaos.keep() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO chaos.history (session_id, epoch, owner, status, last_seq, last_sub, state)
    VALUES (NEW.id, NEW.epoch, NEW.owner, NEW.status, NEW.last_seq, NEW.last_sub,
            NEW.state::jsonb - 'watched_ranges_ms' - 'quality');
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_keep AFTER INSERT OR UPDATE ON video_sessions FOR EACH ROW EXECUTE FUNCTION chaos.keep();
"""
FOLDS = ("frames", "segments", "bytes", "gaps", "stalls", "stall_ms", "switches")


class Write(NamedTuple):
    """One version of a session's row. `at` is seconds since 1970, `state` the folds."""

    at: float
    writer: str
    session_id: UUID
    epoch: int
    owner: UUID | None
    status: str
    cursor: tuple[int, int]
    state: Mapping[str, Any]


async def read_history(connection: asyncpg.Connection[asyncpg.Record]) -> dict[UUID, list[Write]]:
    """All writes so far, those of a session in their order."""
    await connection.set_type_codec("jsonb", encoder=str, decoder=json.loads, schema="pg_catalog")
    rows = await connection.fetch(
        "SELECT extract(epoch FROM at)::float8, writer, session_id, epoch, owner, status, last_seq, last_sub, state"
        " FROM chaos.history ORDER BY session_id, n"
    )
    writes = [Write(*row[:6], (row[6], int(row[7])), row[8]) for row in rows]
    return {session_id: list(group) for session_id, group in itertools.groupby(writes, lambda write: write.session_id)}


def broken_promises(history: Mapping[UUID, Sequence[Write]]) -> list[str]:
    """What a history must not show: epochs, cursors and folds that go back, a zombie's write, a write after the end."""
    return [f"history of {session_id}: {what}" for session_id, writes in history.items() for what in _broken(writes)]


def _broken(writes: Sequence[Write]) -> Iterable[str]:
    claimer = writes[0].writer
    for before, after in itertools.pairwise(writes):
        if after.epoch != before.epoch:
            claimer = after.writer
            if after.epoch != before.epoch + 1:
                yield f"epoch {before.epoch} was followed by {after.epoch}"
        elif after.writer != claimer and not _is_given_away(before, after):
            yield (
                f"{after.writer} wrote {after.cursor} under epoch {after.epoch}, which {claimer} claimed"
                f" (before: {before.cursor})"
            )
        if after.cursor < before.cursor:
            yield f"(epoch, cursor) went from {before.epoch, before.cursor} to {after.epoch, after.cursor}"
        for fold in FOLDS:
            if after.state.get(fold, 0) < before.state.get(fold, 0):
                yield f"{fold} fell from {before.state[fold]} to {after.state.get(fold)} at {after.cursor}"
        if before.status == "ended" and after.cursor != before.cursor:
            yield f"{after.cursor} was written after the end"


def _is_given_away(before: Write, after: Write) -> bool:
    """Whether nothing but an owner was written where there was none: anybody may ask the reaper to look."""
    return before.owner is None and (before.status, before.cursor, before.state) == (
        after.status, after.cursor, after.state,
    )  # fmt: skip


def untrue_saves(said: Iterable[tuple[float, int]], writes: Sequence[Write]) -> list[str]:
    """`said`: when (seconds since 1970) a player was told that `saved` is at a seq. It must have been in Postgres."""
    cursors = [write.cursor[0] for write in writes]  # ascending, or it is a broken promise of its own
    found, told = [], 0
    for at, saved in said:
        if saved <= told:
            continue
        told = saved
        first = bisect.bisect_left(cursors, saved)
        if first == len(cursors):
            found.append(f"was told that {saved} is saved, which it never was")
        elif writes[first].at > at:
            found.append(f"was told that {saved} is saved {writes[first].at - at:.3f} s before it was")
    return found

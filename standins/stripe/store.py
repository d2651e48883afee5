"""What the service remembers, in one SQLite file: objects, events on their way, idempotency keys, work for later.

Whatever a request does is one transaction with its answer and its events, so a kill leaves nothing half done.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from standins.stripe.clock import Clock
from standins.stripe.wire import Json

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS objects_kind ON objects (kind, seq);
CREATE INDEX IF NOT EXISTS objects_customer ON objects (json_extract(body, '$.customer'), kind);
CREATE INDEX IF NOT EXISTS objects_payment_intent ON objects (json_extract(body, '$.payment_intent'), kind);
CREATE INDEX IF NOT EXISTS objects_charge ON objects (json_extract(body, '$.charge'), kind);
CREATE INDEX IF NOT EXISTS objects_source ON objects (json_extract(body, '$.source'), kind);
CREATE INDEX IF NOT EXISTS objects_invoice ON objects (json_extract(body, '$.invoice'), kind);
CREATE INDEX IF NOT EXISTS objects_invoice_intent ON objects (json_extract(body, '$.payment.payment_intent'), kind);
CREATE INDEX IF NOT EXISTS objects_subscription ON objects (json_extract(body, '$._.subscription'), kind);
CREATE TABLE IF NOT EXISTS idempotency_keys (
    key TEXT PRIMARY KEY, created INTEGER NOT NULL, fingerprint TEXT NOT NULL, request_id TEXT NOT NULL,
    status INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS idempotency_keys_created ON idempotency_keys (created);
CREATE TABLE IF NOT EXISTS deliveries (
    event TEXT PRIMARY KEY, state TEXT NOT NULL, due REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    copies INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (state, due);
CREATE TABLE IF NOT EXISTS tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, due INTEGER NOT NULL, kind TEXT NOT NULL, object TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS tasks_due ON tasks (due, seq);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Settings:
    """How one service is run. `public_url` is the origin that browsers reach it by, without a trailing slash."""

    data_dir: Path
    secret_key: str
    public_url: str
    publishable_key: str = "pk_test_lectern"
    webhook_url: str | None = None
    webhook_secret: str = ""
    webhook_backoff_s: float = 1.0
    webhook_tries: int = 16
    key_ttl_s: int = 86_400
    search_lag_s: float = 0.0
    """How long after a change the search knows it; Stripe's takes up to a minute."""
    retry_days: tuple[int, ...] = (3, 5, 7)
    """After how many days each a subscription's charge is tried again; then the subscription is canceled."""
    settles_s: int = 2
    """How long a pending refund takes."""
    wall: Callable[[], float] = time.time
    random: Callable[[], float] = random.random


class Store:
    """All objects by id. Not for threads: everything is done in the turn of one request."""

    def __init__(self, settings: Settings) -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(settings.data_dir / "stripe.sqlite", isolation_level=None)
        # What the operating system has been given survives our death, which is all that is asked of a stand-in.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(SCHEMA)
        self.clock = Clock(settings.wall, float(self.setting("ahead_s", 0.0)))

    def close(self) -> None:
        """End it."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def attempt(self) -> Iterator[Callable[[], None]]:
        """Within a transaction: what is done in the block is undone when the function that it gets is called."""
        self._db.execute("SAVEPOINT attempt")
        try:
            yield self._undo
        finally:
            self._db.execute("RELEASE attempt")

    def _undo(self) -> None:
        self._db.execute("ROLLBACK TO attempt")

    # -- objects -------------------------------------------------------------------------------------------------------

    def get(self, object_id: str) -> Json | None:
        """The object, or None when there is no such."""
        row = self._db.execute("SELECT body FROM objects WHERE id = ?", (object_id,)).fetchone()
        return json.loads(row[0]) if row is not None else None

    def put(self, found: Json) -> Json:
        """Keep a new object, or a changed one; the same is returned."""
        body = json.dumps(found, separators=(",", ":"))
        self._db.execute(
            "INSERT INTO objects (id, kind, body) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (found["id"], found["object"], body),
        )
        return found

    def delete(self, object_id: str) -> None:
        """Forget an object."""
        self._db.execute("DELETE FROM objects WHERE id = ?", (object_id,))

    def find(
        self,
        kind: str,
        *,
        before: str | None = None,
        after: str | None = None,
        limit: int = -1,
        created: Json | None = None,
        **members: Any,
    ) -> list[Json]:
        """Objects of a kind, the newest first, that have these members (`_subscription` looks among the hidden ones),
        or one of these patterns where a list is given.

        `after` and `before` are ids to begin after and to end before, `created` bounds as Stripe's (`gte`, `lt`, ...).
        """
        where: list[str] = ["kind = ?"]
        given: list[Any] = [kind]
        for name, value in members.items():
            path = f"$._.{name[1:]}" if name.startswith("_") else "$." + name.replace("__", ".")
            patterns = value if isinstance(value, list) else []
            like = " OR ".join([f"json_extract(body, '{path}') GLOB ?"] * len(patterns))
            where.append(f"({like})" if patterns else f"json_extract(body, '{path}') = ?")
            given.extend(patterns or [value])
        for edge, sign in ((after, "<"), (before, ">")):
            if edge is not None:
                where.append(f"seq {sign} (SELECT seq FROM objects WHERE id = ?)")  # noqa: S608  no text of others
                given.append(edge)
        for bound, sign in (("gt", ">"), ("gte", ">="), ("lt", "<"), ("lte", "<=")):
            if created and bound in created:
                where.append(f"json_extract(body, '$.created') {sign} ?")
                given.append(created[bound])
        # What stands before an id is nearest to it, however the list is shown.
        order = "ASC" if before is not None else "DESC"
        query = f"SELECT body FROM objects WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?"  # noqa: S608
        found = [json.loads(row[0]) for row in self._db.execute(query, (*given, limit))]
        return found[::-1] if before is not None else found

    def count(self, kind: str) -> int:
        """How many objects of a kind there are."""
        found: int = self._db.execute("SELECT count(*) FROM objects WHERE kind = ?", (kind,)).fetchone()[0]
        return found

    # -- idempotency keys ----------------------------------------------------------------------------------------------

    def remembered(self, key: str, ttl_s: int) -> tuple[str, str, int, str] | None:
        """(fingerprint, request id, status, body) of a key's first request, unless it is older than `ttl_s`."""
        self._db.execute("DELETE FROM idempotency_keys WHERE created <= ?", (self.clock.now() - ttl_s,))
        query = "SELECT fingerprint, request_id, status, body FROM idempotency_keys WHERE key = ?"
        found: tuple[str, str, int, str] | None = self._db.execute(query, (key,)).fetchone()
        return found

    def remember(self, key: str, fingerprint: str, request_id: str, status: int, body: str) -> None:
        """Keep a key's answer."""
        self._db.execute(
            "INSERT INTO idempotency_keys (key, created, fingerprint, request_id, status, body) VALUES (?,?,?,?,?,?)",
            (key, self.clock.now(), fingerprint, request_id, status, body),
        )

    # -- events on their way -------------------------------------------------------------------------------------------

    def add_delivery(self, event: str, state: str, due: float, copies: int) -> None:
        """An event that is to be told at `due` (of the machine's clock)."""
        self._db.execute(
            "INSERT INTO deliveries (event, state, due, copies) VALUES (?, ?, ?, ?)", (event, state, due, copies)
        )

    def set_delivery(self, event: str, state: str, due: float, tries: int, copies: int) -> None:
        """What became of a try."""
        self._db.execute(
            "UPDATE deliveries SET state = ?, due = ?, tries = ?, copies = ? WHERE event = ?",
            (state, due, tries, copies, event),
        )

    def deliveries(self, state: str | None = None) -> list[Json]:
        """`{event, state, due, tries, copies}`, the soonest due first."""
        names = ("event", "state", "due", "tries", "copies")
        where = "" if state is None else "WHERE state = ?"
        query = f"SELECT {', '.join(names)} FROM deliveries {where} ORDER BY due, rowid"  # noqa: S608
        given = () if state is None else (state,)
        return [dict(zip(names, row, strict=True)) for row in self._db.execute(query, given)]

    # -- work for later ------------------------------------------------------------------------------------------------

    def add_task(self, due: int, kind: str, object_id: str) -> None:
        """Something that happens to an object at a time of the service's own clock."""
        self._db.execute("INSERT INTO tasks (due, kind, object) VALUES (?, ?, ?)", (due, kind, object_id))

    def drop_tasks(self, kind: str, object_id: str) -> None:
        """It will not happen."""
        self._db.execute("DELETE FROM tasks WHERE kind = ? AND object = ?", (kind, object_id))

    def take_task(self, until: int) -> tuple[int, str, str] | None:
        """(due, kind, object) of the next that is due by then; it is gone with this transaction."""
        row = self._db.execute(
            "SELECT seq, due, kind, object FROM tasks WHERE due <= ? ORDER BY due, seq LIMIT 1", (until,)
        ).fetchone()
        if row is None:
            return None
        self._db.execute("DELETE FROM tasks WHERE seq = ?", (row[0],))
        return row[1], row[2], row[3]

    # -- settings that are changed while it runs -----------------------------------------------------------------------

    def setting(self, name: str, default: Any) -> Any:
        """A setting as it was last changed to."""
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def set_setting(self, name: str, value: Any) -> None:
        """Change a setting."""
        self._db.execute(
            "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, json.dumps(value)),
        )


SETTINGS = web.AppKey("settings", Settings)
STORE = web.AppKey("store", Store)

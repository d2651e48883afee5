"""What `bin/admin` does about payments: events that were of no use, and the keys under which tokens are kept."""

import argparse
from collections.abc import Callable
from typing import Any
from uuid import UUID

from server.admin_accounts import COUNT, Refused, print_row, with_database
from server.config import Config, ConfigError
from server.data.db import Database, queries
from server.data.jobs import add_job
from server.data.sealing import CannotOpen, make_ring
from server.http.payment_events import EVENT

payments = queries("payments")

# Rows that are sealed anew at a time.
_AT_ONCE = 500
_MOST_EVENTS = 10_000


async def list_events(_config: Config, database: Database, options: argparse.Namespace) -> None:
    """Events of Stripe that changed nothing, with why, newest first, an object a line."""
    for row in await payments.list_dead_events(database, before_at=None, before_id=None, count=options.count):
        print_row(row)


async def retry_events(_config: Config, database: Database, options: argparse.Namespace) -> None:
    """Let a running server take a dead event once more, or all of them."""
    dead = [
        row["id"]
        for row in await payments.list_dead_events(database, before_at=None, before_id=None, count=_MOST_EVENTS)
    ]
    chosen = [event_id for event_id in dead if options.event_id in (None, event_id)]
    if options.event_id and not chosen:
        raise Refused("there is no such dead event")
    async with database.transaction() as tx:
        for event_id in reversed(chosen):
            await add_job(tx, EVENT, event_id=event_id)
    print(f"{len(chosen)} to be taken once more")


async def reseal(config: Config, database: Database, _options: argparse.Namespace) -> None:
    """Seal all tokens of payment methods under the newest key, so that older ones can be dropped."""
    try:
        ring = make_ring(config.auth)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    sealed = unopened = 0
    after: UUID | None = None
    while rows := await payments.list_sealed_methods(database, after=after, count=_AT_ONCE):
        for row in rows:
            if not ring.is_stale(row["sealed_token"]):
                continue
            try:
                token = ring.open(row["sealed_token"], row["user_id"])
            except CannotOpen:
                unopened += 1
                continue
            again = ring.seal(token, row["user_id"])
            sealed += await payments.reseal_method(
                database, method_id=row["id"], before=row["sealed_token"], sealed_token=again
            )
        after = rows[-1]["id"]
    print(f"{sealed} sealed under the newest key")
    if unopened:
        raise Refused(f"{unopened} are sealed under keys that are not in auth.data_keys")


def _declare_events(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="one JSON object a line, newest first")
    listing.add_argument("--count", **COUNT)
    listing.set_defaults(run=with_database(list_events))
    retrying = actions.add_parser("retry", help="one once more, or all dead ones")
    retrying.add_argument("event_id", nargs="?", metavar="ID")
    retrying.set_defaults(run=with_database(retry_events))


def _declare_reseal(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=with_database(reseal))


# By name: what it is for, and what declares its options and sets `run`.
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], Any]]] = {
    "events": ("Events of Stripe that were of no use, or did not match.", _declare_events),
    "reseal": ("Seal payment methods' tokens under the newest key.", _declare_reseal),
}

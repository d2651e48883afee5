"""`bin/admin`: what an operator does by hand, on the parts that the settings name.

A command is a parser and a coroutine; `COMMANDS` has them all.
"""

import argparse
import asyncio
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import asyncpg
import orjson

from actors.restoring import Restorer
from server import admin_accounts, admin_payments
from server.admin_accounts import connected_postgres, connected_redis, count_of_lines
from server.config import Config, ConfigError, load_config
from server.data.db import DATABASE_AWAY
from server.data.dead_letters import DROPPED, list_letters, replay_letters
from server.data.streams import REDIS_AWAY, StreamFull, Streams

# What Postgres says of a database that is not migrated, or of text that it cannot hold.
REFUSALS = (asyncpg.PostgresError, asyncpg.InterfaceError)

LETTER = re.compile(r"\d+-\d+")

Run = Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when all was done, 1 when something was not, 2 for a bad setting or command line."""
    parser = argparse.ArgumentParser(prog="bin/admin")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (text, declare) in COMMANDS.items():
        declare(commands.add_parser(name, help=text, description=text))
    options = parser.parse_args(arguments)
    try:
        run: Run = options.run
        return asyncio.run(run(load_config(), options))
    except ConfigError as error:
        print(f"bin/admin: {error}", file=sys.stderr)
        return 2
    except (*DATABASE_AWAY, *REDIS_AWAY, *REFUSALS, StreamFull, ValueError) as error:
        print(f"bin/admin: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


# Dead letters --------------------------------------------------------------------------------------------------------


def _declare_dead_letters(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="one JSON object a line, newest first")
    listing.add_argument("--limit", type=count_of_lines, default=100, help="at most so many (100)")
    listing.set_defaults(run=_list_dead_letters)
    replay = actions.add_parser("replay", help="give frames to their sessions, states to Postgres, once more")
    which = replay.add_mutually_exclusive_group(required=True)
    which.add_argument("letters", nargs="*", default=[], metavar="LETTER", help="its `letter` in the list")
    which.add_argument("--all", action="store_true", help="every letter that there is")
    replay.set_defaults(run=_replay_dead_letters)


async def _list_dead_letters(config: Config, options: argparse.Namespace) -> int:
    async with connected_redis(config) as redis:
        for letter in await list_letters(redis, count=options.limit):
            shown = {
                "letter": letter.id,
                "at": letter.at,
                "session": letter.session_id,
                "entry": letter.entry,
                "error": letter.error,
            }
            for name, kept in (("frame", letter.frame), ("state", letter.state)):
                if kept is not None:
                    shown[name] = kept.decode(errors="replace")
            print(orjson.dumps(shown).decode())
    return 0


async def _replay_dead_letters(config: Config, options: argparse.Namespace) -> int:
    if malformed := [letter for letter in options.letters if not LETTER.fullmatch(letter)]:
        raise ValueError(f"{malformed[0]} is no letter's name, which is two numbers with a dash between")
    async with connected_redis(config) as redis, connected_postgres(config) as db:
        streams = Streams(redis, config.sessions.stream_ttl_s)
        letters = options.letters
        if options.all:
            letters = [letter.id for letter in await list_letters(redis)][::-1]
        restorer = Restorer(db, streams, config.sessions, complete_share=config.progress.complete_share)
        outcomes = await replay_letters(
            redis, streams, db, letters, most=config.sessions.unsaved_max, restore=restorer.restore
        )
    for letter, outcome in zip(letters, outcomes, strict=True):
        print(f"{letter}: {outcome}")
    return 0 if all(outcome in DROPPED for outcome in outcomes) else 1


# By name: what it is for, and what declares its options and sets `run`.
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], Any]]] = {
    **admin_accounts.COMMANDS,
    **admin_payments.COMMANDS,
    "dead-letters": (
        "Entries that no session's actor could apply, and states that Postgres refused.",
        _declare_dead_letters,
    ),
}

if __name__ == "__main__":
    sys.exit(main())

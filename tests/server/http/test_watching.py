"""Whose credentials run out gets new ones, whatever becomes of the others meanwhile."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from server.config import Config
from server.data.db import PostgresAway
from server.http.watching import RENEWALS_S, RETRY_S, Watcher, Watching
from tests.support.app import settings
from tests.support.core import SetClock


class Asked(Watching):
    """Notes who was asked about; each of `during` happens while the next one is."""

    def __init__(self, clock: SetClock) -> None:
        nothing: Any = None
        config: Config = settings("", "")
        super().__init__(config, nothing, nothing, nothing, nothing, clock, lambda *_: b"")
        self.asked: list[Any] = []
        self.during: list[Any] = []

    async def _renew(self, socket: Any, watcher: Watcher) -> float:
        self.asked.append(socket)
        if self.during:
            self.during.pop(0)()
        return watcher.renew_at + 3600


def watched(clock: SetClock, count: int) -> tuple[Asked, list[Any]]:
    """So many sockets, and the credentials of all run out now."""
    watching, nobody = Asked(clock), SimpleNamespace()
    sockets: list[Any] = [object() for _ in range(count)]
    for socket in sockets:
        claims: Any = nobody
        watching.add(socket, Watcher(uuid4(), uuid4(), claims, clock.monotonic()))
    return watching, sockets


async def test_who_ends_while_another_is_asked_about_costs_nobody_theirs() -> None:
    clock = SetClock()
    watching, sockets = watched(clock, 4)
    gone: list[Any] = []

    def leave() -> None:
        gone.extend(socket for socket in sockets if socket not in watching.asked)
        watching.remove(gone.pop())

    left = len(sockets) - 1
    watching.during.append(leave)
    clock.now_s += RENEWALS_S
    await watching.renew()
    assert len(watching.asked) == left
    clock.now_s += RETRY_S + RENEWALS_S
    await watching.renew()
    assert len(watching.asked) == left  # they have theirs


async def test_while_postgres_is_away_all_are_asked_about_again() -> None:
    clock = SetClock()
    watching, sockets = watched(clock, 3)

    def away() -> None:
        raise PostgresAway

    watching.during += [away, away, away]
    clock.now_s += RENEWALS_S
    await watching.renew()
    assert set(watching.asked) == set(sockets)
    watching.asked.clear()
    clock.now_s += RETRY_S + RENEWALS_S
    await watching.renew()
    assert set(watching.asked) == set(sockets)


async def test_a_fault_of_ours_loses_nobody() -> None:
    clock = SetClock()
    watching, sockets = watched(clock, 3)
    watching.during.append(lambda: 1 / 0)
    clock.now_s += RENEWALS_S
    try:
        await watching.renew()
    except ZeroDivisionError:
        watching.asked.clear()
    clock.now_s += RETRY_S + RENEWALS_S
    await watching.renew()
    assert set(watching.asked) == set(sockets)

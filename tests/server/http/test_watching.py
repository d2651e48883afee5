"""Whose credentials run out gets new ones, whatever becomes of the others meanwhile."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from server.config import Config
from server.data.db import PostgresAway
from server.http.watching import RENEWALS_S, RENEWALS_STEP_S, RETRY_S, Watcher, Watching
from server.services.video_host import VideoHost
from tests.support.app import settings
from tests.support.cloudflare import KEY_ID, signing_key_pem
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


@pytest.mark.parametrize("ttl_s", [4, 10, 45, 3600])
def test_new_addresses_come_while_the_old_ones_are_still_good(ttl_s: int) -> None:
    clock: Any = SetClock()
    nothing: Any = None
    keys = {"signing_key_id": KEY_ID, "signing_key_pem": signing_key_pem(), "customer_domain": "host.example.org"}
    config = settings("", "", cloudflare={"playback_ttl_s": ttl_s, **keys})
    host = VideoHost(nothing, config.cloudflare, clock)
    watching = Watching(config, nothing, nothing, nothing, host, clock, lambda *_: b"")
    video: Any = {"cloudflare_uid": "video-1", "ends_at": None}
    for second in range(60):
        now = datetime(2026, 3, 1, 12, 0, second, 900_000, tzinfo=UTC)
        clock.now = lambda now=now: now
        given: Any = watching.playback(video)
        due_s = watching.first_renewal(0.0, None) - clock.monotonic()
        asked_at = now + timedelta(seconds=due_s + RENEWALS_S + RENEWALS_STEP_S)
        assert asked_at < given["expires_at"], (second, due_s)

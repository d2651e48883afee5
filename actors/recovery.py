"""From a claimed row to a live session: the checkpoint, then the stream's entries after its cursor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from actors.video_session.actor import VideoSession
from server import metrics
from server.clock import Clock
from server.data.streams import Streams

log = structlog.get_logger()

PAGE = 1000


async def recover(row: Mapping[str, Any], streams: Streams, clock: Clock) -> VideoSession:
    """Replay a session that was claimed with `row`. Raises RedisError when Redis is away.

    Where an entry tells that Redis lost what came before it, the replay stops, and the stream begins anew after the
    session's cursor: the player still holds the rest.
    """
    session = VideoSession(row, now=clock.monotonic())
    started, before = clock.monotonic(), session.state.frames
    more = True
    while more:
        entries = await streams.take_up(session.key, session.state.cursor, PAGE)
        # A page that is not full was the last one; what came since is read by whoever serves the session.
        more = len(entries) == PAGE
        dead, whole = session.replay(entries)
        for entry, error in dead:
            metrics.DEAD_LETTERS.inc()
            log.error("dead_letter", session=str(session.id), entry=f"{entry.seq}-{entry.sub}", error=error)
            await streams.bury(session.key, entry, error, remove=not session.passed(entry))
        if not whole:
            metrics.STREAMS_LOST.inc()
            log.warning("stream_lost_entries", session=str(session.id), cursor=session.state.cursor)
            await streams.delete([session.key])
            session.changed()
            break
    metrics.REPLAY_SECONDS.observe(clock.monotonic() - started)
    metrics.REPLAYED.inc(session.state.frames - before)
    return session

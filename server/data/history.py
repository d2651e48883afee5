"""What was watched of a video, taken away before the video is.

A video goes with its sessions. Of one that a hundred thousand have watched these are more than a statement, or a
request's usual time, is enough for, so those that have ended go first, some at a time: nobody comes back to them.
"""

from collections.abc import Sequence
from uuid import UUID

from server.data.db import Database, queries

# Rows that one statement takes away: a second's work, and no learner waits for it.
MOST = 2000
# The time that a request has for all of them; whoever asks again goes on where it ended.
FORGETS_WITHIN_S = 60.0

_videos = queries("videos")


async def forget_history(database: Database, video_ids: Sequence[UUID]) -> None:
    """Take away who has watched these videos, but for sessions that go on. Raises DATABASE_AWAY."""
    for forget in (_videos.forget_sessions, _videos.forget_viewers):
        while await forget(database, video_ids=video_ids, most=MOST) == MOST:
            pass

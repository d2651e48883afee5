"""Where answers come from: the passages of what a learner may watch and read, and the courses that may come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.conversation.grounding import Embedder, Grounding, ground
from actors.conversation.recommendations import recommend
from actors.conversation.turns import Turn
from server.data.db import Database


class CourseMaterial:
    """What is kept in Postgres."""

    def __init__(self, db: Database, embedder: Embedder | None) -> None:
        self._db = db
        self._embedder = embedder

    async def ground(self, turn: Turn) -> Grounding:
        """The passages that fit the question, of what its asker may watch and read. Raises DATABASE_AWAY."""
        return await ground(
            self._db,
            self._embedder,
            question=turn.question,
            viewer_id=turn.viewer.id,
            viewer_role=turn.viewer.role,
            **turn.place._asdict(),
        )

    async def recommend(self, turn: Turn) -> Sequence[dict[str, Any]]:
        """Courses to go on with, where the question asks for some or some fit it. Raises DATABASE_AWAY."""
        told = await recommend(self._db, turn.viewer.id, turn.question)
        return [one.shown for one in told]

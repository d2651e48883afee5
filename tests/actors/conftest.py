"""A lecture and a learner for every session."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import pytest

from tests.support.core import Core, insert_session, running
from tests.support.lectures import Lecture, make_learner, make_lecture


@dataclass
class Place:
    """Parts with a lecture and a learner in them."""

    dsn: str
    redis_url: str
    lecture: Lecture
    user_id: UUID

    async def new_session(self, core: Core, **columns: object) -> UUID:
        """One more session of the learner."""
        return await insert_session(core.db, self.lecture, self.user_id, **columns)


@pytest.fixture
async def place(postgres_dsn: str, redis_url: str) -> Place:
    lecture = await make_lecture(postgres_dsn)
    return Place(postgres_dsn, redis_url, lecture, await make_learner(postgres_dsn, lecture.course_id))


@pytest.fixture
async def core(place: Place) -> AsyncIterator[Core]:
    """A process's core at work."""
    async with running(place.dsn, place.redis_url) as core:
        yield core


@pytest.fixture
async def still_core(place: Place) -> AsyncIterator[Core]:
    """A core of which nothing goes on by itself."""
    async with running(place.dsn, place.redis_url, start=False) as core:
        yield core

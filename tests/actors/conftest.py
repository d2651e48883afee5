"""A lecture and a learner for every session."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import pytest

from embedded.postgres import Postgres
from server.data.migrate import migrate
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


async def make_place(postgres_dsn: str, redis_url: str) -> Place:
    lecture = await make_lecture(postgres_dsn)
    return Place(postgres_dsn, redis_url, lecture, await make_learner(postgres_dsn, lecture.course_id))


@pytest.fixture
async def place(postgres_dsn: str, redis_url: str) -> Place:
    return await make_place(postgres_dsn, redis_url)


@pytest.fixture
async def own_place(own_postgres: Postgres, redis_url: str) -> Place:
    """The same in a Postgres that may be killed or paused (`own_postgres`)."""
    await migrate(own_postgres.dsn)
    return await make_place(own_postgres.dsn, redis_url)


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

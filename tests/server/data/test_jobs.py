"""Jobs: done by one process at a time, tried again later each time, dead after enough."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from server.config import Jobs as JobSettings
from server.data.db import Database, queries
from server.data.jobs import LONGEST_S, Hopeless, Job, Jobs, add_job, pause_s

SETTINGS = JobSettings(attempts=3, backoff_s=10.0, lease_s=30.0)
jobs_sql = queries("jobs")


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    database = await Database.open(postgres_dsn, pool_size=5, timeout_s=5)
    yield database
    await database.close()


class Recorder:
    """Work that notes its jobs, and fails as told."""

    def __init__(self, fail: Callable[[Job], None] = lambda _: None) -> None:
        self.jobs: list[Job] = []
        self._fail = fail

    async def __call__(self, job: Job) -> None:
        self.jobs.append(job)
        self._fail(job)


def raising(error: Exception) -> Callable[[Job], None]:
    def fail(_job: Job) -> None:
        raise error

    return fail


async def rows(database: Database) -> list[dict[str, Any]]:
    return [dict(row) for row in await jobs_sql.list_jobs(database, only_dead=False, count=100)]


async def let_time_pass(database: Database) -> None:
    await database.execute("UPDATE jobs SET run_at = now()")


async def test_a_job_is_done_once_with_what_it_was_given(database: Database) -> None:
    work = Recorder()
    async with database.transaction() as tx:
        await add_job(tx, "wave", to="Ada", times=3)
    await Jobs(database, SETTINGS, {"wave": work}).run_due()
    assert [(job.kind, job.payload, job.attempts) for job in work.jobs] == [("wave", {"to": "Ada", "times": 3}, 1)]
    assert await rows(database) == []


async def test_a_job_of_a_transaction_that_failed_is_none(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as tx:
            await add_job(tx, "wave")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await rows(database) == []


async def test_of_many_processes_each_takes_other_jobs(database: Database) -> None:
    for n in range(40):
        await add_job(database, "wave", n=n)
    workers = [Recorder() for _ in range(4)]
    processes = [Jobs(database, SETTINGS, {"wave": work}) for work in workers]
    while sum(await asyncio.gather(*(process.run_due() for process in processes))):
        pass
    done = sorted(job.payload["n"] for work in workers for job in work.jobs)
    assert done == list(range(40))


async def test_what_fails_is_tried_again_later_and_is_dead_after_enough(database: Database) -> None:
    work = Recorder(raising(ConnectionError("nobody there")))
    process = Jobs(database, SETTINGS, {"wave": work})
    await add_job(database, "wave")
    assert await process.run_due() == 1
    assert await process.run_due() == 0, "not before its time"
    for _ in range(2):
        await let_time_pass(database)
        assert await process.run_due() == 1
    await let_time_pass(database)
    assert await process.run_due() == 0, "a dead one is left alone"
    (row,) = await rows(database)
    assert (row["attempts"], row["error"]) == (3, "ConnectionError: nobody there")
    assert row["dead_at"] is not None


async def test_what_is_hopeless_is_dead_at_once(database: Database) -> None:
    await add_job(database, "wave")
    await Jobs(database, SETTINGS, {"wave": Recorder(raising(Hopeless("no such address")))}).run_due()
    (row,) = await rows(database)
    assert row["dead_at"] is not None


async def test_a_dead_job_that_an_operator_wakes_has_all_its_attempts_again(database: Database) -> None:
    await add_job(database, "wave")
    await Jobs(database, SETTINGS, {"wave": Recorder(raising(Hopeless("full")))}).run_due()
    assert await jobs_sql.retry_jobs(database, job_id=None) == 1
    work = Recorder()
    await Jobs(database, SETTINGS, {"wave": work}).run_due()
    assert [job.attempts for job in work.jobs] == [1]
    assert await rows(database) == []


async def test_a_job_whose_process_died_is_due_again_after_its_lease(database: Database) -> None:
    await add_job(database, "wave")
    claimed = await jobs_sql.claim_jobs(database, kinds=["wave"], count=10, lease_s=30.0)
    assert len(claimed) == 1  # and then nothing: the process died
    work = Recorder()
    process = Jobs(database, SETTINGS, {"wave": work})
    assert await process.run_due() == 0
    await let_time_pass(database)
    assert await process.run_due() == 1
    assert work.jobs[0].attempts == 2


async def test_a_job_that_takes_its_process_down_every_time_ends_too(database: Database) -> None:
    await add_job(database, "wave")
    for _ in range(3):
        await jobs_sql.claim_jobs(database, kinds=["wave"], count=10, lease_s=30.0)
        await let_time_pass(database)
    work = Recorder()
    await Jobs(database, SETTINGS, {"wave": work}).run_due()
    assert work.jobs == []
    assert (await rows(database))[0]["dead_at"] is not None


async def test_who_lost_a_lease_ends_nothing(database: Database) -> None:
    await add_job(database, "wave")
    (mine,) = await jobs_sql.claim_jobs(database, kinds=["wave"], count=10, lease_s=30.0)
    await let_time_pass(database)
    await jobs_sql.claim_jobs(database, kinds=["wave"], count=10, lease_s=30.0)
    assert await jobs_sql.finish_job(database, job_id=mine["id"], attempts=mine["attempts"]) == 0
    assert len(await rows(database)) == 1


async def test_jobs_of_other_kinds_are_left_to_those_who_know_them(database: Database) -> None:
    await add_job(database, "unknown")
    assert await Jobs(database, SETTINGS, {"wave": Recorder()}).run_due() == 0
    assert len(await rows(database)) == 1


def test_pauses_grow_threefold_to_an_hour() -> None:
    for attempts, expected in enumerate((10, 30, 90, 270, 810, 2430, 3600, 3600), start=1):
        assert 0.75 * expected <= pause_s(attempts, 10.0) <= 1.25 * expected
    assert LONGEST_S == 3600

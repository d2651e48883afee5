"""Jobs: done by one process at a time, tried again later each time, dead after enough."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

import server.data.jobs
from server.config import Jobs as JobSettings
from server.data.db import Database, queries
from server.data.jobs import AT_ONCE, LONGEST_S, Hopeless, Job, Jobs, add_job, pause_s
from tests.support.core import eventually
from tests.support.jobs import run_due

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
    await run_due(Jobs(database, SETTINGS, {"wave": work}))
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
    while sum(await asyncio.gather(*(run_due(process) for process in processes))):
        pass
    done = sorted(job.payload["n"] for work in workers for job in work.jobs)
    assert done == list(range(40))


async def test_no_more_are_claimed_than_there_is_room_for_however_postgres_goes_about_it(database: Database) -> None:
    await add_job(database, "wave")
    await database.execute("ANALYZE jobs")  # as between two bursts: the plan of a table that is all but empty
    for _ in range(2 * AT_ONCE):
        await add_job(database, "wave")
    claimed = await jobs_sql.claim_jobs(database, kinds=["wave"], count=AT_ONCE, lease_s=30.0)
    assert len(claimed) == AT_ONCE


async def test_what_fails_is_tried_again_later_and_is_dead_after_enough(database: Database) -> None:
    work = Recorder(raising(ConnectionError("nobody there")))
    process = Jobs(database, SETTINGS, {"wave": work})
    await add_job(database, "wave")
    assert await run_due(process) == 1
    assert await run_due(process) == 0, "not before its time"
    for _ in range(2):
        await let_time_pass(database)
        assert await run_due(process) == 1
    await let_time_pass(database)
    assert await run_due(process) == 0, "a dead one is left alone"
    (row,) = await rows(database)
    assert (row["attempts"], row["error"]) == (3, "ConnectionError: nobody there")
    assert row["dead_at"] is not None


async def test_what_is_hopeless_is_dead_at_once(database: Database) -> None:
    await add_job(database, "wave")
    await run_due(Jobs(database, SETTINGS, {"wave": Recorder(raising(Hopeless("no such address")))}))
    (row,) = await rows(database)
    assert row["dead_at"] is not None


async def test_a_dead_job_that_an_operator_wakes_has_all_its_attempts_again(database: Database) -> None:
    await add_job(database, "wave")
    await run_due(Jobs(database, SETTINGS, {"wave": Recorder(raising(Hopeless("full")))}))
    assert await jobs_sql.retry_jobs(database, job_id=None) == 1
    work = Recorder()
    await run_due(Jobs(database, SETTINGS, {"wave": work}))
    assert [job.attempts for job in work.jobs] == [1]
    assert await rows(database) == []


async def test_a_job_whose_process_died_is_due_again_after_its_lease(database: Database) -> None:
    await add_job(database, "wave")
    claimed = await jobs_sql.claim_jobs(database, kinds=["wave"], count=10, lease_s=30.0)
    assert len(claimed) == 1  # and then nothing: the process died
    work = Recorder()
    process = Jobs(database, SETTINGS, {"wave": work})
    assert await run_due(process) == 0
    await let_time_pass(database)
    assert await run_due(process) == 1
    assert work.jobs[0].attempts == 2


async def test_a_job_that_takes_its_process_down_every_time_ends_too(database: Database) -> None:
    await add_job(database, "wave")
    for _ in range(3):
        await jobs_sql.claim_jobs(database, kinds=["wave"], count=10, lease_s=30.0)
        await let_time_pass(database)
    work = Recorder()
    await run_due(Jobs(database, SETTINGS, {"wave": work}))
    assert work.jobs == []
    assert (await rows(database))[0]["dead_at"] is not None


async def test_who_lost_a_lease_ends_nothing(database: Database) -> None:
    await add_job(database, "wave")
    (mine,) = await jobs_sql.claim_jobs(database, kinds=["wave"], count=10, lease_s=30.0)
    await let_time_pass(database)
    await jobs_sql.claim_jobs(database, kinds=["wave"], count=10, lease_s=30.0)
    assert await jobs_sql.finish_job(database, job_id=mine["id"], attempts=mine["attempts"]) == 0
    assert len(await rows(database)) == 1


class Holding:
    """Work of which some is held up until it is let go."""

    def __init__(self, holds: Callable[[Job], bool] = lambda _: True) -> None:
        self.held: set[UUID] = set()
        self.done: list[Any] = []
        self.let_go = asyncio.Event()
        self._holds = holds

    async def __call__(self, job: Job) -> None:
        if self._holds(job):
            self.held.add(job.id)
            try:
                await self.let_go.wait()
            finally:
                self.held.remove(job.id)
        self.done.append(job.payload["n"])


@asynccontextmanager
async def running(jobs: Jobs) -> AsyncIterator[None]:
    """Does what is due meanwhile."""
    task = asyncio.create_task(jobs.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


LONG = SETTINGS.model_copy(update={"lease_s": 3600.0})


async def test_a_job_that_hangs_holds_up_no_other(database: Database) -> None:
    for n in range(5 * AT_ONCE):
        await add_job(database, "wave", n=n)
    work = Holding(lambda job: job.payload["n"] == 0)
    async with running(Jobs(database, LONG, {"wave": work})):
        await eventually(lambda: len(work.done) == 5 * AT_ONCE - 1)
        assert len(work.held) == 1
        work.let_go.set()
        await eventually(lambda: 0 in work.done)


async def test_no_lease_begins_before_there_is_a_place_for_its_job(database: Database) -> None:
    for n in range(2 * AT_ONCE + 1):
        await add_job(database, "wave", n=n)
    work = Holding()
    async with running(Jobs(database, LONG, {"wave": work})):
        await eventually(lambda: len(work.held) == AT_ONCE)
        assert sum(row["attempts"] for row in await rows(database)) == AT_ONCE
        work.let_go.set()
        await eventually(lambda: len(work.done) == 2 * AT_ONCE + 1)
    assert sorted(work.done) == list(range(2 * AT_ONCE + 1))


async def test_who_stops_leaves_no_job_under_way_and_another_does_them_at_once(database: Database) -> None:
    for n in range(3):
        await add_job(database, "wave", n=n)
    held = Holding()
    async with running(Jobs(database, LONG, {"wave": held})):
        await eventually(lambda: len(held.held) == 3)
    assert (held.held, held.done) == (set(), [])
    work = Recorder()
    assert await run_due(Jobs(database, LONG, {"wave": work})) == 3
    assert [job.attempts for job in work.jobs] == [1] * 3, "to be stopped is no failure of the work"


async def test_who_stops_while_an_answer_is_on_its_way_gives_back_what_was_claimed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_job(database, "wave", n=0)
    claim, claimed, arrives = server.data.jobs._jobs.claim_jobs, asyncio.Event(), asyncio.Event()

    async def claim_from_afar(*arguments: Any, **more: Any) -> Any:
        rows = await claim(*arguments, **more)
        claimed.set()
        await arrives.wait()
        return rows

    monkeypatch.setattr(server.data.jobs._jobs, "claim_jobs", claim_from_afar)
    task = asyncio.create_task(Jobs(database, LONG, {"wave": Recorder()}).run())
    await claimed.wait()
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, arrives.set)
    await asyncio.wait([task])
    assert task.cancelled()
    monkeypatch.undo()
    work = Recorder()
    assert await run_due(Jobs(database, LONG, {"wave": work})) == 1
    assert work.jobs[0].attempts == 1, "to be stopped is no failure of the work"


async def test_a_job_that_cannot_be_crossed_out_is_done_again_and_the_others_are_not(database: Database) -> None:
    await database.execute(
        "CREATE FUNCTION be_away() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = 'query_canceled'; END $$;"
        "CREATE TRIGGER be_away BEFORE DELETE ON jobs FOR EACH ROW"
        " WHEN (OLD.attempts = 1 AND OLD.payload ->> 'n' = '0') EXECUTE FUNCTION be_away()"
    )
    for n in range(5):
        await add_job(database, "wave", n=n)
    work = Recorder()
    process = Jobs(database, SETTINGS, {"wave": work})
    assert await run_due(process) == 5
    await let_time_pass(database)
    assert await run_due(process) == 1
    assert sorted(job.payload["n"] for job in work.jobs) == [0, *range(5)]
    assert await rows(database) == []


async def test_jobs_of_other_kinds_are_left_to_those_who_know_them(database: Database) -> None:
    await add_job(database, "unknown")
    assert await run_due(Jobs(database, SETTINGS, {"wave": Recorder()})) == 0
    assert len(await rows(database)) == 1


def test_pauses_grow_threefold_to_an_hour() -> None:
    for attempts, expected in enumerate((10, 30, 90, 270, 810, 2430, 3600, 3600), start=1):
        assert 0.75 * expected <= pause_s(attempts, 10.0) <= 1.25 * expected
    assert LONGEST_S == 3600

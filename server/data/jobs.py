"""Work that is done after the answer went out, however often that must be tried.

A job is a row, written in the transaction of what it belongs to. Any process takes those that are due (SKIP LOCKED),
each for the time of a lease; one whose process died is due again when the lease is over, one whose process was stopped
at once. So work is done at least once, and must bear being done twice. What fails is tried again, later each time, and
is dead after `jobs.attempts`: it stays to be looked at and to be tried again (`bin/admin jobs`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from server import metrics
from server.config import Jobs as JobSettings
from server.data.db import DATABASE_AWAY, Connection, Database, Record, queries

# Jobs that a `Jobs` does at the same time.
AT_ONCE = 10
# How much later each attempt is than the one before, and the latest.
GROWTH = 3.0
LONGEST_S = 3600.0
# What is away is tried again after as long as it has been so already, but at the latest after this.
FIRST_PUT_OFF_S, LONGEST_PUT_OFF_S = 5.0, 300.0
# Work may use this share of its lease: when it is over, nobody else has begun.
WORKING_SHARE = 0.8

_jobs = queries("jobs")
log = structlog.get_logger()


class Job(NamedTuple):
    """One attempt at a piece of work; `attempts` counts this one, `age_s` is since it was asked for."""

    id: UUID
    kind: str
    payload: dict[str, Any]
    attempts: int
    age_s: float


class Hopeless(Exception):
    """Trying this job again makes no sense; it is dead at once."""


class Again(Exception):
    """Not done, and not failed either: come back in `in_s`. Such an attempt does not count, however often."""

    def __init__(self, in_s: float, why: str = "") -> None:
        super().__init__(why or "not done yet")
        self.in_s = in_s


Work = Callable[[Job], Awaitable[None]]


@contextmanager
def putting_off(job: Job, *away: type[Exception]) -> Iterator[None]:
    """What the work asks may be away, which these errors say: that is no failure of the job. Raises Again."""
    try:
        yield
    except away as error:
        raise Again(min(max(FIRST_PUT_OFF_S, job.age_s), LONGEST_PUT_OFF_S), str(error)) from error


async def add_job(tx: Connection | Database, kind: str, *, in_s: float = 0.0, **payload: Any) -> UUID:
    """Ask for work in the transaction of what it belongs to; `payload` as JSON has it, and never a secret."""
    job_id: UUID = await _jobs.insert_job(tx, kind=kind, payload=payload, in_s=in_s)
    return job_id


class Jobs:
    """Does the jobs of the kinds for which this process has work, `AT_ONCE` at a time.

    No more are claimed than can begin at once, for a lease is counted from its claim.
    """

    def __init__(self, database: Database, settings: JobSettings, works: Mapping[str, Work]) -> None:
        self._database = database
        self._settings = settings
        self._works = dict(works)
        self._working: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Do what is due, each job as soon as there is a place for it; look again every `jobs.poll_s`, until cancelled.

        What is under way is cancelled, too, and waited for. It is due again at once.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                free, begun = self._free, 0
                try:
                    begun = await self.begin_due(group)
                except DATABASE_AWAY as error:
                    log.warning("postponed", error=repr(error))
                except Exception:
                    log.exception("jobs_failed")
                if begun < free:
                    await asyncio.sleep(self._settings.poll_s)
                elif not self._free:
                    await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)

    async def begin_due(self, group: asyncio.TaskGroup) -> int:
        """Begin what is due, as far as there are places; how many jobs that were. Raises DATABASE_AWAY."""
        jobs = await self._claim()
        for job in jobs:
            working = group.create_task(self._see_to(job))
            self._working.add(working)
            working.add_done_callback(self._working.discard)
        return len(jobs)

    async def _claim(self) -> list[Job]:
        """What is due. Who is stopped meanwhile gives back what was claimed already: the answer is on its way."""
        claiming = asyncio.ensure_future(
            _jobs.claim_jobs(self._database, kinds=list(self._works), count=self._free, lease_s=self._settings.lease_s)
        )
        try:
            return [_job(row) for row in await asyncio.shield(claiming)]
        except asyncio.CancelledError:
            with suppress(Exception):  # then their lease has to run out
                for row in await claiming:
                    await self._give_back(_job(row))
            raise

    @property
    def _free(self) -> int:
        return AT_ONCE - len(self._working)

    async def _see_to(self, job: Job) -> None:
        """What fails here is due again when its lease is over, and concerns no other."""
        try:
            await self._try(job)
        except DATABASE_AWAY as error:
            log.warning("postponed", kind=job.kind, job=str(job.id), error=repr(error))
        except Exception:
            log.exception("jobs_failed", kind=job.kind, job=str(job.id))

    async def _try(self, job: Job) -> None:
        try:
            if job.attempts > self._settings.attempts:
                raise Hopeless("every attempt took its process down")
            async with asyncio.timeout(self._settings.lease_s * WORKING_SHARE):
                await self._works[job.kind](job)
        except asyncio.CancelledError:
            with suppress(*DATABASE_AWAY):  # then its lease has to run out
                await self._give_back(job)
            raise
        except Again as error:
            metrics.JOBS.labels(job.kind, "again").inc()
            told = str(error)[:500].replace("\0", "")
            await _jobs.repeat_job(self._database, job_id=job.id, attempts=job.attempts, in_s=error.in_s, error=told)
        except Hopeless as error:
            await self._postpone(job, error, is_dead=True)
        except Exception as error:
            await self._postpone(job, error, is_dead=job.attempts >= self._settings.attempts)
        else:
            metrics.JOBS.labels(job.kind, "done").inc()
            await _jobs.finish_job(self._database, job_id=job.id, attempts=job.attempts)

    async def _give_back(self, job: Job) -> None:
        await _jobs.repeat_job(
            self._database, job_id=job.id, attempts=job.attempts, in_s=0.0, error="its process was stopped"
        )

    async def _postpone(self, job: Job, error: Exception, *, is_dead: bool) -> None:
        told = f"{type(error).__name__}: {error}"[:500].replace("\0", "")
        log.warning("job_dead" if is_dead else "job_failed", kind=job.kind, job=str(job.id), error=told)
        metrics.JOBS.labels(job.kind, "dead" if is_dead else "failed").inc()
        await _jobs.postpone_job(
            self._database,
            job_id=job.id,
            attempts=job.attempts,
            in_s=pause_s(job.attempts, self._settings.backoff_s),
            error=told,
            is_dead=is_dead,
        )


def pause_s(attempts: int, first_s: float) -> float:
    """How long to wait after so many attempts: three times as long each time, an hour at most, and jittered by a
    quarter, so that what failed together does not come back together."""
    jitter = random.uniform(0.75, 1.25)  # noqa: S311 - not a secret
    return min(LONGEST_S, first_s * GROWTH ** (attempts - 1)) * jitter


def _job(row: Record) -> Job:
    return Job(row["id"], row["kind"], row["payload"], row["attempts"], row["age_s"])

"""A handler has so long, and not a moment of anybody else's."""

import asyncio
from typing import Any

import pytest

from server.http.deadlines import Deadlines

NEVER = 60.0


def _current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def test_what_takes_too_long_is_cancelled_and_told_as_a_timeout() -> None:
    with pytest.raises(TimeoutError), Deadlines().within(0.01, _current()):
        await asyncio.sleep(NEVER)
    await asyncio.sleep(0)
    assert _current().cancelling() == 0, "whoever comes next is not cancelled"


async def test_each_block_has_its_own_end_and_what_is_done_in_time_has_none() -> None:
    deadlines = Deadlines()

    async def work(seconds: float, limit_s: float) -> str:
        try:
            with deadlines.within(limit_s, _current()):
                await asyncio.sleep(seconds)
        except TimeoutError:
            return "too late"
        return "done"

    assert await asyncio.gather(work(NEVER, 0.05), work(0.01, NEVER), work(NEVER, 0.01), work(0.2, NEVER)) == [
        "too late", "done", "too late", "done",
    ]  # fmt: skip


async def test_no_time_runs_in_a_pause() -> None:
    async def work(limit_s: float, pause_s: float) -> float:
        with Deadlines().within(limit_s, _current()) as limit:
            left_s = limit.pause()
            await asyncio.sleep(pause_s)
            limit.go_on(left_s)
            await asyncio.sleep(0 if left_s > 1 else NEVER)
        return left_s

    assert 0 < await work(NEVER, 0) <= NEVER
    with pytest.raises(TimeoutError):
        await work(0.1, 0.3)


async def test_who_is_cancelled_by_others_is_told_that() -> None:
    async def work() -> None:
        with Deadlines().within(NEVER, _current()):
            await asyncio.sleep(NEVER)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

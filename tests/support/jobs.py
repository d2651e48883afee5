"""Jobs, done while a test waits for it."""

import asyncio

from server.data.jobs import Jobs


async def run_due(jobs: Jobs) -> int:
    """Do what is due, as much as is done at once, to its end; how many jobs that were."""
    async with asyncio.TaskGroup() as group:
        return await jobs.begin_due(group)

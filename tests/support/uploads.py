"""An application, an instructor with a lecture, and a real video host that can be killed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from standins.video_host.clip import make_clip
from tests.support.app import serving, settings
from tests.support.cloudflare import ACCOUNT, TOKEN
from tests.support.people import People, Person
from tests.support.video_host import HostProcess, host_process

ENDS_WITHIN_S = 60


@dataclass
class Scene:
    """An instructor with a lecture, and a video host that can be killed."""

    host: HostProcess
    teacher: Person
    lecture_id: str

    async def begin(self, clip: Path) -> Any:
        """The answer of the upload's route."""
        size_bytes = await asyncio.to_thread(lambda: clip.stat().st_size)
        body = {"lecture_id": self.lecture_id, "title": "Clip", "filename": clip.name, "size_bytes": size_bytes}
        return await self.teacher.post("/api/videos/upload", body)

    async def ends(self, video_id: str) -> Any:
        """The video when it is ready or has failed."""
        async with asyncio.timeout(ENDS_WITHIN_S):
            while True:
                video = (await self.teacher.get(f"/api/videos/{video_id}")).body
                if video["status"] in ("ready", "error"):
                    return video
                await asyncio.sleep(0.05)

    async def asked(self, path: str = "") -> tuple[int, Any]:
        """What the host itself says of a video, or of all."""
        url = f"{self.host.origin}/client/v4/accounts/{ACCOUNT}/stream{path}"
        async with self.teacher.client.session.get(url, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            return answer.status, (await answer.json())["result"]

    async def gone(self, uid: str) -> None:
        """Wait until the host has it no more."""
        async with asyncio.timeout(ENDS_WITHIN_S):
            while (await self.asked(f"/{uid}"))[0] != 404:  # noqa: ASYNC110  # nothing tells us
                await asyncio.sleep(0.05)


@asynccontextmanager
async def playing(
    postgres_dsn: str, redis_url: str, tmp_path: Path, *, openai: dict[str, Any] | None = None, **cloudflare: Any
) -> AsyncIterator[Scene]:
    """Everything started; `cloudflare` and `openai` are settings of those sections."""
    async with host_process(tmp_path / "host") as host:
        config = settings(
            postgres_dsn,
            redis_url,
            cloudflare=host.settings | cloudflare,
            openai=openai or {},
            jobs={"poll_s": 0.1, "reconcile_s": 1},
            breaker={"open_s": 0.2},
        )
        sql = await asyncpg.connect(postgres_dsn)
        async with serving(config) as client:
            host.webhook_url = str(client.make_url("/api/videos/webhooks/cloudflare"))
            await host.start()
            teacher = await People(client, sql).join("teacher", "instructor")
            course = await teacher.make("/api/courses", {"title": "Uploads", "status": "published"})
            lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
            yield Scene(host, teacher, lecture["id"])
        await sql.close()


def padded_clip(path: Path, size_bytes: int) -> Path:
    """A film of a second in a file of this size: what follows it is a box that players pass over."""
    clip = make_clip(path, seconds=1, size=(320, 240))
    free = size_bytes - clip.stat().st_size
    with clip.open("ab") as file:
        file.write(struct.pack(">I4s", free, b"free"))
        file.truncate(size_bytes)
    return clip

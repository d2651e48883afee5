"""Between our rows and the video host: what it says is kept, what it must be told is told until it has heard it.

A webhook may be lost and the host may be away for days. So everything that must happen there is a job: it is written in
the transaction of its cause, and while the host is away it is put off and not counted as failed. What the host refuses
is dead after `jobs.attempts` (`bin/admin jobs`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from server.clock import Clock
from server.config import Config
from server.data.db import Connection, Database, Record, queries
from server.data.jobs import Again, Job, Work, add_job
from server.domain import transcripts
from server.domain.videos import NEVER_ARRIVED
from server.http.texts import TRANSCRIPT_EMBEDDING, parts_of
from server.services.embeddings import embeddings_configured
from server.services.outside import SERVICE_AWAY, ServiceError, ServiceHasNone, ServiceRefused
from server.services.video_host import HostedCaptions, HostedVideo, VideoHost

STATUS, REMOVAL, TEXT, RETIREMENT = "video_status", "video_removal", "video_text", "video_retirement"
LADDER = "video_ladder"
# Webhooks and the host's own clock may be late; only then an upload that never came is given up.
_GRACE = timedelta(minutes=10)
# For the ladder nobody waits long: it is fetched again when a session needs it.
_LADDER_S = 2.0
# So long whoever changes captions is kept waiting for what they say to be found.
INDEXED_WITHIN_S = 3.0
# So long captions are given out as the host gave them; changed here, they are asked for at once.
_CAPTIONS_KEPT_S = 600.0
# Where there are some to give out, the host is not waited for longer.
_CAPTIONS_AGAIN_S = 1.0
# Captions that are still not generated after this long will not be.
_GENERATED_WITHIN_S = 86_400.0

videos = queries("videos")
jobs = queries("jobs")
log = structlog.get_logger()


class Hosting:
    """What the application does at its video host beside answering requests."""

    def __init__(self, config: Config, database: Database, host: VideoHost, clock: Clock) -> None:
        self._config = config
        self._database = database
        self._host = host
        self._clock = clock
        # Told of a video that became ready or failed.
        self.settled: Callable[[UUID], Awaitable[None]] | None = None
        # Captions that the host is being asked for, by video, language and version: for a whole class once.
        self._asking: dict[tuple[UUID, str, int], asyncio.Task[bytes | None]] = {}

    @property
    def works(self) -> dict[str, Work]:
        """By the kind of their jobs."""
        return {
            STATUS: self.watch,
            REMOVAL: self.remove,
            LADDER: self.measure,
            TEXT: self.index,
            RETIREMENT: self.retire,
        }

    async def note(self, hosted: HostedVideo, ladder_s: float = _LADDER_S) -> None:
        """Keep what the host says, whenever it says it: a status never goes back. With a video that became ready its
        ladder, if that can be had within `ladder_s`; what it says is asked for, and what it replaces is retired."""
        async with self._database.transaction() as tx:
            row = await videos.note_status(
                tx,
                cloudflare_uid=hosted.uid,
                status=hosted.status,
                duration_seconds=hosted.duration_s,
                thumbnail_url=hosted.thumbnail_url,
                error=hosted.error,
            )
            if row is not None and row["became_ready"]:
                await add_job(tx, LADDER, video_id=str(row["id"]))
                await add_job(tx, TEXT, video_id=str(row["id"]), generate=True)
                await self._retire_others(tx, row["lecture_id"])
        if row is None:
            return
        if row["settled"] and self.settled is not None:
            await self.settled(row["id"])
        if row["status"] == "ready" and row["needs_ladder"]:
            try:
                await self._fetch_ladder(row["id"], hosted.uid, ladder_s)
            except ServiceError as error:
                log.warning("ladder_not_fetched", video_id=str(row["id"]), error=str(error))

    async def _retire_others(self, tx: Connection, lecture_id: UUID) -> None:
        for other in await videos.list_replaced(tx, lecture_id=lecture_id):
            await add_job(tx, RETIREMENT, in_s=self._config.cloudflare.replaced_ttl_s, video_id=str(other["id"]))

    async def _fetch_ladder(self, video_id: UUID, uid: str, timeout_s: float) -> None:
        ladder, segment_s = await self._host.fetch_ladder(uid, timeout_s=timeout_s)
        await videos.set_ladder(self._database, video_id=video_id, ladder=ladder, segment_s=segment_s)

    async def captions(self, video_id: UUID, uid: str, lang: str) -> bytes | None:
        """The WebVTT of a language as the host has it, or had it lately; None where it has none. While the host is away
        what was kept is good, until captions are changed here. Raises ServiceError."""
        kept = await videos.get_captions(self._database, video_id=video_id, lang=lang, for_s=_CAPTIONS_KEPT_S)
        vtt: bytes | None = kept and kept["vtt"]
        if kept is None or kept["is_fresh"]:
            return vtt
        try:
            async with asyncio.timeout(None if vtt is None else _CAPTIONS_AGAIN_S):
                return await asyncio.shield(self._ask_for_captions(video_id, uid, lang, kept["version"]))
        except (*SERVICE_AWAY, TimeoutError):
            if vtt is None:
                raise
            return vtt

    def _ask_for_captions(self, video_id: UUID, uid: str, lang: str, version: int) -> asyncio.Task[bytes | None]:
        """The task that asks the host, which all wait for who ask meanwhile."""
        one = video_id, lang, version
        task = self._asking.get(one)
        if task is None:
            task = self._asking[one] = asyncio.create_task(self._fetch_captions(video_id, uid, lang, version))
            task.add_done_callback(lambda done: (self._asking.pop(one), done.cancelled() or done.exception()))
        return task

    async def _fetch_captions(self, video_id: UUID, uid: str, lang: str, version: int) -> bytes | None:
        try:
            vtt = await self._host.get_captions(uid, lang)
        except ServiceHasNone:
            await self._keep_languages(video_id, uid, version, without=lang)
            return None
        await videos.keep_captions(self._database, video_id=video_id, lang=lang, version=version, vtt=vtt)
        return vtt

    async def _keep_languages(self, video_id: UUID, uid: str, version: int, without: str) -> None:
        try:
            known = await self._host.list_captions(uid)
        except ServiceHasNone:
            known = []
        langs = [captions.lang for captions in known if captions.lang != without]
        await videos.keep_caption_languages(self._database, video_id=video_id, version=version, langs=langs)

    # -- jobs ----------------------------------------------------------------------------------------------------------

    async def watch(self, job: Job) -> None:
        """Ask about a video until it is ready or has failed: a webhook may have been lost."""
        row = await self._find(job)
        if row is None or row["status"] in ("ready", "error"):
            return
        async with self._putting_off(job):
            hosted = await self._ask(row)
        if hosted is not None:
            await self.note(hosted)
        if hosted is None or hosted.status in ("pending_upload", "processing"):
            raise Again(self._pause_s(job))

    async def _ask(self, row: Record) -> HostedVideo | None:
        """What the host says of a video; that it failed when its bytes did not come in time."""
        uid = row["cloudflare_uid"]
        ends_at = (row["upload_expires_at"] or row["created_at"]) + _GRACE
        never = HostedVideo(uid, "error", None, None, NEVER_ARRIVED)
        is_over = self._clock.now() > ends_at
        try:
            hosted = await self._host.get_video(uid)
        except ServiceHasNone:
            return never if is_over else None
        return never if is_over and hosted.status == "pending_upload" else hosted

    async def remove(self, job: Job) -> None:
        """Delete at the host what was deleted here."""
        async with self._putting_off(job):
            await self._host.delete_video(job.payload["uid"])

    async def retire(self, job: Job) -> None:
        """Give up the host's copy of a video that was replaced, when nobody watches it any more."""
        outcome = await videos.retire_video(self._database, video_id=UUID(job.payload["video_id"]))
        if outcome == "watched":
            raise Again(min(self._config.cloudflare.replaced_ttl_s, 3600.0))

    async def measure(self, job: Job) -> None:
        """Keep the ladder when all of it is there: a video is ready before its higher rungs are."""
        row = await self._find(job)
        if row is None or row["status"] != "ready" or not self._host.can_sign:
            return
        async with self._putting_off(job):
            hosted = await self._host.get_video(row["cloudflare_uid"])
            if not hosted.is_complete:
                raise Again(self._pause_s(job))
            await self._fetch_ladder(row["id"], row["cloudflare_uid"], self._config.cloudflare.timeout_s)

    async def index(self, job: Job) -> None:
        """Keep what is said in a video, by its captions; where none came the host is asked to write some."""
        row = await self._find(job)
        if row is None or row["status"] != "ready":
            return
        uid = row["cloudflare_uid"]
        async with self._putting_off(job):
            try:
                chosen = await self._choose_captions(job, uid)
                vtt = chosen and await self._host.get_captions(uid, chosen.lang)
            except ServiceHasNone:
                chosen = vtt = None
        # Ten megabytes of captions take half a second, in which sockets want to be served.
        pieces = await asyncio.to_thread(transcripts.read, vtt) if vtt else []
        async with self._database.transaction() as tx:
            lecture_id = await videos.lock_captions(tx, video_id=row["id"], version=row["captions_version"])
            if lecture_id is None:
                raise Again(0.0)  # the captions changed meanwhile, or the video is gone
            await videos.delete_transcript(tx, video_id=row["id"])
            for part in parts_of(pieces):
                await videos.insert_transcript(
                    tx,
                    video_id=row["id"],
                    lecture_id=lecture_id,
                    lang=chosen.lang if chosen else "",
                    from_s=[piece.from_s for piece in part],
                    to_s=[piece.to_s for piece in part],
                    texts=[piece.text for piece in part],
                )
            if pieces and embeddings_configured(self._config.openai):
                await add_job(tx, TRANSCRIPT_EMBEDDING, video_id=str(row["id"]))

    async def index_now(self, job_id: UUID, video_id: UUID) -> bool:
        """Do the job of `ask_for_text`, which nobody has begun, at once; False when it is left to be done."""
        try:
            async with asyncio.timeout(INDEXED_WITHIN_S):
                await self.index(Job(job_id, TEXT, {"video_id": str(video_id)}, attempts=0, age_s=0.0))
        except (Again, ServiceError, TimeoutError):
            return False
        await jobs.finish_job(self._database, job_id=job_id, attempts=0)
        return True

    async def _choose_captions(self, job: Job, uid: str) -> HostedCaptions | None:
        """Whose words are kept: a person's before the host's, our language before others. Raises Again while the host
        still writes."""
        wanted = self._config.cloudflare.generate_captions
        known = await self._host.list_captions(uid)
        ready = [captions for captions in known if captions.status == "ready"]
        if ready:
            return min(ready, key=lambda one: (one.is_generated, one.lang.split("-")[0] != wanted, one.lang))
        if job.age_s > _GENERATED_WITHIN_S:
            return None
        if any(captions.status == "inprogress" for captions in known):
            raise Again(self._pause_s(job))
        if known or not wanted or not job.payload.get("generate"):
            return None
        try:
            await self._host.generate_captions(uid, wanted)
        except ServiceRefused as error:
            log.warning("captions_not_generated", uid=uid, error=str(error))
            return None
        raise Again(self._pause_s(job))

    # -- parts of them -------------------------------------------------------------------------------------------------

    async def _find(self, job: Job) -> Record | None:
        row: Record | None = await videos.get_hosted(self._database, video_id=UUID(job.payload["video_id"]))
        return row if row is not None and row["cloudflare_uid"] is not None else None

    def _pause_s(self, job: Job) -> float:
        """Seldomer with time: what takes an hour is not asked for every second."""
        return min(max(self._config.cloudflare.poll_s, job.age_s / 10), self._config.jobs.reconcile_s)

    @asynccontextmanager
    async def _putting_off(self, job: Job) -> AsyncIterator[None]:
        """A host that is away is no failure of the job."""
        try:
            yield
        except SERVICE_AWAY as error:
            pause_s = min(max(self._config.cloudflare.poll_s, job.age_s), self._config.jobs.reconcile_s)
            raise Again(pause_s, str(error)) from error


async def ask_for_status(tx: Connection, video_id: UUID, poll_s: float) -> None:
    """In the transaction that makes a video: look after it until it is ready or has failed."""
    await add_job(tx, STATUS, in_s=poll_s, video_id=str(video_id))


async def ask_for_text(tx: Connection | Database, video_id: UUID, **job: Any) -> UUID:
    """The captions of a video change: keep what they say."""
    return await add_job(tx, TEXT, video_id=str(video_id), **job)

"""Telling the webhook address what became of a video: again and again, with growing pauses, until it answers 2xx."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from datetime import timedelta

import aiohttp
from aiohttp import web

from standins.video_host.api import describe_video
from standins.video_host.signing import sign_webhook
from standins.video_host.store import Settings, Store, Video

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 10
LONGEST_PAUSE_S = 60


class Deliveries:
    """Delivers the notices found in the store, soonest due first. What is pending survives a restart with the video."""

    def __init__(self, store: Store, settings: Settings, http: aiohttp.ClientSession) -> None:
        self._store = store
        self._settings = settings
        self._http = http
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A notice was left."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake.clear()
            pending = [(video.notice.due, video) for video in self._store.videos.values() if video.notice]
            if not pending:
                await self._wake.wait()
                continue
            due, video = min(pending, key=lambda entry: entry[0])
            pause_s = (due - self._settings.now()).total_seconds()
            if pause_s <= 0:
                await self._deliver(video)
                continue
            # Then look again: meanwhile the video may have been deleted, or another has come before it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _deliver(self, video: Video) -> None:
        assert video.notice is not None
        accepted = await self._post(video)
        if self._store.get(video.uid) is None:  # deleted while we were talking
            return
        tries = video.notice.tries + 1
        if accepted or tries >= self._settings.webhook_tries:
            if not accepted:
                log.warning("gave up telling about video %s after %d tries", video.uid, tries)
            video.notice = None
        else:
            pause_s = min(LONGEST_PAUSE_S, self._settings.webhook_backoff_s * 2 ** (tries - 1))
            video.notice.tries = tries
            video.notice.due = self._settings.now() + timedelta(seconds=pause_s)
        self._store.save(video)

    async def _post(self, video: Video) -> bool:
        assert self._settings.webhook_url is not None
        body = json.dumps(describe_video(video, self._settings.public_url)).encode()
        signature = sign_webhook(self._settings.webhook_secret, int(self._settings.now().timestamp()), body)
        headers = {"Content-Type": "application/json", "Webhook-Signature": signature}
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        try:
            async with self._http.post(
                self._settings.webhook_url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("webhook for video %s not delivered: %s", video.uid, str(error) or type(error).__name__)
            return False


DELIVERIES = web.AppKey("deliveries", Deliveries)

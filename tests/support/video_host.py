"""The stand-in video host as a process of its own, to be killed and started again at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.cloudflare import ACCOUNT, KEY_ID, TOKEN, WEBHOOK_SECRET, signing_key_pem
from tests.support.standin_process import StandinProcess


class HostProcess(StandinProcess):
    """Its videos are in `directory`; `webhook_url` may be set before a start."""

    def __init__(self, directory: Path) -> None:
        super().__init__("video_host")
        self.directory = directory
        self.webhook_url: str | None = None
        (directory / "key.pem").write_text(signing_key_pem())

    @property
    def settings(self) -> dict[str, Any]:
        """Section `cloudflare` that points here."""
        return {
            "api_base": f"{self.origin}/client/v4",
            "account_id": ACCOUNT,
            "api_token": TOKEN,
            "webhook_secret": WEBHOOK_SECRET,
            "signing_key_id": KEY_ID,
            "signing_key_pem": signing_key_pem(),
            "customer_domain": self.origin,
            "poll_s": 0.2,
        }

    @property
    def options(self) -> list[str]:
        """Its command line."""
        options = ["--data", str(self.directory / "data"), "--signing-key-file", str(self.directory / "key.pem")]
        options += ["--account-id", ACCOUNT, "--api-token", TOKEN, "--key-id", KEY_ID]
        if self.webhook_url is not None:
            options += ["--webhook-url", self.webhook_url, "--webhook-secret", WEBHOOK_SECRET]
        return options


@asynccontextmanager
async def host_process(directory: Path) -> AsyncIterator[HostProcess]:
    """One that is not started yet, and is gone afterwards."""
    await asyncio.to_thread(directory.mkdir)
    host = HostProcess(directory)
    try:
        yield host
    finally:
        host.kill()

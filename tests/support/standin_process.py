"""A stand-in as a process of its own, to be killed and started again at any moment."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from aiohttp.test_utils import unused_port

ROOT = Path(__file__).resolve().parents[2]
STARTS_WITHIN_S = 30.0


class StandinProcess:
    """`standins.<module>` at `origin`; `options` is its command line, without the port, asked for at every start."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self.origin = f"http://127.0.0.1:{unused_port()}"

    @property
    def options(self) -> list[str]:
        """Of the next start."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        port = self.origin.rpartition(":")[2]
        command = [sys.executable, "-m", f"standins.{self._module}", "--port", port, *self.options]
        self._process = await asyncio.to_thread(self._run, command)
        async with asyncio.timeout(STARTS_WITHIN_S):
            while not await asyncio.to_thread(self._answers):  # noqa: ASYNC110  # nothing tells us
                await asyncio.sleep(0.03)

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.origin}/livez", timeout=5):  # noqa: S310 - our own process
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    def kill(self) -> None:
        """As if the power failed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def restart(self) -> None:
        """Kill it and start it on the same data."""
        self.kill()
        await self.start()

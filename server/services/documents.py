"""Reads what documents say, a page at a time, in a process apart: what parses strangers' bytes may break of them.

Each PDF has a process of its own (`document_worker.py`) that lives as long as it takes, with limits on memory, time,
pages and characters; it inherits nothing but the open file. What was read before a limit is kept. Plain text needs no
process.
"""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import orjson

from server.config import Files

PDF = "application/pdf"
# What can be read, as `is_readable_type` in Postgres has it.
READABLE = frozenset({PDF, "text/plain", "text/markdown"})

_WORKER = Path(__file__).with_name("document_worker.py")
# Beside its own limit of processor time: a machine can be busy.
_PATIENCE = 3.0
# Of JSON, where a character may be six bytes.
_BYTES_PER_CHARACTER = 6
_MARGIN_BYTES = 1 << 20


class Page(NamedTuple):
    """What a page says; `number` is None where a document has no pages."""

    number: int | None
    text: str


class DocumentsBusy(Exception):
    """Another one is being read; the same may work later."""


class Documents:
    """Reads one PDF at a time: a process has one core, and its sockets come first."""

    def __init__(self, settings: Files) -> None:
        self._settings = settings
        self._is_reading = False

    @contextmanager
    def turn(self, content_type: str) -> Iterator[None]:
        """Around fetching and reading one: whoever cannot read it yet need not have it yet. Raises DocumentsBusy."""
        if content_type != PDF:
            yield
            return
        if self._is_reading:
            raise DocumentsBusy("another document is being read")
        self._is_reading = True
        try:
            yield
        finally:
            self._is_reading = False

    async def read(self, content: IO[bytes], content_type: str) -> list[Page]:
        """The pages that say something, at most `files.document_characters` of all; none of what cannot be read. For
        who has the `turn`."""
        if content_type == PDF:
            return _parse(await self._run(content))
        # A character may have four bytes.
        content.seek(0)
        raw = await asyncio.to_thread(content.read, 4 * self._settings.document_characters)
        text = raw.decode("utf-8-sig", "replace")[: self._settings.document_characters]
        return [Page(None, text)] if text.strip() else []

    async def _run(self, content: IO[bytes]) -> bytes:
        content.seek(0)
        settings = self._settings
        limits = orjson.dumps({
            "characters": settings.document_characters,
            "pages": settings.document_pages,
            "memory_bytes": settings.document_memory_bytes,
            "cpu_s": settings.document_timeout_s,
        })  # fmt: skip
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-B", str(_WORKER), limits.decode(),
            stdin=content, stdout=PIPE, stderr=DEVNULL, env={},
        )  # fmt: skip
        assert worker.stdout is not None
        most = settings.document_characters * _BYTES_PER_CHARACTER + _MARGIN_BYTES
        told = bytearray()
        try:
            async with asyncio.timeout(settings.document_timeout_s * _PATIENCE):
                while len(told) < most and (chunk := await worker.stdout.read(1 << 16)):
                    told += chunk
        except TimeoutError:
            pass  # what came counts
        finally:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
        return bytes(told)


def _parse(told: bytes) -> list[Page]:
    pages = []
    for line in told.split(b"\n")[:-1]:  # the last one is empty, or was cut
        number, text = json.loads(line)  # orjson refuses halves of surrogate pairs, which fonts do tell
        if text.strip():
            pages.append(Page(number, text))
    return pages

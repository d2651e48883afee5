"""Measures pictures and makes small ones of them, in a process apart: what decodes strangers' bytes may break of them.

Each picture has a process of its own (`picture_worker.py`) that lives as long as it takes, with limits on pixels,
memory and time; it inherits nothing but the open file. Small pictures are encoded anew: nothing of what came with the
original (places, cameras, code) is in them.
"""

import asyncio
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import orjson

from server import metrics
from server.config import Files

_WORKER = Path(__file__).with_name("picture_worker.py")
# Beside its own limit of processor time: a machine can be busy.
_PATIENCE = 3.0
# Of an answer: small pictures are small.
_MOST_BYTES = 16 * 2**20


class NotAPicture(Exception):
    """It cannot be decoded, or not within the limits; str() is for the uploader."""


class PicturesBusy(Exception):
    """This machine had no time for it; the same may work later."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture, as WebP; its longer side is `size` at most."""

    size: int
    width: int
    height: int
    content: bytes

    @property
    def row(self) -> dict[str, int]:
        """What is kept of it in the file's row."""
        return {"size": self.size, "width": self.width, "height": self.height}


@dataclass(frozen=True, slots=True)
class Picture:
    """Width and height as it is shown, and small ones of it, smallest first; none when it has too many pixels."""

    width: int
    height: int
    thumbnails: tuple[Thumbnail, ...]


class Pictures:
    """Looks at one picture at a time: a process has one core, and its sockets come first."""

    def __init__(self, settings: Files) -> None:
        self._settings = settings
        self._turn = asyncio.Semaphore(1)

    async def look_at(self, content: IO[bytes]) -> Picture:
        """Measure the picture in an open file and make small ones. Raises NotAPicture, PicturesBusy."""
        outcome = "failed"
        try:
            await self._wait_for_turn()
            try:
                picture = await self._run(content)
            finally:
                self._turn.release()
            outcome = "done"
            return picture
        except NotAPicture:
            outcome = "refused"
            raise
        finally:
            metrics.PICTURES.labels(outcome).inc()

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(self._settings.picture_timeout_s):
                await self._turn.acquire()
        except TimeoutError:
            raise PicturesBusy("too many pictures at once") from None

    async def _run(self, content: IO[bytes]) -> Picture:
        content.seek(0)
        settings = self._settings
        limits = orjson.dumps({
            "sizes": sorted(settings.thumbnail_sizes),
            "pixels": settings.picture_pixels,
            "memory_bytes": settings.picture_memory_bytes,
            "cpu_s": settings.picture_timeout_s,
        })  # fmt: skip
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-B", str(_WORKER), limits.decode(),
            stdin=content, stdout=PIPE, stderr=DEVNULL, env={}, limit=_MOST_BYTES,
        )  # fmt: skip
        assert worker.stdout is not None
        try:
            async with asyncio.timeout(settings.picture_timeout_s * _PATIENCE):
                told = await _read_all(worker.stdout)
                status = await worker.wait()
        except TimeoutError:
            raise PicturesBusy("no time for the picture") from None
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
        if status != 0:
            # A worker that was killed ran into its limits, one that gave up did not find a picture.
            raise NotAPicture("This is not a picture that can be read.")
        return _parse(told)


async def _read_all(stream: asyncio.StreamReader) -> bytes:
    told = bytearray()
    while chunk := await stream.read(1 << 16):
        told += chunk
        if len(told) > _MOST_BYTES:
            raise NotAPicture("This is not a picture that can be read.")
    return bytes(told)


def _parse(told: bytes) -> Picture:
    (length,) = struct.unpack_from(">I", told)
    head = orjson.loads(told[4 : 4 + length])
    small, at = [], 4 + length
    for size, width, height, size_bytes in head["thumbnails"]:
        small.append(Thumbnail(size, width, height, told[at : at + size_bytes]))
        at += size_bytes
    return Picture(head["width"], head["height"], tuple(small))

"""Forms with a file (`multipart/form-data`): read as they come, in any order, the file to disk and not to memory."""

import asyncio
import hashlib
from collections.abc import Container
from dataclasses import dataclass
from typing import IO
from urllib.parse import unquote

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from server import metrics
from server.http.parsing import media_type
from server.http.problems import BodyTooLarge, MalformedRequest, UnsupportedMediaType, ValidationFailed

# A member of a form that is not the file.
_FIELD_BYTES = 1024
# Members, their heads and boundaries beside the file.
_FRAME_BYTES = 65_536
_WRITTEN_AT_ONCE = 1 << 18
_HEAD_BYTES = 4096
_MOST_PARTS = 20


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file on disk, as long as the request lasts. `filename` is what the sender says (some write `%C3%9C` for what is
    not ASCII), `head` its first 4 KiB."""

    content: IO[bytes]
    filename: str
    size_bytes: int
    head: bytes
    sha256: str


class _FormReader(MultipartReader):
    """aiohttp's, which begins at the first boundary or after one empty line, as forms do.

    It would look for it, line by line: where 25 MiB of them come first, that holds the loop up for half a minute.
    """

    async def _read_until_first_boundary(self) -> None:
        line = await self._readline()
        if line.strip():
            self._unread.append(line)
        await self._read_boundary()


async def receive_form(
    request: web.Request, names: Container[str], content: IO[bytes], most_bytes: int
) -> tuple[dict[str, str], ReceivedFile]:
    """The members of the form, and its member `file`, written to `content`.

    Raises UnsupportedMediaType for another kind of body, MalformedRequest for none that can be read, BodyTooLarge for
    more than `most_bytes` of file, ValidationFailed for members that are unknown, too long, or stand there twice.
    """
    if media_type(request) != "multipart/form-data":
        raise UnsupportedMediaType("The body must be multipart/form-data.", headers={"Accept": "multipart/form-data"})
    if (request.content_length or 0) > most_bytes + _FRAME_BYTES:
        raise BodyTooLarge
    fields: dict[str, str] = {}
    file: ReceivedFile | None = None
    try:
        reader = _FormReader(request.headers, request.content)
        for _ in range(_MOST_PARTS):
            part = await reader.next()
            if part is None:
                break
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise MalformedRequest
            name = part.name
            if name in fields or (name == "file" and file is not None):
                raise _fault(name, "The member stands here twice.")
            if name == "file":
                file = await _receive_file(part, content, most_bytes)
            elif name in names:
                fields[name] = await _receive_field(part, name)
            else:
                raise _fault(name, "There is no such member.")
        else:
            raise MalformedRequest("The form has too many members.")
    except (
        ValueError,
        AssertionError,
        RuntimeError,
        HttpProcessingError,
    ):  # what aiohttp's reader says of what is no form
        raise MalformedRequest("The form cannot be read.") from None
    if file is None:
        raise _fault("file", "Field required")
    return fields, file


async def _receive_file(part: BodyPartReader, content: IO[bytes], most_bytes: int) -> ReceivedFile:
    digest, head, waiting, size_bytes = hashlib.sha256(), b"", bytearray(), 0

    def write(data: bytes) -> None:
        digest.update(data)
        content.write(data)

    while chunk := await part.read_chunk(65_536):
        size_bytes += len(chunk)
        if size_bytes > most_bytes:
            raise BodyTooLarge
        if len(head) < _HEAD_BYTES:
            head += chunk[: _HEAD_BYTES - len(head)]
        waiting += chunk
        if len(waiting) >= _WRITTEN_AT_ONCE:
            await asyncio.to_thread(write, bytes(waiting))
            waiting.clear()
    await asyncio.to_thread(write, bytes(waiting))
    content.flush()
    metrics.FILE_BYTES.labels("in").inc(size_bytes)
    return ReceivedFile(content, unquote(part.filename or ""), size_bytes, head, digest.hexdigest())


async def _receive_field(part: BodyPartReader, name: str) -> str:
    value = b""
    while chunk := await part.read_chunk(_FIELD_BYTES):
        value += chunk
        if len(value) > _FIELD_BYTES:
            raise _fault(name, "This is too long.")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _fault(name, "This is not UTF-8.") from None
    if "\0" in text:
        raise _fault(name, "The character U+0000 is not allowed.")
    return text


def _fault(name: str, detail: str) -> ValidationFailed:
    pointer = name.encode("utf-8", "replace").decode()[:100].replace("~", "~0").replace("/", "~1")
    return ValidationFailed.at(f"/{pointer}", detail)

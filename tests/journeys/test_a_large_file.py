"""A file of 2 GiB: its bytes go to the store and cost the server nothing."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import psutil
import pytest

from embedded.s3 import ObjectStore
from tests.support.files import MEBIBYTE, s3_settings
from tests.support.people import PASSWORD
from tests.support.server_process import ServerProcess

SIZE = 2048 * MEBIBYTE


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_two_gibibytes_cost_no_memory(postgres_dsn: str, redis_url: str, object_store: ObjectStore) -> None:
    environment = {f"LECTERN_S3__{name.upper()}": str(value) for name, value in s3_settings(object_store).items()}
    async with ServerProcess(postgres_dsn, redis_url, environment) as server, aiohttp.ClientSession() as http:

        async def ask(method: str, path: str, json: Any = None, status: int = 200) -> Any:
            async with http.request(method, server.base_url + path, json=json) as answer:
                assert answer.status == status, await answer.text()
                return await answer.json() if status != 204 else None

        account = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
        signed_in = await ask("POST", "/api/auth/register", account, 201)
        http.headers["Authorization"] = f"Bearer {signed_in['access_token']}"
        begun = await ask("POST", "/api/files/upload/start", announced(), 201)
        before = memory(server)
        parts, left = [], SIZE
        for part in begun["parts"]:
            size = min(begun["part_size"], left)
            parts.append({"number": part["number"], "etag": await send(part["url"], size, is_first=left == SIZE)})
            left -= size
        told = {"file_id": begun["file_id"], "upload_id": begun["upload_id"], "parts": parts}
        row = await ask("POST", "/api/files/upload/complete", told)
        assert (row["status"], row["size_bytes"]) == ("ready", SIZE)
        assert memory(server) - before < 16 * MEBIBYTE
        await ask("DELETE", f"/api/files/{row['id']}", status=204)


def announced() -> dict[str, Any]:
    """What is told of the file beforehand."""
    kind = {"content_type": "application/pdf", "purpose": "material", "visibility": "private"}
    return {"filename": "large.pdf", "size_bytes": SIZE, **kind}


def memory(server: ServerProcess) -> int:
    """What the server's process holds, bytes."""
    return int(psutil.Process(server.pid).memory_info().rss)


async def send(url: str, size: int, *, is_first: bool) -> str:
    """PUT a part of zeros, the first with a PDF's head; its ETag."""

    async def content() -> AsyncIterator[bytes]:
        left = size
        while left:
            chunk = bytes(min(left, MEBIBYTE))
            yield b"%PDF-" + chunk[5:] if is_first and left == size else chunk
            left -= len(chunk)

    headers = {"Content-Length": str(size)}
    async with aiohttp.ClientSession() as http, http.put(url, data=content(), headers=headers) as answer:
        assert answer.status == 200
        return str(answer.headers["ETag"])

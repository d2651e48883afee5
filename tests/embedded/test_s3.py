import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp import ClientPayloadError, ClientResponse, ClientSession
from botocore.exceptions import ClientError

from embedded.s3 import BUCKET, REGION, ObjectStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path)
    store.start()
    yield store
    store.stop()


def connect(store: ObjectStore, secret_key: str) -> Any:
    return get_session().create_client(
        "s3",
        endpoint_url=store.endpoint_url,
        region_name=REGION,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=secret_key,
        config=AioConfig(
            s3={"addressing_style": "path"},
            signature_version="s3v4",
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@pytest_asyncio.fixture
async def client(store: ObjectStore) -> AsyncIterator[Any]:
    async with connect(store, store.secret_key) as client:
        yield client


async def test_an_object_survives_a_kill(store: ObjectStore, client: Any) -> None:
    await client.put_object(Bucket=BUCKET, Key="a/b", Body=b"bytes")
    store.kill()

    store.start()

    answer = await client.get_object(Bucket=BUCKET, Key="a/b")
    assert await answer["Body"].read() == b"bytes"


@pytest.mark.parametrize("which", ["_process", "_front"])
async def test_one_whose_half_died_is_started_again(store: ObjectStore, client: Any, which: str) -> None:
    await client.put_object(Bucket=BUCKET, Key="half", Body=b"bytes")
    half = getattr(store, which)
    half.kill()
    half.wait()
    assert store.pid is None, "whoever keeps it running looks at this"

    store.start()

    answer = await client.get_object(Bucket=BUCKET, Key="half")
    assert await answer["Body"].read() == b"bytes"


async def test_a_wrong_secret_is_refused(store: ObjectStore) -> None:
    async with connect(store, "x" * 40) as stranger:
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            await stranger.list_objects_v2(Bucket=BUCKET)


async def test_an_answer_that_breaks_off_ends_there(store: ObjectStore, client: Any) -> None:
    content = bytes(32 << 20)
    await client.put_object(Bucket=BUCKET, Key="a", Body=content)
    url = await client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "a"})
    got = bytearray()

    async def read_on(answer: ClientResponse) -> None:
        async for chunk in answer.content.iter_any():
            got.extend(chunk)

    async with ClientSession(read_bufsize=1024) as http, http.get(url) as answer:
        assert store.pid is not None
        os.kill(store.pid, signal.SIGKILL)
        with pytest.raises(ClientPayloadError):
            await asyncio.wait_for(read_on(answer), 30)
    assert content.startswith(got), "nothing was added to what had come"


def test_its_keys_stay_and_are_nobody_elses(store: ObjectStore) -> None:
    again = ObjectStore(store.data.parent)
    assert (again.access_key, again.secret_key) == (store.access_key, store.secret_key)
    assert (store.data.parent / "s3.keys").stat().st_mode & 0o777 == 0o600


def test_a_file_of_keys_that_was_left_empty_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "s3.keys").touch()
    store = ObjectStore(tmp_path)
    assert len(store.secret_key) == 40
    assert ObjectStore(tmp_path).secret_key == store.secret_key


def test_its_secret_is_not_on_its_command_line(store: ObjectStore) -> None:
    assert store.secret_key.encode() not in Path(f"/proc/{store.pid}/cmdline").read_bytes()

"""The object store (S3: Amazon's, R2, MinIO, any other that speaks it). Large bytes never pass through us: clients get
addresses that are signed here, without asking the store. What does ask raises ServiceErrors.

aiobotocore takes 0.3 s to import, so that happens only when a store is configured.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, Self, TypeVar

import aiohttp
from aiohttp import hdrs

from server.config import S3, Breaker
from server.services.outside import Service, ServiceAway, ServiceError, ServiceHasNone, ServiceRefused, ServiceSlow

T = TypeVar("T")
_CHUNK = 1 << 18
# The slowest that a store may take bytes before it counts as away.
_SLOWEST_BYTES_PER_S = 1_000_000
# Putting thousands of parts together takes stores a while.
_FINISH_S = 45.0
# For what we ask through an address that we sign for ourselves.
_OWN_S = 60


@dataclass(frozen=True, slots=True)
class Part:
    """A part as the store has it; `etag` without quotes."""

    number: int
    size_bytes: int
    etag: str


class Objects:
    """The store's client. Every call is cut after `s3.timeout_s` seconds, and raises ServiceErrors."""

    def __init__(
        self,
        clients: tuple[Any, Any],
        settings: S3,
        stack: AsyncExitStack,
        http: aiohttp.ClientSession,
        breaker: Breaker | None = None,
    ) -> None:
        # The second signs addresses for others, who may know the store by another name.
        self._client, self._signer = clients
        self._settings = settings
        self._stack = stack
        self._http = http
        self._service = Service("objects", breaker)

    @classmethod
    async def open(cls, settings: S3, http: aiohttp.ClientSession, breaker: Breaker | None = None) -> Self:
        """A client for a configured store; nothing is asked of it yet."""
        from aiobotocore.config import AioConfig  # noqa: PLC0415

        stack, session = AsyncExitStack(), _session()

        async def connect(endpoint_url: str) -> Any:
            return await stack.enter_async_context(
                session.create_client(
                    "s3",
                    endpoint_url=endpoint_url or None,
                    region_name=settings.region,
                    aws_access_key_id=settings.access_key,
                    aws_secret_access_key=settings.secret_key,
                    config=AioConfig(
                        s3={"addressing_style": "path"},
                        signature_version="s3v4",
                        connect_timeout=settings.timeout_s,
                        read_timeout=settings.timeout_s,
                        retries={"max_attempts": 1},
                        max_pool_connections=0,  # as many as are asked for: large uploads take long to be put together
                        # Stores other than Amazon's answer newer checksums wrongly or not at all.
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                    ),
                )
            )

        client = await connect(settings.endpoint_url)
        signer = await connect(settings.public_endpoint_url) if settings.public_endpoint_url else client
        return cls((client, signer), settings, stack, http, breaker)

    async def close(self) -> None:
        """Close the connections."""
        await self._stack.aclose()

    async def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""
        fine = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
        await self._ask(
            "ensure_bucket",
            lambda: self._client.create_bucket(Bucket=self._settings.bucket, **self._location()),
            fine=fine,
            tries=2,
        )

    # -- addresses for others: nothing is asked ------------------------------------------------------------------------

    async def sign_download(self, key: str, *, content_type: str, disposition: str, ttl_s: float) -> str:
        """Where the object can be had, whole or by Range, with these headers, for so many seconds."""
        headers = {"ResponseContentType": content_type, "ResponseContentDisposition": disposition}
        return await self._sign(self._signer, "get_object", ttl_s, Key=key, **headers)

    async def sign_parts(self, key: str, upload_id: str, sizes: Sequence[int], ttl_s: float) -> list[str]:
        """Where each part is PUT. The store takes exactly so many bytes there: their number is signed."""
        urls = []
        for number, size_bytes in enumerate(sizes, start=1):
            members = {"Key": key, "UploadId": upload_id, "PartNumber": number, "ContentLength": size_bytes}
            urls.append(await self._sign(self._signer, "upload_part", ttl_s, **members))
            await asyncio.sleep(0)  # a signature takes a quarter of a millisecond
        return urls

    # -- uploads in parts ----------------------------------------------------------------------------------------------

    async def begin_upload(self, key: str, content_type: str) -> str:
        """The store's id of a new upload; what will come of it has this type."""
        made = await self._ask(
            "begin_upload",
            lambda: self._client.create_multipart_upload(**self._at(key), ContentType=content_type),
            proof=("UploadId",),
        )
        return str(made["UploadId"])

    async def list_parts(self, key: str, upload_id: str) -> list[Part]:
        """The parts that have arrived, up to a thousand. Raises ServiceHasNone for an upload that is over."""
        listed = await self._ask(
            "list_parts",
            lambda: self._client.list_parts(**self._at(key), UploadId=upload_id),
            proof=("UploadId",),
            tries=2,
        )
        return [Part(p["PartNumber"], p["Size"], p["ETag"].strip('"')) for p in listed.get("Parts", ())]

    async def finish_upload(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        """Make one object of the parts. Raises ServiceHasNone for an upload that is over."""
        named = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
        await self._ask(
            "finish_upload",
            lambda: self._client.complete_multipart_upload(
                **self._at(key), UploadId=upload_id, MultipartUpload={"Parts": named}
            ),
            proof=("ETag",),
            timeout_s=_FINISH_S,
        )

    # -- bytes that do pass through us ---------------------------------------------------------------------------------

    async def put(self, key: str, content: IO[bytes], size_bytes: int, content_type: str) -> None:
        """Store an open file from its beginning, by an address like those that others get."""
        url = await self._sign(
            self._client, "put_object", _OWN_S, Key=key, ContentLength=size_bytes, ContentType=content_type
        )
        headers = {"Content-Length": str(size_bytes), "Content-Type": content_type}
        timeout_s = self._settings.timeout_s + size_bytes / _SLOWEST_BYTES_PER_S
        async with self._service.calling("put", timeout_s), _speaking():
            content.seek(0)
            async with self._http.put(url, data=_chunks(content), headers=headers) as answer:
                await _refuse_errors(answer)

    @asynccontextmanager
    async def open_object(self, key: str, range_header: str | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """The object, or the range of it; read it with `chunks_of`. Raises ServiceHasNone, and ServiceRefused where
        there is no such range."""
        url = await self._sign(self._client, "get_object", _OWN_S, Key=key)
        headers = {"Accept-Encoding": "identity"} | ({"Range": range_header} if range_header else {})
        timeout = aiohttp.ClientTimeout(total=None, sock_read=self._settings.timeout_s)
        async with AsyncExitStack() as stack:
            async with self._service.calling("get", self._settings.timeout_s), _speaking():
                answer = await stack.enter_async_context(self._http.get(url, headers=headers, timeout=timeout))
                await _refuse_errors(answer)
            # What happens to whoever reads it is no failure of the store's.
            yield answer

    async def fetch(self, key: str, into: IO[bytes], most: int) -> None:
        """Copy the object into an open file. Raises ServiceRefused for one that is larger than `most` bytes."""
        copied = 0
        async with self.open_object(key) as answer:
            told = answer.content_length or 0  # a store need not tell it
            async for chunk in chunks_of(answer):
                copied += len(chunk)
                if max(told, copied) > most:
                    raise ServiceRefused(f"{key} is larger than {most} bytes")
                await asyncio.to_thread(into.write, chunk)
        into.flush()

    async def read_head(self, key: str, size_bytes: int) -> bytes:
        """The object's first bytes."""
        head = b""
        async with self.open_object(key, f"bytes=0-{size_bytes - 1}") as answer:
            async for chunk in chunks_of(answer):
                head += chunk
                if len(head) >= size_bytes:
                    break
        return head[:size_bytes]

    async def size_of(self, key: str) -> int:
        """How many bytes the object has. Raises ServiceHasNone."""
        found = await self._ask(
            "head", lambda: self._client.head_object(**self._at(key)), proof=("ETag", "ContentLength"), tries=2
        )
        return int(found["ContentLength"])

    # -- removal -------------------------------------------------------------------------------------------------------

    async def remove(self, prefix: str, key: str) -> None:
        """Delete all objects below `prefix`, and give up uploads of `key`. Nothing there is as good as deleted.

        In this order: an upload that was completed before it could be given up has left an object.
        """
        uploads = await self._ask(
            "list_uploads",
            lambda: self._client.list_multipart_uploads(Bucket=self._settings.bucket, Prefix=key),
            proof=("Bucket",),
            fine=("NoSuchUpload",),  # what rclone says of a bucket without any
            tries=2,
        )
        for upload in (uploads or {}).get("Uploads", ()):
            if upload["Key"] == key:
                await self._abort(key, upload["UploadId"])
        listed = await self._ask(
            "list",
            lambda: self._client.list_objects_v2(Bucket=self._settings.bucket, Prefix=prefix),
            proof=("Name",),
            tries=2,
        )
        for found in listed.get("Contents", ()):
            await self._delete(found["Key"])

    async def _abort(self, key: str, upload_id: str) -> None:
        await self._ask(
            "abort_upload",
            lambda: self._client.abort_multipart_upload(**self._at(key), UploadId=upload_id),
            fine=("NoSuchUpload",),
        )

    async def _delete(self, key: str) -> None:
        await self._ask("delete", lambda: self._client.delete_object(**self._at(key)), fine=("NoSuchKey",), tries=2)

    # -- the wire ------------------------------------------------------------------------------------------------------

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._settings.bucket, "Key": key}

    async def _sign(self, client: Any, operation: str, ttl_s: float, **members: Any) -> str:
        members["Bucket"] = self._settings.bucket
        return str(await client.generate_presigned_url(operation, Params=members, ExpiresIn=max(1, int(ttl_s))))

    async def _ask(
        self,
        operation: str,
        ask: Callable[[], Awaitable[T]],
        *,
        proof: tuple[str, ...] = (),
        fine: tuple[str, ...] = (),
        tries: int = 1,
        timeout_s: float | None = None,
    ) -> Any:
        """What the store answers, with the members `proof`; None where it answers with an error that is `fine`."""

        async def speak() -> Any:
            async with _speaking(fine=fine):
                answer: Any = await ask()
                if not all(name in answer for name in proof):
                    raise _no_store()
                return answer

        return await self._service.call(operation, speak, timeout_s=timeout_s or self._settings.timeout_s, tries=tries)

    def _location(self) -> dict[str, Any]:
        """Amazon wants the region said, except for its first one."""
        if self._settings.region in ("", "us-east-1") or self._settings.endpoint_url:
            return {}
        return {"CreateBucketConfiguration": {"LocationConstraint": self._settings.region}}


async def chunks_of(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The bytes of an object as they come. Raises ServiceAway when they end too early, ServiceSlow when
    nothing comes for `s3.timeout_s`."""
    async with _speaking():
        async for chunk in answer.content.iter_chunked(_CHUNK):
            yield chunk


async def _chunks(content: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(content.read, _CHUNK):
        yield chunk


async def _refuse_errors(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= 400:
        raise _error_of(answer.status, f"{answer.status} {(await answer.content.read(500)).decode(errors='replace')}")
    if hdrs.ETAG not in answer.headers:
        raise _no_store()


def _no_store() -> ServiceAway:
    """For what lacks that which every store's answer has: a proxy's page, say, by which nothing was stored or told."""
    return ServiceAway("what answered is no object store")


def _error_of(status: int, told: str) -> ServiceError:
    if status == 404:
        return ServiceHasNone(told)
    return ServiceAway(told) if status == 429 or status >= 500 else ServiceRefused(told)


@cache
def _session() -> Any:
    """One for all clients: it has read the protocol's description, which takes 0.1 s."""
    from aiobotocore.session import get_session  # noqa: PLC0415

    return get_session()


@asynccontextmanager
async def _speaking(fine: tuple[str, ...] = ()) -> AsyncIterator[None]:
    """The store's failures in a service's words; errors whose codes are `fine` are none."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in fine:
            return
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        raise _error_of(status, str(error)) from error
    except (BotoCoreError, aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise ServiceSlow("the store said nothing more") from error
        raise ServiceAway(f"{type(error).__name__}: {error}") from error


def objects_configured(settings: S3) -> bool:
    """Whether there is a store to talk to."""
    return bool(settings.access_key and settings.secret_key and settings.bucket)

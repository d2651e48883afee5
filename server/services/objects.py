"""The object store (S3). aiobotocore takes 0.3 s to import, so that happens only when a store is configured."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Self

from server.config import S3


class ObjectsAway(Exception):
    """The store did not answer in time, or refused."""


class Objects:
    """The store's client. Every call is cut after `s3.timeout_s` seconds."""

    def __init__(self, client: Any, settings: S3, stack: AsyncExitStack) -> None:
        self._client = client
        self._settings = settings
        self._stack = stack

    @classmethod
    async def open(cls, settings: S3) -> Self:
        """A client for a configured store; nothing is asked of it yet."""
        from aiobotocore.config import AioConfig  # noqa: PLC0415
        from aiobotocore.session import get_session  # noqa: PLC0415

        stack = AsyncExitStack()
        client = await stack.enter_async_context(
            get_session().create_client(
                "s3",
                endpoint_url=settings.endpoint_url or None,
                region_name=settings.region,
                aws_access_key_id=settings.access_key,
                aws_secret_access_key=settings.secret_key,
                config=AioConfig(
                    s3={"addressing_style": "path"},
                    signature_version="s3v4",
                    connect_timeout=settings.timeout_s,
                    read_timeout=settings.timeout_s,
                    retries={"max_attempts": 1},
                    # Stores other than Amazon's answer newer checksums wrongly or not at all.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
        )
        return cls(client, settings, stack)

    async def close(self) -> None:
        """Close the connections."""
        await self._stack.aclose()

    async def ensure_bucket(self) -> None:
        """Make the bucket unless it is there. Raises ObjectsAway."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._client.create_bucket(Bucket=self._settings.bucket, **self._location())
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise ObjectsAway(str(error)) from error
        except (BotoCoreError, OSError, TimeoutError) as error:
            raise ObjectsAway(f"{type(error).__name__}: {error}") from error

    def _location(self) -> dict[str, Any]:
        """Amazon wants the region said, except for its first one."""
        if self._settings.region in ("", "us-east-1") or self._settings.endpoint_url:
            return {}
        return {"CreateBucketConfiguration": {"LocationConstraint": self._settings.region}}


def objects_configured(settings: S3) -> bool:
    """Whether there is a store to talk to."""
    return bool(settings.access_key and settings.secret_key and settings.bucket)

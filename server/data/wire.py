"""One connection to Redis for the hot path: many commands in one write, their answers in one list.

redis-py connects, authenticates and selects; from then on the bytes are ours, parsed by the same hiredis. Its pipeline
pays for packing, a time-out and a callback for every answer; this does not. For one caller at a time.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError


class Wire(asyncio.Protocol):
    """Connects when it is first asked, and again after a failure. Nothing is ever sent twice."""

    def __init__(self, redis: Redis, greeting: bytes = b"") -> None:
        """`greeting` is one packed command, said first on every connection; its answer is not looked at."""
        pool = redis.connection_pool
        self._pool_class = pool.connection_class
        self._settings = {**pool.connection_kwargs, "protocol": 2}
        self._timeout_s: float | None = pool.connection_kwargs.get("socket_timeout")
        self._connection: AbstractConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._greeting = greeting
        self._reader = hiredis.Reader()
        self._answers: list[Any] = []
        self._awaited = 0
        self._waiter: asyncio.Future[None] | None = None

    async def ask(self, request: bytes, count: int) -> list[Any]:
        """Send packed commands and wait for their `count` answers: bytes, integers, lists; a refusal stands in its
        command's place as a ResponseError.

        Raises redis.exceptions.ConnectionError or TimeoutError: then it is unknown what of the request was done.
        """
        assert self._waiter is None, "one caller at a time"
        if self._transport is None or self._transport.is_closing():
            await self._connect()
            if self._greeting:
                await self.ask(self._greeting, 1)
        transport = self._transport
        assert transport is not None
        self._answers, self._awaited = [], count
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timeout_s):
                transport.write(request)
                await self._waiter
        except TimeoutError:
            raise RedisTimeoutError("no answer in time") from None
        finally:
            self._waiter = None
            if len(self._answers) != count:
                transport.abort()  # a late answer must never be taken for that to another request
        return self._answers

    def hang_up(self) -> None:
        """Have the next request go by a new connection."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Give the connection up."""
        self._transport = None
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _connect(self) -> None:
        await self.close()
        connection = self._pool_class(**self._settings)
        await connection.connect()  # type: ignore[no-untyped-call]
        writer: asyncio.StreamWriter = connection._writer  # type: ignore[assignment]
        transport = cast(asyncio.Transport, writer.transport)
        self._reader = hiredis.Reader(replyError=ResponseError)
        transport.set_protocol(self)
        self._connection, self._transport = connection, transport

    # asyncio.Protocol ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Answers, whole or in pieces."""
        self._reader.feed(data)
        answers = self._answers
        try:
            while (answer := self._reader.gets()) is not False:
                answers.append(answer)
        except hiredis.HiredisError as error:
            self._fail(RedisConnectionError(f"what Redis answers cannot be read: {error}"))
            return
        if len(answers) >= self._awaited and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits learns it at once."""
        self._fail(
            RedisConnectionError(f"the connection to Redis was lost: {exc}" if exc else "Redis closed the connection")
        )

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

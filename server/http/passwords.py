"""Passwords: made hashes of and looked at, in threads of their own and in time of their own."""

import asyncio
import base64
import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, TypeVar

import bcrypt

from server.http.keys import PASSWORDS
from server.http.problems import Overloaded
from server.http.routing import Call, apart

# Passwords that are looked at at the same time, and how long waiting and the work may be expected to take together.
_AT_ONCE = 2
_EXPECTED_S = 2.25
# Of so many the quickest tells how long one takes: not a moment in which the machine stood still, but that it is busy.
_LATELY = 4
# Behind the loop's thread: about a tenth of what that gets.
_NICENESS = 10
# A password takes a quarter of a second of a core. On a busy machine that is seconds in which nothing is stuck, and who
# is told to come back has the work begun anew: while it is that busy nobody would sign in.
LONGEST_S = 12.0

T = TypeVar("T")


async def hash_password(call: Call[Any], password: str) -> str:
    """A hash to store. The handler's time does not run meanwhile. Raises Overloaded."""
    async with _in_its_own_time(call):
        return await call.app[PASSWORDS].hash(password)


async def verify_password(call: Call[Any], password: str, stored: str | None) -> bool:
    """`Passwords.verify`. The handler's time does not run meanwhile. Raises Overloaded."""
    async with _in_its_own_time(call):
        return await call.app[PASSWORDS].verify(password, stored)


@asynccontextmanager
async def _in_its_own_time(call: Call[Any]) -> AsyncIterator[None]:
    try:
        async with apart(call.request, LONGEST_S):
            yield
    except TimeoutError:
        raise Overloaded("The machine is too busy to look at passwords.") from None


class Passwords:
    """bcrypt over base64(sha256(password)): bcrypt alone stops at 72 bytes and at NUL.

    Two at a time in threads of their own, so that a flood of sign-ins slows sign-ins and nothing else. Whoever finds
    them taken and is expected to need longer than `_EXPECTED_S` is refused at once.
    """

    def __init__(self, cost: int) -> None:
        self._cost = cost
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="bcrypt", initializer=_give_way)
        self._waiting = 0
        self._took_s = deque[float](maxlen=_LATELY)  # the last ones, by the clock and not by the processor's time
        # Made now: the first unknown user would be told apart by the time it takes.
        self._threads.submit(self._timed, lambda: self._nobodys_hash)

    async def hash(self, password: str) -> str:
        """A hash to store. Raises Overloaded."""
        return await self._run(self._hash, password)

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password is the stored one. Without one (no such user, an erased one) it takes the
        same time and is False. Raises Overloaded."""
        return await self._run(self._verify, password, stored)

    def close(self) -> None:
        """End the threads; what waits in the queue is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        expected_s = (self._waiting / _AT_ONCE + 1) * min(self._took_s, default=0.0)
        if self._waiting >= _AT_ONCE and expected_s > _EXPECTED_S:
            raise Overloaded("Too many passwords wait to be looked at.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: self._timed(work, *args))
        finally:
            self._waiting -= 1

    def _timed(self, work: Callable[..., T], *args: Any) -> T:
        began = time.monotonic()
        try:
            return work(*args)
        finally:
            self._took_s.append(time.monotonic() - began)

    def _hash(self, password: str) -> str:
        return bcrypt.hashpw(_digest(password), bcrypt.gensalt(self._cost)).decode()

    def _verify(self, password: str, stored: str | None) -> bool:
        hashed = (stored or self._nobodys_hash).encode()
        try:
            return bcrypt.checkpw(_digest(password), hashed) and bool(stored)
        except ValueError:  # not a hash
            return False

    @cached_property
    def _nobodys_hash(self) -> str:
        return self._hash("nobody has this password")


def _give_way() -> None:
    """The loop's thread first, where both want the same core: on Linux each thread has a niceness of its own."""
    if sys.platform == "linux":
        os.nice(_NICENESS)


def _digest(password: str) -> bytes:
    """44 bytes without NUL. Lone surrogates cannot come here: bodies with them are refused."""
    return base64.b64encode(hashlib.sha256(password.encode()).digest())

"""Every call to a service that is not ours goes through here: its time-out, its second try, its circuit breaker, its
figures; and what can go wrong, of which the HTTP floor tells clients (502, 503, 504).

A service that failed `breaker.failures` times in a row is left alone for `breaker.open_s`: its callers learn at once
what they would have learned after a time-out. Then one call, no more, finds out whether it is back; where an answer
takes long its beginning tells.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import TypeVar

import structlog

from server import metrics
from server.clock import Clock
from server.config import Breaker

T = TypeVar("T")
log = structlog.get_logger()

# Before a second try; random, so that what failed together does not come back together.
_PAUSE_S = (0.1, 0.3)


class ServiceError(Exception):
    """An outside service did not do what it was asked to. str() is for the log, not for clients."""


class ServiceAway(ServiceError):
    """It cannot be reached, is overloaded, or answered with an error of its own: worth another try later."""


class ServiceSlow(ServiceAway):
    """It did not answer in time; whether it did what was asked is unknown."""


class ServiceLeftAlone(ServiceAway):
    """It failed too often just now and was not asked at all."""

    def __init__(self, name: str, retry_after_s: float) -> None:
        super().__init__(f"{name} failed too often and is left alone for {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class ServicePutsOff(ServiceAway):
    """It works, but not for this just now. `is_brief`: another try in a moment may find it willing."""

    def __init__(self, text: str, *, is_brief: bool = False) -> None:
        super().__init__(text)
        self.is_brief = is_brief


class ServiceRefused(ServiceError):
    """It understood and refused, or its answer makes no sense: another try gives the same."""


class ServiceHasNone(ServiceRefused):
    """It does not have the thing that was named."""


class ServiceNotConfigured(ServiceError):
    """The settings that it needs are empty."""


# For jobs, which wait until somebody has set them.
SERVICE_AWAY = (ServiceAway, ServiceNotConfigured)


class State(IntEnum):
    """Of a circuit breaker; the value of `lectern_service_state`."""

    CLOSED = 0
    TRYING = 1
    OPEN = 2


class Service:
    """One outside service as this process sees it.

    Args:
        name: in metrics and logs, such as `video_host`.
        settings: section `breaker`.
        clock: for how long it has been left alone.
    """

    def __init__(self, name: str, settings: Breaker | None = None, clock: Clock | None = None) -> None:
        self.name = name
        self._settings = settings or Breaker()
        self._clock = clock or Clock()
        self._failures = 0
        self._open_until = 0.0
        self.state = State.CLOSED
        self._become(State.CLOSED)

    async def call(self, operation: str, ask: Callable[[], Awaitable[T]], *, timeout_s: float, tries: int = 1) -> T:
        """What `ask()` gives, within `timeout_s` for all tries together. Raises as `calling`.

        `tries` above 1 is for what may be done twice; only a failure that came in time is followed by another try.
        """
        deadline = self._clock.monotonic() + timeout_s
        for _ in range(tries - 1):
            pause_s = random.uniform(*_PAUSE_S)  # noqa: S311 - not a secret
            try:
                return await self._once(operation, ask, deadline)
            except ServiceAway as error:
                left_s = deadline - self._clock.monotonic()
                brief = not isinstance(error, ServicePutsOff) or error.is_brief
                if isinstance(error, ServiceSlow | ServiceLeftAlone) or not brief or left_s < 2 * pause_s:
                    raise
            await asyncio.sleep(pause_s)
        return await self._once(operation, ask, deadline)

    async def _once(self, operation: str, ask: Callable[[], Awaitable[T]], deadline: float) -> T:
        async with self.calling(operation, max(0.0, deadline - self._clock.monotonic())):
            return await ask()

    @asynccontextmanager
    async def calling(self, operation: str, timeout_s: float | None) -> AsyncIterator[None]:
        """Around one call, also one whose answer is read bit by bit (then `timeout_s` may be None).

        Raises ServiceSlow after `timeout_s`, ServiceLeftAlone instead of beginning while the service is left alone, and
        whatever is raised inside: ServiceAway counts against the service, a refusal for it, all else for neither.
        """
        self._admit(operation)
        began, outcome = self._clock.monotonic(), "given_up"
        try:
            async with asyncio.timeout(timeout_s):
                yield
            outcome = "done"
        except TimeoutError as error:
            outcome = "slow"
            raise ServiceSlow(f"{self.name} did not answer in time") from error
        except ServiceError as error:
            outcome = _outcome(error)
            raise
        finally:
            metrics.SERVICE_SECONDS.labels(self.name).observe(self._clock.monotonic() - began)
            self._settle(operation, outcome)

    def answers(self) -> None:
        """Within `calling`, when a long answer begins: the service is back, and others need not wait for its end.
        One that breaks off still is a failure."""
        if self.state is State.TRYING:
            self._be_back()

    def _admit(self, operation: str) -> None:
        left_s = self._open_until - self._clock.monotonic()
        if self.state is State.CLOSED:
            return
        if self.state is State.TRYING or left_s > 0:
            metrics.SERVICE_CALLS.labels(self.name, operation, "left_alone").inc()
            raise ServiceLeftAlone(self.name, max(left_s, 1.0))
        self._become(State.TRYING)

    def _settle(self, operation: str, outcome: str) -> None:
        metrics.SERVICE_CALLS.labels(self.name, operation, outcome).inc()
        if outcome in ("done", "refused", "put_off"):
            self._be_back()
        elif outcome in ("failed", "slow"):
            self._failures += 1
            if self.state is State.TRYING or self._failures == self._settings.failures:
                log.warning("service_left_alone", service=self.name, for_s=self._settings.open_s)
                self._open_until = self._clock.monotonic() + self._settings.open_s
                self._become(State.OPEN)
        elif self.state is State.TRYING:  # nothing was found out: the next one tries
            self._become(State.OPEN)

    def _be_back(self) -> None:
        self._failures = 0
        if self.state is not State.CLOSED:
            log.info("service_back", service=self.name)
            self._become(State.CLOSED)

    def _become(self, state: State) -> None:
        self.state = state
        metrics.SERVICE_STATE.labels(self.name).set(state)


def _outcome(error: ServiceError) -> str:
    match error:
        case ServiceSlow():
            return "slow"
        case ServicePutsOff():
            return "put_off"
        case ServiceAway():
            return "failed"
        case ServiceRefused():
            return "refused"
        case _:
            return "given_up"

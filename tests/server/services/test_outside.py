"""The circuit breaker, time-outs and second tries around every outside call."""

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY

from server.clock import Clock
from server.config import Breaker
from server.services.outside import (
    Service,
    ServiceAway,
    ServiceLeftAlone,
    ServicePutsOff,
    ServiceRefused,
    ServiceSlow,
    State,
)


class SetClock(Clock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def monotonic(self) -> float:
        return self.time_s


class Host:
    """Answers with what is put into `answers`, then with `"well"`, and counts."""

    def __init__(self, *answers: BaseException) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        if self.answers:
            raise self.answers.pop(0)
        return "well"


@pytest.fixture
def clock() -> SetClock:
    """A clock that stands."""
    return SetClock()


@pytest.fixture
def service(clock: SetClock) -> Service:
    """A service that is left alone for 10 s after three failures."""
    return Service("test", Breaker(failures=3, open_s=10), clock)


async def ask(service: Service, host: Any, **how: Any) -> str:
    """One call."""
    said: str = await service.call("ask", host, **{"timeout_s": 60} | how)
    return said


async def fail(service: Service, times: int) -> None:
    """Let it fail so often."""
    for _ in range(times):
        with pytest.raises(ServiceAway):
            await ask(service, Host(ServiceAway("down")))


def counted(outcome: str) -> float:
    labels = {"service": "test", "operation": "ask", "outcome": outcome}
    return REGISTRY.get_sample_value("lectern_service_calls_total", labels) or 0.0


async def test_a_service_that_fails_in_a_row_is_left_alone_for_a_while(service: Service, clock: SetClock) -> None:
    await fail(service, 3)
    host, before = Host(), counted("left_alone")
    clock.time_s += 4
    with pytest.raises(ServiceLeftAlone) as told:
        await ask(service, host)
    assert (host.asked, told.value.retry_after_s, counted("left_alone") - before) == (0, 6.0, 1)
    assert REGISTRY.get_sample_value("lectern_service_state", {"service": "test"}) == 2
    clock.time_s += 6
    assert await ask(service, host) == "well"
    assert REGISTRY.get_sample_value("lectern_service_state", {"service": "test"}) == 0


async def test_failures_that_are_not_in_a_row_open_nothing(service: Service) -> None:
    for _ in range(3):
        await fail(service, 2)
        assert await ask(service, Host()) == "well"
    assert service.state is State.CLOSED


@pytest.mark.parametrize("works", [ServiceRefused("no"), ServicePutsOff("later")])
async def test_a_service_that_refuses_works(service: Service, works: Exception) -> None:
    await fail(service, 2)
    with pytest.raises(type(works)):
        await ask(service, Host(works))
    await fail(service, 2)
    assert service.state is State.CLOSED


async def test_one_call_alone_finds_out_whether_it_is_back(service: Service, clock: SetClock) -> None:
    await fail(service, 3)
    clock.time_s += 10
    going, back = asyncio.Event(), asyncio.Event()

    async def slowly() -> str:
        going.set()
        await back.wait()
        return "well"

    first = asyncio.create_task(ask(service, slowly))
    await going.wait()
    with pytest.raises(ServiceLeftAlone):
        await ask(service, Host())
    back.set()
    assert await first == "well"
    assert await ask(service, Host()) == "well"


async def test_the_beginning_of_a_long_answer_tells_that_it_is_back(service: Service, clock: SetClock) -> None:
    await fail(service, 3)
    clock.time_s += 10
    async with service.calling("ask", None):
        with pytest.raises(ServiceLeftAlone):
            await ask(service, Host())
        service.answers()
        assert await ask(service, Host()) == "well"
        assert service.state is State.CLOSED


async def test_answers_that_begin_and_break_off_are_failures_in_a_row_too(service: Service, clock: SetClock) -> None:
    async def break_off() -> None:
        async with service.calling("ask", None):
            service.answers()
            raise ServiceAway("it broke off")

    for _ in range(2):  # the second time the first of them is what tells that it is back
        for _ in range(3):
            with pytest.raises(ServiceAway, match="broke off"):
                await break_off()
        assert service.state is State.OPEN
        clock.time_s += 10


async def test_one_that_is_not_back_is_left_alone_again_at_once(service: Service, clock: SetClock) -> None:
    await fail(service, 3)
    clock.time_s += 10
    await fail(service, 1)
    with pytest.raises(ServiceLeftAlone):
        await ask(service, Host())


async def test_a_caller_who_leaves_lets_the_next_one_find_out(service: Service, clock: SetClock) -> None:
    await fail(service, 3)
    clock.time_s += 10
    leaving = asyncio.create_task(ask(service, asyncio.Event().wait))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert service.state is State.TRYING
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await ask(service, Host()) == "well"


async def test_a_bug_of_ours_says_nothing_about_the_service(service: Service) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            await ask(service, Host(ZeroDivisionError()))
    assert service.state is State.CLOSED


async def test_what_takes_too_long_is_cut_and_counts_as_a_failure(service: Service) -> None:
    before = counted("slow")
    for _ in range(3):
        with pytest.raises(ServiceSlow):
            await ask(service, asyncio.Event().wait, timeout_s=0.01, tries=3)
    assert (service.state, counted("slow") - before) == (State.OPEN, 3)


async def test_what_may_be_done_twice_is_tried_again_after_a_failure_and_nothing_else(service: Service) -> None:
    host = Host(ServiceAway("down"))
    assert await ask(service, host, tries=2) == "well"
    assert host.asked == 2
    for error in (ServiceRefused("no"), ServicePutsOff("later"), ServiceSlow("?")):
        host = Host(error)
        with pytest.raises(type(error)):
            await ask(service, host, tries=2)
        assert host.asked == 1

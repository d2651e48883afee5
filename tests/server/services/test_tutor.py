"""The tutor's model: an answer that streams, and what can go wrong while it does; it is asked exactly once."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from server.config import Breaker, OpenAI
from server.services.outside import (
    ServiceAway,
    ServiceError,
    ServiceLeftAlone,
    ServiceNotConfigured,
    ServicePutsOff,
    ServiceRefused,
    ServiceSlow,
)
from server.services.tutor import Answer, Tutor, Usage
from tests.support.core import SetClock
from tests.support.language_model import LanguageModel
from tests.support.local_server import LocalServer

MESSAGES = [{"role": "user", "content": "<question>anything</question>"}]
WORDS = "one two three four five"


@asynccontextmanager
async def made(settings: dict[str, Any], breaker: Breaker | None = None) -> AsyncIterator[Tutor]:
    tutor = Tutor(OpenAI(**settings), breaker)
    yield tutor
    await tutor.close()


@pytest.fixture
def model(model: LanguageModel) -> LanguageModel:
    model.behave(says=WORDS)
    return model


async def ask(model: LanguageModel, **settings: Any) -> tuple[list[str], Answer]:
    async with made(model.settings | settings) as tutor:
        return await read(tutor)


async def read(tutor: Tutor, texts: list[str] | None = None) -> tuple[list[str], Answer]:
    told = [] if texts is None else texts
    async with tutor.asking(MESSAGES) as answer:
        async for text in answer.texts:
            told.append(text)
    return told, answer


async def test_an_answer_comes_in_pieces_with_what_it_took(model: LanguageModel) -> None:
    texts, answer = await ask(model)
    assert "".join(texts) == WORDS
    assert len(texts) == 5
    assert answer.finish == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    body = model.asked[0]
    assert (body["model"], body["max_completion_tokens"]) == ("stand-in", 1000)
    assert "reasoning_effort" not in body


async def test_endpoints_of_other_makers_are_a_matter_of_settings(model: LanguageModel) -> None:
    _, answer = await ask(model, tokens_parameter="max_tokens", answer_tokens=2, reasoning_effort="minimal")
    body = model.asked[0]
    assert (body["max_tokens"], body["reasoning_effort"]) == (2, "minimal")
    assert answer.finish == "length"


@pytest.mark.parametrize(
    ("behaviour", "settings", "expected", "told"),
    [
        ({"status": 500}, {}, ServiceAway, 0),
        ({"status": 429}, {}, ServicePutsOff, 0),
        ({"status": 400}, {}, ServiceRefused, 0),
        ({"first_token_ms": 20_000}, {"first_token_s": 0.2}, ServiceSlow, 0),
        ({"hang_after": 0}, {"first_token_s": 0.2}, ServiceSlow, 0),
        ({"hang_after": 2}, {"gap_s": 0.2}, ServiceSlow, None),  # two, unless the test stood still
        ({"token_ms": 150}, {"total_s": 0.4}, ServiceSlow, None),
        ({"die_after": 3}, {}, ServiceAway, 3),
    ],
)
async def test_what_goes_wrong_is_told_apart_and_the_model_is_asked_once(
    model: LanguageModel, behaviour: Any, settings: Any, expected: type[ServiceError], told: int | None
) -> None:
    model.behave(**behaviour)
    texts: list[str] = []
    async with made(model.settings | settings) as tutor:
        with pytest.raises(expected) as raised:
            await read(tutor, texts)
    assert type(raised.value) is expected
    assert told is None or len(texts) == told
    # At most: who gives up soon may do so before a busy machine has brought the question there.
    assert model.calls == 1 or (model.calls == 0 and expected is ServiceSlow)


async def test_a_model_that_cannot_be_reached_is_left_alone_after_some_failures(model: LanguageModel) -> None:
    nowhere = model.settings | {"base_url": "http://127.0.0.1:9/v1"}
    async with made(nowhere, Breaker(failures=2, open_s=60)) as tutor:
        for _ in range(2):
            with pytest.raises(ServiceAway):
                await read(tutor)
        with pytest.raises(ServiceLeftAlone):
            await read(tutor)


async def test_a_model_that_is_back_answers_others_while_the_first_answer_goes_on(model: LanguageModel) -> None:
    clock = SetClock()
    tutor = Tutor(OpenAI(**model.settings), Breaker(failures=1, open_s=10), clock)
    model.behave(status=500, times=1)
    with pytest.raises(ServiceAway):
        await read(tutor)
    clock.now_s += 10
    model.behave(hang_after=1)
    async with tutor.asking(MESSAGES) as answer:
        assert await anext(answer.texts)
        model.behave(hang_after=-1)
        assert "".join((await read(tutor))[0]) == WORDS
    await tutor.close()


# Endpoints of other makers --------------------------------------------------------------------------------------------


def event(text: Any = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    told = {"id": "x", "object": "chat.completion.chunk", "choices": [choice], **more}
    return b"data: " + orjson.dumps(told) + b"\n\n"


@asynccontextmanager
async def asking_for(
    events: Iterable[bytes], ending: str = "", **settings: Any
) -> AsyncIterator[tuple[Tutor, list[int]]]:
    """A tutor whose endpoint answers with these events as they stand, and the number of each that it sent."""
    sent: list[int] = []

    async def complete(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, each in enumerate(events, 1):
            await response.write(each)
            sent.append(number)
        if ending == "hangs":
            await asyncio.Event().wait()
        if ending == "is cut" and request.transport is not None:
            await asyncio.sleep(0.1)  # so that what was written is read before
            request.transport.abort()
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    async with LocalServer(app) as server:
        origin = str(server.make_url("")).rstrip("/")
        async with made({"base_url": f"{origin}/v1", "api_key": "x", "model": "x", **settings}) as tutor:
            yield tutor, sent


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1_000_000, "completion_tokens": 3},
        {"prompt_tokens": "12", "completion_tokens": "3"},
        {"prompt_tokens": 1.5, "completion_tokens": 3},
        {"prompt_tokens": 2**62, "completion_tokens": 3},
        {"prompt_tokens": 1_000_000, "completion_tokens": 3},
        {"prompt_tokens": 12, "completion_tokens": 1_000_000},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {},
        [],
        7,
    ],
)
async def test_figures_that_cannot_be_are_none(usage: Any) -> None:
    async with asking_for([event("one"), event(finish="stop"), event(choices=[], usage=usage)]) as (tutor, _):
        texts, answer = await read(tutor)
    assert (texts, answer.usage, answer.finish) == (["one"], None, "stop")


async def test_an_event_that_tells_figures_alone_needs_no_choices() -> None:
    told = {"prompt_tokens": 12, "completion_tokens": 3}
    async with asking_for([event("one"), event(finish="stop"), event(choices=None, usage=told)]) as (tutor, _):
        texts, answer = await read(tutor)
    assert (texts, answer.usage) == (["one"], Usage(12, 3))


@pytest.mark.parametrize(
    ("more", "ending"), [([], "hangs"), ([], "is cut"), ([b"data: {none\n\n"], "tells what makes no sense")]
)
async def test_an_answer_whose_end_was_told_is_whole_whatever_becomes_of_the_connection(
    more: list[bytes], ending: str
) -> None:
    async with asking_for([event("one"), event(finish="stop"), *more], ending) as (tutor, _):
        texts, answer = await read(tutor)
    assert (texts, answer.usage, answer.finish) == (["one"], None, "stop")


@pytest.mark.parametrize("text", [5, ["one"], {"text": "one"}])
async def test_an_answer_that_is_no_text_is_refused(text: Any) -> None:
    async with asking_for([event(text), event(finish="stop")]) as (tutor, _):
        with pytest.raises(ServiceRefused):
            await read(tutor)


async def test_an_event_that_is_nested_too_deeply_to_be_read_is_refused() -> None:
    async with asking_for([b"data: " + b"[" * 100_000 + b"]" * 100_000 + b"\n\n"]) as (tutor, _):
        with pytest.raises(ServiceRefused):
            await read(tutor)


async def test_an_endpoint_that_does_not_heed_how_long_an_answer_may_be_is_cut_short() -> None:
    events = (event("word " * 100) for _ in range(100_000))
    async with asking_for(events, answer_tokens=50) as (tutor, sent):
        texts, answer = await read(tutor)
    assert ("".join(texts), answer.finish) == ("word " * 160, "length")
    assert len(sent) < 100_000, "it was not hung up on"


async def test_one_whose_client_cannot_be_made_is_away(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ImportError("as for a proxy in the environment that it does not speak to")

    monkeypatch.setattr("openai.AsyncOpenAI", refuse)
    with pytest.raises(ServiceAway, match="a proxy in the environment"):
        await ask(model)


async def test_without_a_key_there_is_none() -> None:
    tutor = Tutor(OpenAI())
    assert not tutor.is_configured
    with pytest.raises(ServiceNotConfigured):
        await read(tutor)


async def test_who_stops_reading_stops_the_model(model: LanguageModel) -> None:
    model.behave(token_ms=20, says="word " * 500)
    async with made(model.settings, Breaker(failures=1)) as tutor:
        async with tutor.asking(MESSAGES) as answer:
            await anext(answer.texts)
        model.behave(token_ms=0, says=WORDS)
        assert "".join((await read(tutor))[0]) == WORDS


def test_an_answer_costs_what_its_tokens_do() -> None:
    tutor = Tutor(OpenAI(input_price=0.25, output_price=2))
    assert tutor.cost_micros(Usage(prompt_tokens=1000, completion_tokens=100)) == 450

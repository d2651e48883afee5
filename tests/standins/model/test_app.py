"""The stand-in model: OpenAI's protocol, answers from what it is given, and what makes it misbehave."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession

from standins.model.__main__ import read_arguments
from standins.model.answers import NOTHING, answer
from standins.model.meaning import Meaning, find_weights
from standins.model.vectors import embed
from tests.support.language_model import KEY, LanguageModel, speaking

if TYPE_CHECKING:
    from openai import AsyncOpenAI

GIVEN = """<passages>
<passage n="1" course="c">Redis keeps streams in memory. An entry has an id of two numbers.</passage>
<passage n="2" course="c" now="yes">A checkpoint is taken once a second &amp; fenced by its epoch.</passage>
</passages>"""


def chat(question: str, given: str = GIVEN) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Answer from the passages."},
        {"role": "user", "content": given},
        {"role": "user", "content": f"<question>{question}</question>"},
    ]


def client(model: LanguageModel, key: str = KEY) -> AsyncOpenAI:
    from openai import AsyncOpenAI  # noqa: PLC0415  takes a second, for which every worker would wait

    return AsyncOpenAI(base_url=model.settings["base_url"], api_key=key, max_retries=0)


def test_it_answers_with_the_sentence_that_fits_and_says_where_it_stands() -> None:
    assert answer(chat("What is fenced, and by which epoch?")) == (
        "“A checkpoint is taken once a second & fenced by its epoch.” [2]"
    )
    assert answer(chat("ids of entries?")) == "“An entry has an id of two numbers.” [1]"


def test_what_points_at_the_moment_is_answered_from_what_is_being_said() -> None:
    assert answer(chat("Explain what was just said")).endswith("[2]")
    saying = '<watching lecture="Redis" at="0:09" saying="An entry has an id of two numbers."/>\n'
    said = GIVEN.replace(' now="yes"', "").replace('n="1"', 'n="1" now="yes"')
    said = said.replace("numbers.", "numbers. Next come stacks.")
    assert answer(chat("Explain what was just said", saying + said)) == (
        "“Redis keeps streams in memory.” [1] “An entry has an id of two numbers.” [1]"
    )


def test_it_says_when_nothing_fits_and_is_always_the_same() -> None:
    assert answer(chat("How are bananas grown?")) == NOTHING
    assert answer(chat("epochs?")) == answer(chat("epochs?"))


async def test_the_sdk_reads_its_stream_with_usage_at_the_end() -> None:
    async with speaking() as model, client(model) as sdk:
        stream = await sdk.chat.completions.create(
            model="m", messages=chat("epoch?"), stream=True, stream_options={"include_usage": True}  # type: ignore[arg-type]
        )  # fmt: skip
        events = [event async for event in stream]
        whole = await sdk.chat.completions.create(model="m", messages=chat("epoch?"))  # type: ignore[arg-type]
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content
    assert len([event for event in events if event.choices and event.choices[0].delta.content]) > 5
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == len(text.split())
    assert model.calls == 2


async def test_it_can_refuse_a_number_of_times_die_in_mid_answer_and_be_cut_short() -> None:
    import openai  # noqa: PLC0415  as above

    async with speaking() as model, client(model) as sdk:

        async def read(**asked: object) -> list[str]:
            stream = await sdk.chat.completions.create(
                model="m", messages=chat("epoch?"), stream=True, **asked  # type: ignore[call-overload]
            )  # fmt: skip
            return [event.choices[0].finish_reason async for event in stream]

        model.behave(status=429, times=1)
        with pytest.raises(openai.RateLimitError):
            await read()
        model.behave(status=500)
        for _ in range(2):
            with pytest.raises(openai.InternalServerError):
                await read()
        model.behave(status=0, die_after=3)
        with pytest.raises(openai.APIConnectionError):
            await read()
        model.forget()
        assert (await read(max_completion_tokens=2))[-1] == "length"
        assert model.calls == 1


async def test_a_wrong_key_or_body_is_refused_in_openais_words() -> None:
    import openai  # noqa: PLC0415  as above

    async with speaking() as model:
        async with client(model, "another") as sdk:
            with pytest.raises(openai.AuthenticationError):
                await sdk.chat.completions.create(model="m", messages=chat("?"))  # type: ignore[arg-type]
        async with client(model) as sdk:
            with pytest.raises(openai.BadRequestError):
                await sdk.chat.completions.create(model="m", messages=[])


async def test_its_behaviour_is_told_by_control() -> None:
    async with speaking() as model, ClientSession(model.origin) as http:
        async with http.put("/control", json={"token_ms": 2, "says": "Ahoy there"}) as answered:
            assert answered.status == 200
        async with http.put("/control", json={"tokens_ms": 2}) as answered:
            assert answered.status == 422
        async with client(model) as sdk:
            whole = await sdk.chat.completions.create(model="m", messages=chat("?"))  # type: ignore[arg-type]
        async with http.get("/control") as answered:
            told = await answered.json()
        async with http.delete("/control") as answered:
            assert answered.status == 204
    assert whole.choices[0].message.content == "Ahoy there"
    assert told["calls"] == {"chat": 1}
    assert told["settings"]["token_ms"] == 2
    assert model.calls == 0


async def test_embeddings_of_texts_that_share_words_lie_close() -> None:
    async with speaking() as model, client(model) as sdk:
        made = await sdk.embeddings.create(
            model="m", input=["Caching keys", "cached key values", "Bananas"], encoding_format="float"
        )
    one, near, far = (item.embedding for item in made.data)
    assert math.isclose(sum(number * number for number in one), 1, rel_tol=1e-6)
    assert sum(a * b for a, b in zip(one, near, strict=True)) > 0.3
    assert abs(sum(a * b for a, b in zip(one, far, strict=True))) < 0.2
    assert embed("") == [0.0] * 512


async def test_with_weights_embeddings_of_texts_that_mean_the_same_lie_close() -> None:
    weights = find_weights()
    assert weights is not None
    meaning = Meaning(weights)
    one, near, far = (
        meaning.embed(text)
        for text in ("Does my bank pay for my savings?", "Deposits earn interest.", "Stars are born in dark clouds.")
    )
    assert math.isclose(sum(number * number for number in one), 1, rel_tol=1e-5)
    assert sum(a * b for a, b in zip(one, near, strict=True)) > 0.3
    assert abs(sum(a * b for a, b in zip(one, far, strict=True))) < 0.15
    for odd in ("", "x" * 500, "数据 🙂 Ünïcödé", "word " * 3000):
        assert len(meaning.embed(odd)) == 384
    # The tokens of the model's own tokenizer.
    assert meaning.tokens_of("Don't unfathomably!") == [101, 2123, 1005, 1056, 4895, 27753, 23393, 8231, 999, 102]


def test_the_command_line_says_where_and_how_fast() -> None:
    options = read_arguments(["--port", "1", "--token-ms", "3"])
    assert (options.host, options.port, options.token_ms, options.api_key) == ("127.0.0.1", 1, 3, "")

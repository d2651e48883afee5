"""The language model behind the tutor: any endpoint that speaks OpenAI's chat completions (`openai.base_url`)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.clock import Clock
from server.config import Breaker
from server.config import OpenAI as Settings
from server.services.outside import (
    Service,
    ServiceAway,
    ServiceNotConfigured,
    ServicePutsOff,
    ServiceRefused,
    ServiceSlow,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Message = Mapping[str, str]
# Where endpoints put what a model thinks before it answers.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# Not every endpoint heeds how long an answer may be: what has more characters for each of its tokens is cut here.
CHARACTERS_A_TOKEN = 16
# What an endpoint adds to what it is given, at the most: its own marks and prompts.
_ADDED_TOKENS = 4000
# What an answer took comes right behind its end, or not at all.
_FIGURES_S = 2.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took, in the model's own tokens."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class Answer:
    """An answer that is being given: read `texts` to its end, then the rest is known.

    `usage` is None where the endpoint tells none that can be; `finish` is why it ended ("stop", "length",
    "content_filter").
    """

    texts: AsyncIterator[str]
    usage: Usage | None = None
    finish: str | None = None


class Tutor:
    """Asks the model, each time exactly once: a second try would be a second answer, and paid twice."""

    def __init__(self, settings: Settings, breaker: Breaker | None = None, clock: Clock | None = None) -> None:
        self.settings = settings
        self._service = Service("tutor", breaker, clock)
        self._client: AsyncOpenAI | None = None
        self._connecting = threading.Lock()

    @property
    def is_configured(self) -> bool:
        """Whether there is a model to ask."""
        return bool(self.settings.api_key and self.settings.model)

    def cost_micros(self, usage: Usage) -> int:
        """What an answer costs by `openai.input_price` and `output_price`, in millionths of their unit."""
        return round(
            usage.prompt_tokens * self.settings.input_price + usage.completion_tokens * self.settings.output_price
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    @asynccontextmanager
    async def asking(self, messages: Sequence[Message]) -> AsyncIterator[Answer]:
        """Ask; the answer is read within the block, and the model stops when the block is left.

        Raises, in the block while it is read: ServiceNotConfigured; ServiceLeftAlone; ServiceSlow when nothing has come
        for `openai.first_token_s`, later for `gap_s`, or when all of it takes longer than `total_s`; ServicePutsOff for
        a limit of the endpoint's; ServiceAway when it breaks off; ServiceRefused.
        """
        if not self.is_configured:
            raise ServiceNotConfigured("openai.api_key or model is empty")
        async with self._service.calling("answer", self.settings.total_s):
            loop = asyncio.get_running_loop()
            deadline = loop.time() + self.settings.first_token_s
            with _translated():
                async with asyncio.timeout_at(deadline):
                    stream = await self._open(messages)
            async with stream:
                answer = Answer(_nothing())
                answer.texts = self._read(stream, answer, deadline, self._most(messages))
                yield answer

    async def _open(self, messages: Sequence[Message]) -> Any:
        settings = self.settings
        asked: dict[str, Any] = {settings.tokens_parameter: settings.answer_tokens}
        if settings.reasoning_effort:
            asked["reasoning_effort"] = settings.reasoning_effort
        client: Any = self._client or await asyncio.to_thread(self.connect)
        return await client.chat.completions.create(
            model=settings.model,
            messages=list(messages),
            stream=True,
            stream_options={"include_usage": True},
            **asked,
        )

    def connect(self) -> AsyncOpenAI:
        """Make the client, which asks nothing yet; in a thread, for the SDK takes a second to import.

        Raises ServiceAway where it cannot be made: it reads the environment, too, for proxies and certificates.
        """
        from openai import AsyncOpenAI  # noqa: PLC0415

        with self._connecting:  # the first question may come while the start still makes it
            if self._client is None:
                try:
                    self._client = AsyncOpenAI(
                        api_key=self.settings.api_key,
                        base_url=self.settings.base_url,
                        max_retries=0,
                        timeout=self.settings.total_s,
                    )
                except Exception as error:
                    raise ServiceAway(f"the model's client cannot be made: {_said(error)}") from error
            return self._client

    def _most(self, messages: Sequence[Message]) -> Usage:
        """What an answer to these can take: no token is less than a byte, and no answer is longer than it is let be."""
        given = sum(len(message["content"].encode()) for message in messages)
        return Usage(given + _ADDED_TOKENS, self.settings.answer_tokens * CHARACTERS_A_TOKEN)

    async def _read(self, stream: Any, answer: Answer, deadline: float, most: Usage) -> AsyncIterator[str]:
        """The texts as they come. What a model thinks aloud shows that it is at work, and is not told."""
        loop, events, is_silent = asyncio.get_running_loop(), aiter(stream), True
        left = self.settings.answer_tokens * CHARACTERS_A_TOKEN
        while left > 0:
            with _translated():
                try:
                    async with asyncio.timeout_at(deadline):
                        event = await anext(events)
                except StopAsyncIteration:
                    break
                except Exception:
                    if answer.finish is None:
                        raise
                    break  # all of it was said
                answer.usage = _usage(event.usage, most) or answer.usage
                text = ""
                for choice in (event.choices or ())[:1]:
                    if choice.finish_reason:
                        answer.finish = choice.finish_reason
                        deadline = min(deadline, loop.time() + _FIGURES_S)
                    text = choice.delta.content or ""
                    if not isinstance(text, str):
                        raise TypeError
                    if text or any((choice.delta.model_extra or {}).get(name) for name in _THOUGHTS):
                        deadline = loop.time() + self.settings.gap_s
                        if is_silent:
                            is_silent = False
                            self._service.answers()
            if text:
                yield text[:left]
                left -= len(text)
        if left <= 0:
            answer.finish = "length"
        elif answer.finish is None:
            raise ServiceAway("the model's answer broke off")


def _usage(told: Any, most: Usage) -> Usage | None:
    """None where it is not told, or cannot be: budgets, also that of all learners together, are settled by it."""
    counts = [getattr(told, name, -1) for name in ("prompt_tokens", "completion_tokens")]
    limits = most.prompt_tokens, most.completion_tokens
    can_be = all(isinstance(n, int) and 0 <= n <= limit for n, limit in zip(counts, limits, strict=True))
    return Usage(*counts) if can_be and any(counts) else None


async def _nothing() -> AsyncIterator[str]:
    return
    yield ""


@contextmanager
def _translated() -> Iterator[None]:
    """The SDK's errors, and those of what it stands on, in our words."""
    import httpx2  # noqa: PLC0415 - it comes with the SDK
    import openai  # noqa: PLC0415

    try:
        yield
    except (openai.APITimeoutError, httpx2.TimeoutException, TimeoutError) as error:
        raise ServiceSlow("the model did not answer in time") from error
    except openai.RateLimitError as error:
        raise ServicePutsOff(f"the model answered 429: {_said(error)}") from error
    except openai.APIStatusError as error:
        kind = ServiceAway if error.status_code >= 500 or error.status_code == 408 else ServiceRefused
        raise kind(f"the model answered {error.status_code}: {_said(error)}") from error
    except (openai.APIError, httpx2.HTTPError) as error:
        raise ServiceAway(f"the model cannot be reached, or broke off: {_said(error)}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ServiceRefused(f"the model's answer makes no sense: {type(error).__name__}") from error


def _said(error: Exception) -> str:
    return str(error)[:300]

"""The stand-in's protocol (OpenAI's), and what makes it misbehave.

| | |
|---|---|
| `POST /v1/chat/completions` | streamed or not; `stream_options.include_usage` |
| `POST /v1/embeddings` | vectors of 384 by meaning, where weights are given, else of 512 by words |
| `GET /v1/models` | the one that there is |
| `GET /control` | how it behaves, and what it was asked: `{"settings", "calls", "asked"}` |
| `PUT /control` | change that: see `Settings` |
| `DELETE /control` | as it began, and nothing counted |
| `GET /livez` | 200 |
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from standins.model.answers import answer, tokens_of
from standins.model.meaning import Meaning
from standins.model.vectors import DIMENSIONS, embed

MODEL = "stand-in"
KEPT = 50
LARGEST_BYTES = 8 << 20


@dataclass(frozen=True)
class Settings:
    """How it behaves.

    `status`: chats are answered with this error instead, 0: not; only the next `times` of them, 0: all. `die_after`:
    the connection is cut after so many tokens, `hang_after`: nothing more comes after so many; -1: never. `says`: what
    it answers whatever it is asked, as a model might that obeys what it reads.
    """

    token_ms: float = 0
    first_token_ms: float = 0
    status: int = 0
    times: int = 0
    die_after: int = -1
    hang_after: int = -1
    says: str = ""


class Model:
    """What it is like, and what it was asked so far."""

    def __init__(self, api_key: str = "", token_ms: float = 0, weights: Path | None = None) -> None:
        self.api_key = api_key
        self._first = Settings(token_ms=token_ms)
        self._weights = weights
        self._meaning: Meaning | None = None
        self._turn = asyncio.Lock()
        # Cleared, it holds its breath: answers go no further until it is set again.
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.forget()

    def forget(self) -> None:
        """As it began."""
        self.settings = self._first
        self.calls: Counter[str] = Counter()
        self.asked: deque[dict[str, Any]] = deque(maxlen=KEPT)

    async def embed(self, texts: list[str], dimensions: int | None) -> list[list[float]]:
        """Their vectors; the weights are read when they are first needed."""
        if self._weights is None:
            return [embed(text, dimensions or DIMENSIONS) for text in texts]
        async with self._turn:
            if self._meaning is None:
                self._meaning = await asyncio.to_thread(Meaning, self._weights)
            return [await asyncio.to_thread(self._meaning.embed, text) for text in texts]

    def fails_now(self) -> int:
        """The status with which this chat fails; 0: it does not."""
        status, times = self.settings.status, self.settings.times
        if status and times:
            self.settings = replace(self.settings, times=times - 1, status=status if times > 1 else 0)
        return status


MODEL_KEY: web.AppKey[Model] = web.AppKey("model", Model)
_numbers = itertools.count(1)


def create_app(api_key: str = "", token_ms: float = 0, weights: Path | None = None) -> web.Application:
    """The application; whoever runs it should cancel handlers whose client has gone. `weights` are `find_weights()`."""
    app = web.Application(client_max_size=LARGEST_BYTES)
    app[MODEL_KEY] = Model(api_key, token_ms, weights)
    app.router.add_post("/v1/chat/completions", _complete)
    app.router.add_post("/v1/embeddings", _embed)
    app.router.add_get("/v1/models", _list_models)
    app.router.add_get("/control", _show)
    app.router.add_put("/control", _change)
    app.router.add_delete("/control", _forget)
    app.router.add_get("/livez", _live)
    return app


def refusal(status: int, message: str, code: str | None = None) -> web.Response:
    """An error as OpenAI tells it."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return web.json_response({"error": {"message": message, "type": kind, "param": None, "code": code}}, status=status)


async def _read(request: web.Request) -> dict[str, Any] | web.Response:
    """The body, or why it is refused."""
    key = request.app[MODEL_KEY].api_key
    if key and request.headers.get("Authorization") != f"Bearer {key}":
        return refusal(401, "Incorrect API key provided.", "invalid_api_key")
    try:
        body = await request.json()
    except ValueError:
        return refusal(400, "The body is not JSON.")
    if not isinstance(body, dict) or not isinstance(body.get("model"), str) or not body["model"]:
        return refusal(400, "You must provide a model parameter.")
    return body


async def _complete(request: web.Request) -> web.StreamResponse:
    body = await _read(request)
    if isinstance(body, web.Response):
        return body
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        return refusal(400, "'messages' must be a list of messages.")
    model = request.app[MODEL_KEY]
    model.calls["chat"] += 1
    model.asked.append(body)
    settings = model.settings
    if status := model.fails_now():
        return refusal(status, "The stand-in was told to refuse.")
    most = int(body.get("max_completion_tokens") or body.get("max_tokens") or 1 << 20)
    tokens = tokens_of(settings.says or answer(messages))
    spoken, reason = tokens[:most], "length" if len(tokens) > most else "stop"
    usage = _usage(messages, len(spoken))
    head = {"id": f"chatcmpl-{next(_numbers)}", "created": int(time.time()), "model": body["model"]}
    if body.get("stream"):
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return await _stream(request, settings, head, spoken, reason, usage if wants_usage else None)
    await asyncio.sleep((settings.first_token_ms + settings.token_ms * len(spoken)) / 1000)
    message = {"role": "assistant", "content": "".join(spoken)}
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    return web.json_response(head | {"object": "chat.completion", "choices": [choice], "usage": usage})


def _usage(messages: list[dict[str, Any]], spoken: int) -> dict[str, int]:
    """A token is a word."""
    given = sum(len(tokens_of(json.dumps(message.get("content"), ensure_ascii=False))) for message in messages)
    return {"prompt_tokens": given, "completion_tokens": spoken, "total_tokens": given + spoken}


async def _stream(
    request: web.Request,
    settings: Settings,
    head: dict[str, Any],
    tokens: list[str],
    reason: str,
    usage: dict[str, int] | None,
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)

    async def send(choices: list[dict[str, Any]], **more: Any) -> None:
        event = head | {"object": "chat.completion.chunk", "choices": choices} | more
        await response.write(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")

    await asyncio.sleep(settings.first_token_ms / 1000)
    if settings.first_token_ms == 0 or tokens:
        await send([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    for place, token in enumerate(tokens):
        if place == settings.die_after and request.transport is not None:
            request.transport.abort()
            return response
        if place == settings.hang_after:
            await asyncio.Event().wait()
        await request.app[MODEL_KEY].flowing.wait()
        await send([{"index": 0, "delta": {"content": token}, "finish_reason": None}])
        await asyncio.sleep(settings.token_ms / 1000)
    await send([{"index": 0, "delta": {}, "finish_reason": reason}])
    if usage is not None:
        await send([], usage=usage)
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _embed(request: web.Request) -> web.Response:
    body = await _read(request)
    if isinstance(body, web.Response):
        return body
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        return refusal(400, "'input' must be a text or a list of texts.")
    request.app[MODEL_KEY].calls["embeddings"] += 1
    vectors = await request.app[MODEL_KEY].embed(texts, body.get("dimensions"))
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    used = sum(len(tokens_of(text)) for text in texts)
    usage = {"prompt_tokens": used, "total_tokens": used}
    return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": usage})


async def _list_models(_request: web.Request) -> web.Response:
    one = {"id": MODEL, "object": "model", "created": 0, "owned_by": "lectern"}
    return web.json_response({"object": "list", "data": [one]})


async def _show(request: web.Request) -> web.Response:
    model = request.app[MODEL_KEY]
    told = {"settings": asdict(model.settings), "calls": model.calls, "asked": list(model.asked)}
    return web.json_response(told)


async def _change(request: web.Request) -> web.Response:
    model = request.app[MODEL_KEY]
    given = await request.json()
    unknown = set(given) - {field.name for field in fields(Settings)}
    if unknown:
        return refusal(422, f"There is no setting {', '.join(sorted(unknown))}.")
    model.settings = replace(model.settings, **given)
    return web.json_response(asdict(model.settings))


async def _forget(request: web.Request) -> web.Response:
    request.app[MODEL_KEY].forget()
    return web.Response(status=204)


async def _live(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")

"""Embeddings of texts, by an endpoint of OpenAI's kind (`POST {openai.base_url}/embeddings`)."""

from collections.abc import Sequence

import aiohttp
import orjson

from server.config import Breaker, OpenAI
from server.services.outside import Service, ServiceAway, ServiceNotConfigured, ServiceRefused

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
# Embeddings come at once or not at all; a job has less time than a chat.
_TIMEOUT_S = 20.0
# What pgvector keeps at most.
_MOST_DIMENSIONS, _LARGEST = 16_000, 3.4e38


def embeddings_configured(settings: OpenAI) -> bool:
    """Whether there is a model to ask."""
    return bool(settings.api_key and settings.embedding_model)


class Embedder:
    """Makes embeddings by the model `openai.embedding_model`; `name` is that of its circuit breaker, in metrics and
    logs."""

    def __init__(
        self, http: aiohttp.ClientSession, settings: OpenAI, breaker: Breaker | None = None, name: str = "embeddings"
    ) -> None:
        self._http = http
        self._settings = settings
        self._service = Service(name, breaker)

    @property
    def is_configured(self) -> bool:
        """Whether there is a model to ask."""
        return embeddings_configured(self._settings)

    @property
    def model(self) -> str:
        """Its name, beside which its vectors are kept: those of two models cannot be compared."""
        return self._settings.embedding_model

    async def embed(self, texts: Sequence[str], *, timeout_s: float = _TIMEOUT_S, tries: int = 2) -> list[list[float]]:
        """A vector for each text, in their order. Raises ServiceErrors."""
        if not self.is_configured:
            raise ServiceNotConfigured("openai.api_key or embedding_model is empty")

        async def ask() -> list[list[float]]:
            try:
                async with self._http.post(
                    f"{self._settings.base_url.rstrip('/')}/embeddings",
                    headers={"Authorization": f"Bearer {self._settings.api_key}"},
                    json={"model": self.model, "input": list(texts)},
                    timeout=_NO_TIMEOUT,
                    allow_redirects=False,
                ) as answer:
                    if answer.status == 429 or answer.status >= 500:
                        raise ServiceAway(f"the model answered {answer.status}")
                    if answer.status != 200:
                        raise ServiceRefused(f"the model answered {answer.status}: {await answer.content.read(500)!r}")
                    return _vectors(await answer.read(), len(texts))
            except aiohttp.ClientError as error:
                raise ServiceAway(f"the model cannot be reached: {error}") from error

        timeout_s = min(self._settings.timeout_s, timeout_s)
        return await self._service.call("embed", ask, timeout_s=timeout_s, tries=tries)


def _vectors(answer: bytes, count: int) -> list[list[float]]:
    try:
        found = sorted(orjson.loads(answer)["data"], key=lambda item: item["index"])
        vectors = [[float(number) for number in item["embedding"]] for item in found]
    except (TypeError, KeyError, ValueError) as error:
        raise ServiceRefused("the model's answer has no embeddings") from error
    lengths = {len(vector) for vector in vectors}
    if len(vectors) != count or len(lengths) != 1 or not 1 <= lengths.pop() <= _MOST_DIMENSIONS:
        raise ServiceRefused("the model's answer does not fit what was asked")
    if not all(abs(number) <= _LARGEST for vector in vectors for number in vector):  # NaN is not either
        raise ServiceRefused("the model's answer has numbers that are none, or none that can be kept")
    return vectors

"""The stand-in model for tests: in the test's own process, with its controls at hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from standins.model.app import MODEL_KEY, Model, create_app
from tests.support.local_server import LocalServer

KEY = "model-key"


class LanguageModel:
    """What speaks at `settings["base_url"]`, and what it was asked."""

    def __init__(self, model: Model, origin: str) -> None:
        self._model = model
        self.origin = origin

    @property
    def settings(self) -> dict[str, Any]:
        """Section `openai` that points here."""
        return {
            "base_url": f"{self.origin}/v1",
            "api_key": KEY,
            "model": "stand-in",
            "embedding_model": "stand-in",
            "input_price": 1.0,
            "output_price": 2.0,
            "first_token_s": 60.0,
            "gap_s": 60.0,
        }

    @property
    def calls(self) -> int:
        """How many chats it was asked for."""
        return self._model.calls["chat"]

    @property
    def embeddings(self) -> int:
        """How many times it was asked for embeddings."""
        return self._model.calls["embeddings"]

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of those requests."""
        return list(self._model.asked)

    def behave(self, **settings: Any) -> None:
        """Change how it behaves: see `standins.model.app.Settings`."""
        self._model.settings = replace(self._model.settings, **settings)

    @contextmanager
    def holding_its_breath(self) -> Iterator[None]:
        """No answer goes on meanwhile, however long what is done then takes."""
        self._model.flowing.clear()
        try:
            yield
        finally:
            self._model.flowing.set()

    def forget(self) -> None:
        """As it began."""
        self._model.forget()


@asynccontextmanager
async def speaking() -> AsyncIterator[LanguageModel]:
    """A stand-in model for as long as the block lasts."""
    app = create_app(KEY)
    async with LocalServer(app) as server:
        yield LanguageModel(app[MODEL_KEY], str(server.make_url("")).rstrip("/"))

"""The share of the model that background jobs may use for each user: counted with the user's answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Protocol

from twin_sio.agent import Embedder
from twin_sio.agent.metering import metered
from twin_sio.domain import Json
from twin_sio.errors import ModelUnavailable
from twin_sio.services.limits import Limits

_user: ContextVar[str] = ContextVar("user")  # whose job is run


class OverBudget(ModelUnavailable):
    """The user's share of the model is used up: without it, or later."""


class JsonModel(Protocol):
    """A model that is asked in the background."""

    @property
    def name(self) -> str: ...

    async def complete_json(
        self, messages: Sequence[Mapping[str, str]], schema: Json, *, name: str, max_tokens: int = 500
    ) -> Json | None: ...


@contextmanager
def background_of(user_id: str) -> Iterator[None]:
    """What is asked of a model within counts as this user's."""
    token = _user.set(user_id)
    try:
        yield
    finally:
        _user.reset(token)


class BudgetedModel:
    """A model whose calls are counted, and refused with `OverBudget` where the user's share is used up."""

    def __init__(self, model: JsonModel, limits: Limits) -> None:
        self._model = model
        self._limits = limits

    @property
    def name(self) -> str:
        return self._model.name

    async def complete_json(
        self, messages: Sequence[Mapping[str, str]], schema: Json, *, name: str, max_tokens: int = 500
    ) -> Json | None:
        async with _counted(self._limits):
            return await self._model.complete_json(messages, schema, name=name, max_tokens=max_tokens)


class BudgetedEmbedder(Embedder):
    """An endpoint for embeddings whose calls are counted likewise."""

    def __init__(self, embedder: Embedder, limits: Limits) -> None:
        self.model = embedder.model
        self._embedder = embedder
        self._limits = limits

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        async with _counted(self._limits):
            return await self._embedder.embed(texts)


@asynccontextmanager
async def _counted(limits: Limits) -> AsyncIterator[None]:
    """One call: counted before, its tokens after, also where it failed. Raises `OverBudget`."""
    user_id = _user.get()
    if await limits.background(user_id) is not None:
        raise OverBudget
    with metered() as used:
        try:
            yield
        finally:
            await limits.record_tokens(user_id, used.tokens)

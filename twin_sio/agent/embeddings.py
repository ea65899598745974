"""Vectors of texts: from a model in a wheel, or from an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from twin_sio.agent import Embedder
from twin_sio.agent.metering import count_tokens
from twin_sio.agent.model import tokens
from twin_sio.agent.model.connection import CircuitBreaker, api_client, host_of, translated
from twin_sio.agent.model.failures import Failed
from twin_sio.errors import ModelUnavailable

_CHARACTERS: Final = 2000  # of a text; what comes after says little more of what it is about
_TIMEOUT_S: Final = 10.0
_DIMENSIONS: Final = 8_192  # of a vector, that are kept with a message
_KIND: Final = np.dtype("<f2")


class LocalEmbedder(Embedder):
    """WordLlama out of its wheel: 256 dimensions, 0.04 ms a sentence, no download, no network.

    Made once per process, on the main thread: it imports the library (0.5 s), and Python 3.11 may fail to compile
    anything while another thread imports. The weights are loaded when first used (0.3 s, 90 MB), in a thread.
    """

    model = "wordllama-256"

    def __init__(self) -> None:
        self._library = importlib.import_module("wordllama")
        self._loading: asyncio.Task[Any] | None = None

    @staticmethod
    def is_installed() -> bool:
        """Whether the wheel is there."""
        return importlib.util.find_spec("wordllama") is not None

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._load))
        try:
            loaded = await asyncio.shield(self._loading)  # a caller that cannot wait so long leaves it to the next
        except (OSError, ValueError):
            raise ModelUnavailable from None  # installed, and broken
        cut = [text[:_CHARACTERS] for text in texts]
        return await asyncio.to_thread(lambda: _unit(loaded.embed(cut)))

    def _load(self) -> Any:
        place = Path(str(self._library.__file__)).parent
        loaded = self._library.WordLlama.load(cache_dir=place, disable_download=True)
        # Its tokenizer keeps 10,000 of the pieces that it has encoded, and as this one splits at no spaces, a piece is
        # a whole text: 50 MiB of users' words that nobody asks for again and no erasure reaches.
        loaded.tokenizer.model._resize_cache(0)
        return loaded


class EndpointEmbedder(Embedder):
    """An OpenAI-compatible `/embeddings`. What the far side says goes into no error and no log."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        model: str,
        token_counts: Counter[tuple[str, str]] | None = None,
    ) -> None:
        """`token_counts`: receives the tokens that the endpoint reports, under the purpose `embeddings`."""
        self.model = model
        self.tokens: Counter[tuple[str, str]] = Counter() if token_counts is None else token_counts
        self._breaker = CircuitBreaker(host_of(base_url), model)
        self._client = api_client(base_url, api_key, timeout=_TIMEOUT_S)

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        """See the port. An endpoint that refuses everybody is not asked for a while (`CircuitBreaker`)."""
        self._breaker.check()
        try:
            with translated():
                vectors = await self._embedded(texts)
        except Failed as failed:
            failure = failed
        else:
            self._breaker.succeeded()
            return vectors
        raise self._breaker.failed(failure)

    async def _embedded(self, texts: Sequence[str]) -> Sequence[bytes]:
        cut = [text[:_CHARACTERS] or " " for text in texts]
        try:
            answer = await self._client.embeddings.create(model=self.model, input=cut, encoding_format="float")
            usage = answer.usage.model_dump() if answer.usage is not None else None
            count_tokens(self._record_usage(usage), sum(map(len, cut)))
            rows = sorted(answer.data, key=lambda one: one.index)
            if len(rows) != len(cut) or max((len(one.embedding) for one in rows), default=0) > _DIMENSIONS:
                raise Failed(again=False)
            return _unit(np.array([one.embedding for one in rows], dtype=np.float32))
        except (ValueError, TypeError, AttributeError):
            raise Failed(again=False) from None  # not what an embeddings endpoint answers

    def _record_usage(self, usage: object) -> dict[str, int]:
        reported = tokens(usage)
        for kind, count in reported.items():
            self.tokens["embeddings", kind] += count
        return reported

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


def _unit(rows: Any) -> list[bytes]:
    """The rows at length 1, in the form they are kept in; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return [row.tobytes() for row in (rows / np.where(lengths > 0, lengths, 1)).astype(_KIND)]

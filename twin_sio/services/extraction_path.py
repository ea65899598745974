"""Which extractor reads what users write: the model, where it is fit for it, else the rules."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import structlog

from twin_sio.agent import Extractor
from twin_sio.agent.extraction import prompts
from twin_sio.agent.extraction.fitness import examine
from twin_sio.agent.extraction.model import ModelExtractor
from twin_sio.clock import Clock
from twin_sio.domain import Evidence, Exchange
from twin_sio.errors import ModelRefused
from twin_sio.store.ports import ModelVerdict, ModelVerdicts

log = structlog.get_logger("extraction")

_ASKED_AGAIN = timedelta(minutes=5)  # a model that refused the test
_EXAMINED_AGAIN = timedelta(days=7)  # a model that was not fit: what is behind a name is replaced now and then

Path = Literal["model", "rules", "undecided"]


def model_id(endpoint: str, model: str, version: str = prompts.VERSION) -> str:
    """The id of a model under which its verdict, or what else is known of it, is stored: tells neither endpoint nor
    name. `version`: of the test."""
    return hashlib.sha256("\x1f".join((endpoint, model, version)).encode()).hexdigest()


@dataclass(slots=True)
class ExtractionStats:
    """For the operator: which path is taken, and how many calls of the model (`propose`, `doubt`) it made, or saved
    (`skipped`: messages that cannot hold a fact)."""

    path: Path = "undecided"
    calls: Counter[str] = field(default_factory=Counter)


class ExtractionPath(Extractor):
    """An extractor that examines its model once, before it first reads with it, and keeps the verdict."""

    def __init__(
        self,
        by_model: ModelExtractor,
        by_rules: Extractor,
        examined: ModelExtractor,
        verdicts: ModelVerdicts,
        name: str,
        clock: Clock,
        stats: ExtractionStats,
    ) -> None:
        """`examined` asks the same model as `by_model`, at nobody's expense. `name`: its `model_id`."""
        self._by_model = by_model
        self._by_rules = by_rules
        self._examined = examined
        self._verdicts = verdicts
        self._name = name
        self._clock = clock
        # One examination at a time: each costs the endpoint two calls for each of its messages.
        self._deciding = asyncio.Lock()
        # As this process knows it; another one may have stored a newer.
        self._verdict: ModelVerdict | None = None
        # When the model last refused the test: until it is asked again the rules read.
        self._refused_at: datetime | None = None
        self._stats = stats

    async def candidates(
        self, exchanges: Sequence[Exchange], known: Mapping[str, Sequence[str]] | None = None
    ) -> Sequence[Evidence]:
        """See the port. Raises `StorageUnavailable` while there is no verdict and none can be had."""
        return await (await self._extractor()).candidates(exchanges, known)

    async def extract_by_rules(self, exchange: Exchange) -> Sequence[Evidence]:
        """See the port."""
        return await self._by_rules.extract_by_rules(exchange)

    def without_duplicates(self, found: Sequence[Evidence], earlier: Sequence[Evidence]) -> Sequence[Evidence]:
        """See the port."""
        return self._by_rules.without_duplicates(found, earlier)

    async def _extractor(self) -> Extractor:
        async with self._deciding:
            if self._verdict is None or self._is_due(self._verdict):
                if self._refused_at is not None and self._clock() < self._refused_at + _ASKED_AGAIN:
                    return self._by_rules
                try:
                    self._verdict = await self._decide()
                except ModelRefused:  # asked again it would refuse again
                    self._refused_at = self._clock()
                    return self._by_rules
                fitness = self._verdict.fitness
                self._stats.path = "model" if fitness.is_fit else "rules"
                log.info("extraction_path", path=self._stats.path, **asdict(fitness))
        return self._by_model if self._stats.path == "model" else self._by_rules

    async def _decide(self) -> ModelVerdict:
        verdict = await self._verdicts.get(self._name)
        if verdict is None or self._is_due(verdict):
            verdict = ModelVerdict(await examine(self._examined), self._clock())
            await self._verdicts.put(self._name, verdict)
        return verdict

    def _is_due(self, verdict: ModelVerdict) -> bool:
        return not verdict.fitness.is_fit and verdict.at < self._clock() - _EXAMINED_AGAIN

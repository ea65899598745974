"""Finds what an exchange shows of its user. The model proposes; what it cannot quote from the user is dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, Protocol

from twin_sio.agent import Extractor, prompts
from twin_sio.agent.scoring import is_sensitive
from twin_sio.domain import Evidence, EvidenceKind, Exchange, Json

KEY: Final = re.compile(r"[a-z][a-z0-9_]{0,31}\.[a-z][a-z0-9_]{0,63}")
LEARNT: Final[dict[str, EvidenceKind]] = {"explicit": "explicit", "change": "change", "inferred": "inferred"}
POLARITY: Final[dict[str, Literal[1, -1]]] = {"support": 1, "oppose": -1}


class JsonModel(Protocol):
    """What the extractor needs of a model."""

    @property
    def name(self) -> str: ...

    async def complete_json(self, messages: Sequence[prompts.Message], schema: Json, *, name: str) -> Json | None: ...


class ModelExtractor(Extractor):
    """Asks a model for candidates under a JSON schema and keeps those that hold against the user's own text."""

    def __init__(self, model: JsonModel) -> None:
        self._model = model
        self._signature = f"model/{model.name}@{prompts.EXTRACTION_VERSION}"

    async def candidates(self, exchange: Exchange) -> Sequence[Evidence]:
        """At most one piece of evidence for each value, slot, kind and polarity; see the port for the rest."""
        found = await self._model.complete_json(
            prompts.extraction(exchange), prompts.EXTRACTION_SCHEMA, name=prompts.EXTRACTION_NAME
        )
        listed = (found or {}).get("candidates")
        proposed = listed[: prompts.MAX_CANDIDATES] if isinstance(listed, list) else []
        return tuple({piece.evidence_id: piece for piece in self._kept(proposed, exchange)}.values())

    def _kept(self, proposed: Sequence[Any], exchange: Exchange) -> Iterator[Evidence]:
        for candidate in proposed:
            if isinstance(candidate, dict) and all(isinstance(value, str) for value in candidate.values()):
                piece = self._evidence(candidate, exchange)
                if piece is not None:
                    yield piece

    def _evidence(self, candidate: dict[str, str], exchange: Exchange) -> Evidence | None:
        """None where the candidate is malformed, not the user's own words about themselves, or not ours to guess."""
        key = candidate.get("key", "").strip().lower()
        value = " ".join(candidate.get("value", "").split())
        quote = candidate.get("quote", "").strip()
        kind = LEARNT.get(candidate.get("kind", ""))
        polarity = POLARITY.get(candidate.get("polarity", ""))
        if kind is None or polarity is None or not KEY.fullmatch(key):
            return None
        if not 0 < len(value) <= prompts.MAX_VALUE or not 0 < len(quote) <= prompts.MAX_QUOTE:
            return None
        if quote not in exchange.text or (kind == "inferred" and is_sensitive(key)):
            return None
        return Evidence(
            user_id=exchange.user_id,
            key=key,
            value=value,
            polarity=polarity,
            kind=kind,
            observed_at=exchange.at,
            session_id=exchange.session_id,
            message_id=exchange.message_id,
            quote=quote,
            extractor=self._signature,
        )

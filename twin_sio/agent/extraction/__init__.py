"""Finds what an exchange shows of its user. The model proposes; what the user's own words do not bear is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

from twin_sio.agent import Extractor, prompts
from twin_sio.agent.extraction import rules
from twin_sio.agent.extraction.guards import Learnt, Message, Proposal, validated_kind
from twin_sio.agent.extraction.slots import Slot, canonical, comparison, same_value
from twin_sio.agent.reading import DirectReader, Reader, Reading
from twin_sio.agent.traits import is_functional, normal
from twin_sio.domain import Evidence, Exchange, Json

_FIELDS: Final = 12  # that a candidate may have
_LONGEST: Final = 1000  # characters of one of them
LEARNT: Final[dict[str, Learnt]] = {"explicit": "explicit", "change": "change", "inferred": "inferred"}
POLARITY: Final[dict[str, Literal[1, -1]]] = {"support": 1, "oppose": -1}


class JsonModel(Protocol):
    """What the extractor needs of a model."""

    @property
    def name(self) -> str: ...

    async def complete_json(
        self, messages: Sequence[prompts.PromptMessage], schema: Json, *, name: str
    ) -> Json | None: ...


class RulesExtractor(Extractor):
    """Reads what is plain: for models that are not up to more, as the embedded one is not."""

    def __init__(self, reader: Reader | None = None) -> None:
        """`reader`: where texts are parsed; in this process where there is none."""
        self._reader = reader or DirectReader()

    async def candidates(self, exchange: Exchange) -> Sequence[Evidence]:
        return await self.extract_by_rules(exchange)

    async def extract_by_rules(self, exchange: Exchange) -> Sequence[Evidence]:
        """What the rules read."""
        found = await self._reader.plain(exchange.text)
        return tuple(rules.evidence(exchange, one, rules.SIGNATURE) for one in found)

    def without_duplicates(self, found: Sequence[Evidence], earlier: Sequence[Evidence]) -> Sequence[Evidence]:
        """See the port. The same observation under another name must not count twice: a value that was read is not
        read again, nor is a slot of one value filled anew. What has the same id stays: the store keeps one."""
        others = [piece for piece in earlier if found and piece.extractor != found[0].extractor]
        return tuple(piece for piece in found if not any(_says(piece, other) for other in others))


class ModelExtractor(RulesExtractor):
    """Asks a model for candidates under a JSON schema and keeps those that hold against the user's own text; where
    it gives nothing usable, the rules."""

    def __init__(self, model: JsonModel, reader: Reader | None = None) -> None:
        super().__init__(reader)
        self._model = model
        self._signature = f"model/{model.name}@{prompts.EXTRACTION_VERSION}"

    async def candidates(self, exchange: Exchange) -> Sequence[Evidence]:
        """At most one piece of evidence for each value, slot and polarity; see the port for the rest.

        Where the answer is unusable, or all that it takes for the user's own words is not, the rules are asked.
        """
        found = await self._model.complete_json(
            prompts.extraction(exchange), prompts.EXTRACTION_SCHEMA, name=prompts.EXTRACTION_NAME
        )
        listed = (found or {}).get("candidates")
        if not isinstance(listed, list):
            return await self.extract_by_rules(exchange)
        listed = [one if _is_short(one) else None for one in listed[: prompts.MAX_CANDIDATES]]
        proposed = [one for one in listed if not _is_set_aside(one)]
        held = await self._reader.held(exchange.text, proposed) if proposed else ()
        pieces = [rules.evidence(exchange, one, self._signature) for one in held]
        return _once(pieces) if pieces or not proposed else await self.extract_by_rules(exchange)


def held(text: str, listed: Sequence[Any]) -> list[Reading]:
    """The model's candidates that the text supports."""
    message = Message(text)
    return [one for candidate in listed if (one := _held(candidate, message)) is not None]


def _held(candidate: Any, message: Message) -> Reading | None:
    """None where the candidate is malformed, not the user's own words about themselves, or not ours to guess."""
    if not isinstance(candidate, dict) or not all(isinstance(value, str) for value in candidate.values()):
        return None
    value, quote = " ".join(candidate.get("value", "").split()), candidate.get("quote", "").strip()
    kind, polarity = LEARNT.get(candidate.get("kind", "")), POLARITY.get(candidate.get("polarity", ""))
    if kind is None or polarity is None or quote not in message.text:
        return None
    if not 0 < len(value) <= prompts.MAX_VALUE or not 0 < len(quote) <= prompts.MAX_QUOTE:
        return None
    slot = _slot(candidate, value)
    if slot is None:
        return None
    proposal = Proposal(slot.key, slot.value, 1 if (polarity > 0) != slot.flipped else -1, kind, quote)
    borne = validated_kind(message, proposal)
    return Reading(slot.key, slot.value, proposal.polarity, borne, quote) if borne is not None else None


def _is_short(candidate: Any) -> bool:
    """Whether what a model gave is no longer than what is asked of it can be."""
    if not isinstance(candidate, dict) or len(candidate) > _FIELDS:
        return False
    return all(
        len(name) <= _LONGEST and isinstance(value, str) and len(value) <= _LONGEST for name, value in candidate.items()
    )


def _slot(candidate: dict[str, str], value: str) -> Slot | None:
    other = candidate.get("over", "").strip()
    return comparison(value, other) if other else canonical(candidate.get("key", ""), value)


def _is_set_aside(candidate: Any) -> bool:
    """Whether the model itself takes it for no statement of the user's."""
    kind = candidate.get("kind") if isinstance(candidate, dict) else None
    return isinstance(kind, str) and kind in prompts.KINDS and kind not in LEARNT


def _once(pieces: Sequence[Evidence]) -> tuple[Evidence, ...]:
    first: dict[tuple[str, str, int], Evidence] = {}
    for piece in pieces:
        first.setdefault((piece.key, normal(piece.value), piece.polarity), piece)
    return tuple(first.values())


def _says(piece: Evidence, other: Evidence) -> bool:
    if piece.message_id != other.message_id:
        return False
    if is_functional(piece.key) and piece.key == other.key:
        return True
    return piece.polarity == other.polarity and same_value(piece.value, other.value)

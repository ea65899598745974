"""Extraction by rules: for those without a model, and while none answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twin_sio.agent import Extractor
from twin_sio.agent.extraction import rules
from twin_sio.agent.extraction.slots import same_value
from twin_sio.agent.reading import DirectReader, Reader
from twin_sio.agent.traits import is_functional
from twin_sio.domain import Evidence, Exchange


class RulesExtractor(Extractor):
    """Reads what is plain."""

    def __init__(self, reader: Reader | None = None) -> None:
        """`reader`: where texts are parsed; in this process where there is none."""
        self._reader = reader or DirectReader()

    async def candidates(
        self,
        exchanges: Sequence[Exchange],
        known: Mapping[str, Sequence[str]] | None = None,  # noqa: ARG002 - the rules need no help
    ) -> Sequence[Evidence]:
        """What the rules read in each message by itself."""
        return [piece for exchange in exchanges for piece in await self.extract_by_rules(exchange)]

    async def extract_by_rules(self, exchange: Exchange) -> Sequence[Evidence]:
        """See the port."""
        found = await self._reader.plain(exchange.text)
        return tuple(rules.evidence(exchange, one, rules.SIGNATURE) for one in found)

    def without_duplicates(self, found: Sequence[Evidence], earlier: Sequence[Evidence]) -> Sequence[Evidence]:
        """See the port. The same observation under another name must not count twice: a value that was read is not
        read again, nor is a slot of one value filled anew. What has the same id stays: the store keeps one."""
        return tuple(
            piece
            for piece in found
            if not any(_says(piece, other) for other in earlier if other.extractor != piece.extractor)
        )


def _says(piece: Evidence, other: Evidence) -> bool:
    if piece.message_id != other.message_id:
        return False
    if is_functional(piece.key) and piece.key == other.key:
        return True
    return piece.polarity == other.polarity and same_value(piece.value, other.value)

"""What the model thinks, as AG-UI's reasoning messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ag_ui.core import (
    BaseEvent,
    ReasoningEndEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ReasoningStartEvent,
)


class ReasoningEvents:
    """At most one message is open; each is a span of its own."""

    def __init__(self) -> None:
        self._open: str | None = None
        self._generation, self._next = "", 0
        self._count = 0

    def chunk(self, piece: Mapping[str, Any]) -> Iterator[BaseEvent]:
        """The next piece; a repeat is dropped, another generation begins anew."""
        if piece["generation_id"] != self._generation:
            yield from self.end()
            self._generation, self._next = piece["generation_id"], 0
        if piece["chunk_index"] >= self._next:
            self._next = piece["chunk_index"] + 1
            yield from self._add(piece["generation_id"], piece["text"])

    def whole(self, generation_id: str, text: str) -> Iterator[BaseEvent]:
        """All of it at once, where nothing was shown."""
        if not self._count:
            yield from self._add(generation_id, text)
            yield from self.end()

    def _add(self, generation_id: str, text: str) -> Iterator[BaseEvent]:
        if self._open is None:
            self._open = f"{generation_id}.reasoning.{self._count}"
            self._count += 1
            yield ReasoningStartEvent(message_id=self._open)
            yield ReasoningMessageStartEvent(message_id=self._open, role="reasoning")
        yield ReasoningMessageContentEvent(message_id=self._open, delta=text)

    def end(self) -> Iterator[BaseEvent]:
        """Something else comes."""
        if self._open is not None:
            yield ReasoningMessageEndEvent(message_id=self._open)
            yield ReasoningEndEvent(message_id=self._open)
            self._open = None

"""The answers that are being written, joined from their chunks. Pure, as `state` is, whose part this is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from twin_sio.client.changes import ChunkApplied, StreamedAnswer
from twin_sio.client.envelopes import Head

_REMEMBERED = 256


@dataclass(slots=True)
class Generations:
    """The running generations by their id: of each message the newest attempt at its answer alone."""

    running: dict[str, StreamedAnswer] = field(default_factory=dict)
    # Generation ids that were over last: their late chunks are dropped.
    _ended: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def answering(self, message_id: str) -> StreamedAnswer | None:
        """The running answer to a user's message."""
        return next((running for running in self.running.values() if running.in_response_to == message_id), None)

    def chunk(self, head: Head) -> ChunkApplied | Literal["old", "gap"]:
        """Apply a chunk. `old`: it is here already, or its generation is over; `gap`: one before it is missing."""
        chunk = head.payload
        if chunk["generation_id"] in self._ended:
            return "old"
        generation = self._generation(chunk["generation_id"], head)
        last_index = chunk["chunk_index"]
        # Several may come merged into one, which has the index of the last of them.
        first_index = chunk.get("first_chunk_index", last_index)
        if last_index < generation.next_index:
            return "old"
        if first_index not in (0, generation.next_index):
            return "gap"
        replaced = first_index == 0
        generation.text = chunk["text"] if replaced else generation.text + chunk["text"]
        generation.next_index = last_index + 1
        generation.is_whole = bool(chunk.get("is_last_chunk"))
        return ChunkApplied(
            generation.generation_id,
            generation.in_response_to,
            head.conversation_id,
            chunk["text"],
            replaced,
        )

    def _generation(self, generation_id: str, head: Head) -> StreamedAnswer:
        """The generation a chunk belongs to; a new one ends the older attempts at the same message."""
        known = self.running.get(generation_id)
        if known is None:
            self._end_attempts(head.in_response_to)
            known = StreamedAnswer(generation_id, head.in_response_to, head.conversation_id)
            self.running[generation_id] = known
        return known

    def joins_to(self, text: str, generation_id: str | None) -> bool | None:
        """Whether the chunks of a generation join to its final text; None where not all were seen."""
        streamed = self.running.get(generation_id or "")
        if streamed is None or not streamed.is_whole:
            return None
        return streamed.text == text

    def answered(self, generation_id: str | None, in_response_to: str | None) -> None:
        """The answer is there: its generation is over, and so is every other attempt at it."""
        self._end_attempts(in_response_to)
        if generation_id:
            self._end(generation_id)

    def _end_attempts(self, in_response_to: str | None) -> None:
        if not in_response_to:
            return
        for running in list(self.running.values()):
            if running.in_response_to == in_response_to:
                self._end(running.generation_id)

    def _end(self, generation_id: str) -> None:
        self.running.pop(generation_id, None)
        if generation_id not in self._ended:
            self._ended.append(generation_id)

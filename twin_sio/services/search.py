"""Finds what was said in a user's conversations, for a prompt and for the user."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from twin_sio.agent import Embedder
from twin_sio.clock import iso
from twin_sio.domain import Event, Json
from twin_sio.errors import ModelUnavailable
from twin_sio.services.compute_budget import ComputeBudget
from twin_sio.services.user_slots import UserSlots
from twin_sio.store.cache import LineIndexes
from twin_sio.store.line_index import LineIndex
from twin_sio.store.ports import LINE_CHARACTERS, Memories

_PATIENCE_S: Final = 2.0  # that a user waits for their own search
_EXCERPT: Final = 240  # characters
_BEFORE: Final = 60  # characters of an excerpt that stand before what was found
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Found:
    """Messages, the nearest first; `is_complete`: all of the user's messages were searched."""

    events: Sequence[Event]
    is_complete: bool


class MessageSearch:
    """By words and, where there is an embedder, by what the words mean. What is found stands in the store."""

    def __init__(self, memories: Memories, indexes: LineIndexes, embedder: Embedder | None) -> None:
        self._memories = memories
        self._indexes = indexes
        self._embedder = embedder
        self._budget = ComputeBudget()
        # Each search of a user would hold a thread of all users' until the one before it is done.
        self._places = UserSlots(1)

    async def find(
        self, user_id: str, text: str, most: int, *, patience_s: float, asked: int = 0, beside: bool = True
    ) -> Found:
        """At most so many of the user's messages that have to do with `text`, not the one of the seq `asked`; `beside`:
        also what only stands next to one in its conversation, or may mean the same. The index is waited for as long as
        `patience_s`, and the vector of `text` half of it: then it is searched as far as it has come, or without. Raises
        `StorageUnavailable`."""
        index, is_complete = await self._indexes.get(user_id, patience_s)
        vector = await self._vector(index, text, patience_s / 2)
        async with self._places.place(user_id):
            seqs = await self._budget.compute(
                user_id, lambda: index.search(text, vector, most, without=asked, beside=beside)
            )
        events = {event.seq: event for event in await self._memories.messages(user_id, seqs)} if seqs else {}
        # Erased, or kept no longer, since they were indexed.
        if gone := [seq for seq in seqs if seq not in events]:
            await asyncio.to_thread(index.remove, gone)
        return Found([events[seq] for seq in seqs if seq in events], is_complete)

    async def read(self, user_id: str, text: str, limit: int) -> Json:
        """What a user is answered: `{messages, complete}`, as the protocol has it. Raises `RateLimited` where they have
        had too much searched."""
        async with self._budget.turn(user_id):
            found = await self.find(user_id, text, limit, patience_s=_PATIENCE_S, beside=False)
        lines = await asyncio.to_thread(lambda: [_line(event, text) for event in found.events])
        return {"messages": lines, "complete": found.is_complete}

    async def _vector(self, index: LineIndex, text: str, patience_s: float) -> bytes | None:
        if self._embedder is None or not index.count:
            return None
        try:
            async with asyncio.timeout(patience_s):
                (vector,) = await self._embedder.embed([await asyncio.to_thread(index.distinctive, text)])
        except (ModelUnavailable, TimeoutError):
            return None
        return vector


def _line(event: Event, text: str) -> dict[str, Any]:
    return {
        "message_id": event.message_id,
        "conversation_id": event.conversation_id,
        "role": "user" if event.type == "user_message" else "twin",
        "excerpt": _excerpt(event.payload["text"], text),
        "timestamp": iso(event.at),
        "seq": event.seq,
    }


def _excerpt(text: str, wanted: str) -> str:
    """What is around the first of the wanted words, or the beginning."""
    # The longest first: an alternation takes the first that fits, and a longer word says more.
    words = sorted({re.escape(word) for word in _WORD.findall(wanted)[:50]}, key=len, reverse=True)
    # As far as messages are indexed: to look for fifty words takes 0.4 ms for each thousand characters.
    looked_at = text[:LINE_CHARACTERS]
    found = re.search("|".join(rf"\b{word}" for word in words), looked_at, re.IGNORECASE) if words else None
    begin = max(0, min(found.start() - _BEFORE, len(text) - _EXCERPT)) if found is not None else 0
    end = begin + _EXCERPT
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if end < len(text) else ''}"

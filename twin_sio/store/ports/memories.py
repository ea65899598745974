"""What is remembered of conversations: titles, summaries, vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twin_sio.domain import (
    Event,
)


@dataclass(frozen=True, slots=True)
class Summary:
    """What was said in a conversation up to and with the message of seq `upto`, as points; `since` is when the oldest
    message that it draws on was sent. Without any: nothing, up to 0."""

    points: tuple[str, ...] = ()
    upto: int = 0
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Thread:
    """What is stored of a conversation beside its messages. `key` names this very conversation: a write to one that was
    erased meanwhile is dropped, also where another of the same id has begun."""

    user_id: str
    conversation_id: str
    key: str
    title: str | None
    summary: Summary


@dataclass(frozen=True, slots=True)
class MessageVector:
    """The vector of a message; `seq` is the message's."""

    message_id: str
    vector: bytes
    seq: int = 0


class Memories(Protocol):
    """Titles, summaries and vectors: derived from messages, and deleted with them."""

    async def thread(self, user_id: str, conversation_id: str) -> Thread | None:
        """The conversation's thread; None where there is no such conversation."""
        ...

    async def set_title(self, thread: Thread, title: str, since: datetime) -> bool:
        """Give the conversation a title made of messages from `since` on; false where it has one, or is gone."""
        ...

    async def set_summary(self, thread: Thread, summary: Summary) -> bool:
        """Replace the thread's summary; false where it has changed meanwhile, or the thread is gone."""
        ...

    async def expire(self, before: datetime) -> int:
        """Drop titles and summaries that draw on messages older than this; of how many conversations."""
        ...

    async def without_vector(self, user_id: str, model: str, newest: int) -> Sequence[Event]:
        """Those of the user's `newest` events that are messages and have no vector of this model, oldest first."""
        ...

    async def embed(self, user_id: str, model: str, vectors: Sequence[MessageVector]) -> None:
        """Store vectors with their messages; those of deleted messages are dropped."""
        ...

    async def vectors(self, user_id: str, model: str, limit: int, *, after: int = 0) -> Sequence[MessageVector]:
        """The vectors of this model of the user's newest messages with `seq > after`, at most `limit`, newest first."""
        ...

    async def messages(self, user_id: str, message_ids: Sequence[str]) -> Sequence[Event]:
        """The user's messages of these ids, as far as they exist, in any order."""
        ...

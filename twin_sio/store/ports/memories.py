"""What is remembered of conversations: titles, summaries, vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from twin_sio.domain import Event


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
    """The vector of a message."""

    message_id: str
    vector: bytes


LINE_CHARACTERS: Final = 4_000
"""Of a message, that are searched: what comes after says little more of what it is about."""


@dataclass(frozen=True, slots=True)
class StoredLine:
    """What one side said, as far as it is searched; `vector` is float16 of length 1, where there is one."""

    seq: int
    conversation_id: str
    is_user: bool
    text: str
    vector: bytes | None = None


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

    async def lines(
        self, user_id: str, model: str | None, limit: int, *, after: int = 0, before: int | None = None
    ) -> Sequence[StoredLine]:
        """The user's newest messages of seqs between `after` and `before`, at most `limit`, newest first, with their
        vectors of this model; of a text the first `LINE_CHARACTERS`."""
        ...

    async def oldest(self, user_id: str) -> int:
        """The seq of the oldest event that there still is of the user's; 0 where there is none."""
        ...

    async def messages(self, user_id: str, seqs: Sequence[int]) -> Sequence[Event]:
        """The user's messages of these seqs, as far as they exist, in any order."""
        ...

"""The log of a user's durable events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from twin_sio.domain import Event, Json, NewEvent


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What the log answered: the event as stored, and whether this call stored it."""

    event: Event
    is_new: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a conversation, oldest first, and whether there is more in the direction asked for."""

    events: tuple[Event, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """One line of the conversation list."""

    conversation_id: str
    title: str
    last: Event | None
    unread: int


class Log(Protocol):
    """The durable events of every user: dense, ordered, append-only. It alone decides the order."""

    async def append(self, draft: NewEvent) -> AppendResult:
        """Store with the next `seq` of its user; on return it survives the death of any one machine.

        Two drafts with one `(user_id, message_id)` are stored once: the later one gets the earlier event with
        `is_new` false, whatever it holds. There is never a gap and never a second event of one seq.
        """
        ...

    async def read(self, user_id: str, after: int, limit: int) -> Sequence[Event]:
        """At most `limit` events with `seq > after`, in order; only what can no longer be rolled back. Fewer where
        they are large, and none only where there are none."""
        ...

    async def head(self, user_id: str) -> int:
        """The newest seq of the user; 0 where there is none."""
        ...

    async def remove(self, event: Event) -> None:
        """Take back an event that nobody was told of; its seq is not given again."""
        ...

    async def heads(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """The newest seq of each of the users that have one."""
        ...

    async def get(self, user_id: str, message_id: str) -> Event | None:
        """The user's event of this id."""
        ...

    async def page(
        self,
        user_id: str,
        conversation_id: str,
        *,
        before: int | None,
        after: int | None,
        limit: int,
        characters: int | None = None,
    ) -> Page:
        """Messages (user's and twin's) of a conversation next to a seq: stable, since seqs never change.

        Without `before` and `after`: the newest. Not many more than `characters` in all, but one message at least.
        """
        ...

    async def feedback(self, user_id: str, message_ids: Sequence[str]) -> Mapping[str, Json]:
        """The newest feedback payload to each of these messages."""
        ...

    async def to_correct(self, older_than_s: float, limit: int) -> Sequence[tuple[str, str]]:
        """`(user_id, message_id)` of feedback with a correction that no job has learned from after this time; the
        newest first, so that those from which nothing can be learned do not stand in the others' way."""
        ...

    async def corrected(self, user_id: str, message_id: str) -> None:
        """The correction in this feedback has been learned from."""
        ...

    async def conversations(
        self, user_id: str, *, before: int | None = None, limit: int = 1_000
    ) -> Sequence[ConversationSummary]:
        """The user's conversations, the one with the newest message first, from those whose last message is older than
        the seq `before`."""
        ...

    async def read_up_to(self, user_id: str, conversation_id: str) -> int:
        """The seq up to which the conversation is read; 0 where nothing is."""
        ...

    async def mark_read(self, user_id: str, conversation_id: str, seq: int, epoch: int = 0) -> None:
        """Remember that the conversation is read up to `seq`, where it is not read farther."""
        ...

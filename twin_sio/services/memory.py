"""What is made of conversations after they were held: vectors, titles, summaries. Running it again changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from twin_sio.agent import ChatMessage, Embedder, Summarizer
from twin_sio.agent.prompts import LINE_CHARACTERS, MESSAGE_OVERHEAD, tokens
from twin_sio.clock import Clock
from twin_sio.domain import Event
from twin_sio.errors import ModelContextTooLong, ModelUnavailable
from twin_sio.store.ports import Log, Memories, MessageVector, Summary, Thread

_EMBEDDED_BEHIND = 200  # events, newest first, in which what has no vector yet is found
_PAGE = 200  # events that are read at once
_FOLDS = 4  # of a backlog at a time; the rest with the next exchange
_LINES = 40  # that stay unfolded at most: fewer than are fetched for a prompt
_TITLE_LINES = 4  # the first ones: what a conversation is about is said at its beginning


class MemoryService:
    """Looks after one conversation once something was said in it; what it misses is made up for the next time."""

    def __init__(
        self,
        messages: Log,
        memories: Memories,
        summarizer: Summarizer | None,
        embedder: Embedder | None,
        clock: Clock,
        *,
        budget_tokens: int,
        retention_days: int,
    ) -> None:
        """`budget_tokens` is the prompt's: what its history is sure to hold is not folded. `retention_days`: for how
        long messages are kept; 0 for ever."""
        self._messages = messages
        self._memories = memories
        self._summarizer = summarizer
        self._embedder = embedder
        self._clock = clock
        self._budget = budget_tokens  # of a prompt, in tokens
        self._retention_days = retention_days

    async def expire(self) -> None:
        """Drop what was made of messages that are kept no longer; what remains of a conversation makes it anew."""
        if self._retention_days:
            await self._memories.expire(self._clock() - timedelta(days=self._retention_days))

    async def remember(self, user_id: str, conversation_id: str) -> None:
        """Bring vectors, title and summary up to date. Raises `ModelUnavailable` and `StorageUnavailable`."""
        # Before its messages are read: whatever is made of them goes to this conversation or nowhere.
        thread = await self._memories.thread(user_id, conversation_id)
        failure: ModelUnavailable | None = None
        if self._embedder is not None:
            try:
                await self._embed(self._embedder, user_id)
            except ModelUnavailable as error:  # of the embeddings: title and summary do not wait for it
                failure = error
        if thread is not None and self._summarizer is not None:
            if thread.title is None:
                await self._generate_title(self._summarizer, thread)
            await self._summarize_older(self._summarizer, thread)
        if failure is not None:
            raise failure

    async def _embed(self, embedder: Embedder, user_id: str) -> None:
        bare = await self._memories.without_vector(user_id, embedder.model, _EMBEDDED_BEHIND)
        vectors = await embedder.embed([_text(event) for event in bare]) if bare else ()
        kept = [MessageVector(event.message_id, vector) for event, vector in zip(bare, vectors, strict=True)]
        await self._memories.embed(user_id, embedder.model, kept)

    async def _generate_title(self, summarizer: Summarizer, thread: Thread) -> None:
        page = await self._messages.page(
            thread.user_id, thread.conversation_id, before=None, after=0, limit=_TITLE_LINES
        )
        lines = _current_messages(page.events)
        # One that the model has nothing for stays without: its first words are shown in its place.
        if lines and (title := await summarizer.title([_said(event) for event in lines])):
            await self._memories.set_title(thread, title, lines[0].at)

    async def _summarize_older(self, summarizer: Summarizer, thread: Thread) -> None:
        """Fold what the history of a prompt may not hold any more into the summary, the oldest first."""
        for _ in range(_FOLDS):
            before = thread.summary
            page = await self._messages.page(
                thread.user_id, thread.conversation_id, before=None, after=before.upto, limit=_PAGE
            )
            lines = self._to_fold(page.events, has_more=page.has_more)
            if not lines:
                return
            try:
                points = await summarizer.summary(before.points, [_said(event) for event in lines], self._budget // 8)
            except ModelContextTooLong:
                if len(lines) == 1:
                    raise
                # The rest comes with the next fold: the summary says up to which line it reaches.
                lines = lines[: len(lines) // 2]
                points = await summarizer.summary(before.points, [_said(event) for event in lines], self._budget // 8)
            if not points:  # the model is not up to it: rather no summary than a hole in one
                return
            # When it expires: with the oldest line that it was made of.
            since = min(filter(None, (before.since, *(event.at for event in lines))))
            fresh = Summary(tuple(points), lines[-1].seq, since)
            # Another job has folded the same lines, or the user was erased.
            if not await self._memories.set_summary(thread, fresh):
                return
            thread = replace(thread, summary=fresh)

    def _to_fold(self, events: Sequence[Event], *, has_more: bool) -> list[Event]:
        """The oldest lines, one batch of them, where all together outgrow the quarter that history is sure of.

        An eighth stays, and never less than the newest two lines.
        """
        lines = _current_messages(events)
        # Where there is more to come, all of it is old: nothing of this page is in the prompt's history.
        keep = 0
        if not has_more:
            if sum(map(_cost, lines)) <= self._budget // 4 and len(lines) <= _LINES:
                return []
            keep = max(2, _fitting(lines[::-1], self._budget // 8, _LINES // 2))
        old = lines[: len(lines) - keep]
        return old[: max(1, _fitting(old, self._budget, _PAGE, LINE_CHARACTERS))]


def _current_messages(events: Sequence[Event]) -> list[Event]:
    """What was said, without answers that a later one has replaced."""
    newest = {event.in_response_to: event.seq for event in events if event.type == "twin_message" and _text(event)}
    return [event for event in events if event.type == "user_message" or newest.get(event.in_response_to) == event.seq]


def _fitting(lines: Sequence[Event], budget: int, most: int, characters: int | None = None) -> int:
    """How many of the first lines fit, of each of which so many characters count (None: all)."""
    for count, event in enumerate(lines):
        budget -= _cost(event, characters)
        if budget < 0 or count == most:
            return count
    return len(lines)


def _cost(event: Event, characters: int | None = None) -> int:
    return tokens(_text(event)[:characters]) + MESSAGE_OVERHEAD


def _text(event: Event) -> str:
    return str(event.payload["text"])


def _said(event: Event) -> ChatMessage:
    return ChatMessage("user" if event.type == "user_message" else "assistant", _text(event), event.seq)

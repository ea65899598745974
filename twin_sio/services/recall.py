"""What the twin remembers when it answers: the agent's `Memory`, over the store's ports."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from twin_sio.agent import AgentRequest, ChatMessage, ProfileContext, RecalledMemory, RelatedMessage
from twin_sio.background import BackgroundTasks
from twin_sio.clock import Clock, now
from twin_sio.domain import Event, Fact, Json
from twin_sio.errors import StorageUnavailable
from twin_sio.services.lines import with_answers
from twin_sio.services.search import MessageSearch
from twin_sio.store.cache import CachedProfiles
from twin_sio.store.ports import Contexts, Facts, GraphUnavailable, Log, Memories, Outbox

_ANSWERS_AFTER = 50  # events, in which the answers stand that came after later messages
_SEARCHED = 60  # lines, of which those that say the same again are left out
_RELATED = 20  # lines: those that the history holds are left out, and the prompt takes what fits
_FORMER = 10  # facts that have ended, the newest
T = TypeVar("T")


class Recall:
    """Reads the conversation as it stood when the message was sent, and the profile as it stands now."""

    def __init__(
        self,
        messages: Log,
        profiles: CachedProfiles[ProfileContext],
        contexts: Contexts,
        memories: Memories,
        search: MessageSearch,
        facts: Facts | None,
        *,
        patience_s: float,
        kept_for: timedelta | None = None,
        outbox: Outbox | None = None,
        clock: Clock = now,
    ) -> None:
        """`patience_s` is what an answer waits for the past at most; `kept_for` how long evidence counts (None: for
        ever), which reaches the graph later, as does what `outbox` knows to be erased."""
        self._outbox = outbox
        self._kept_for = kept_for
        self._clock = clock
        self._facts = facts
        self._messages = messages
        self._profiles = profiles
        self._contexts = contexts
        self._memories = memories
        self._search = search
        self._patience_s = patience_s
        # Searches, also those that were cancelled and have not ended yet.
        self._searches = BackgroundTasks()
        self.late: Counter[str] = Counter()  # for the operator

    async def history(self, ask: AgentRequest, limit: int) -> Sequence[ChatMessage]:
        said: list[ChatMessage] = []
        for event, answer in with_answers(await self._around(ask, limit)):
            if event.seq >= ask.seq:
                continue
            said.append(ChatMessage("user", event.payload["text"], event.seq))
            if answer is not None:
                said.append(_answer_line(answer))
        return said[-limit:]

    async def _around(self, ask: AgentRequest, limit: int) -> Sequence[Event]:
        """`limit` lines before `ask` and what stands after it: an answer is younger than the messages that were sent
        while it was made."""
        page, where = self._messages.page, (ask.user_id, ask.conversation_id)
        newest = (await page(*where, before=None, after=None, limit=limit + 1)).events  # `ask` is one of them
        if newest and newest[-1].seq <= ask.seq:  # as a rule: nothing came after it
            return newest
        earlier, later = await asyncio.gather(
            page(*where, before=ask.seq, after=None, limit=limit),
            page(*where, before=None, after=ask.seq, limit=_ANSWERS_AFTER),
        )
        return *earlier.events, *later.events

    async def known(self, user_id: str) -> ProfileContext:
        return await self._profiles.get(user_id)

    async def context(self, user_id: str) -> Json | None:
        return await self._contexts.newest(user_id)

    async def past(self, ask: AgentRequest) -> RecalledMemory:
        return RecalledMemory(
            *await asyncio.gather(
                self._with_timeout("summary", lambda: self._summary(ask)),
                self._with_timeout("related", lambda: self._related(ask)),
                self._with_timeout("former", lambda: self._expired_facts(ask.user_id)),
            )
        )

    async def _with_timeout(self, what: str, recall: Callable[[], Coroutine[Any, Any, tuple[T, ...]]]) -> tuple[T, ...]:
        """The result within the timeout, else nothing. A search that is late is cancelled and not waited for."""
        task = self._searches.start(recall())
        task.add_done_callback(_retrieve_exception)
        try:
            done, _ = await asyncio.wait([task], timeout=self._patience_s)
        finally:
            task.cancel()
        self.late[what] += not done
        try:
            return task.result() if done else ()
        except (GraphUnavailable, StorageUnavailable):
            return ()

    async def _summary(self, ask: AgentRequest) -> tuple[str, ...]:
        thread = await self._memories.thread(ask.user_id, ask.conversation_id)
        # An older message is asked again: a summary of what came after it would answer from the future.
        return thread.summary.points if thread is not None and thread.summary.upto < ask.seq else ()

    async def _related(self, ask: AgentRequest) -> tuple[RelatedMessage, ...]:
        """Lines that have to do with what is asked, the nearest first; neither the question itself nor its answers."""
        # Half of the time, so that there is some left to search in what has come by then.
        found = await self._search.find(
            ask.user_id, ask.text, _SEARCHED, patience_s=self._patience_s / 2, asked=ask.seq
        )
        unlike: dict[str, Event | None] = {ask.text: None}  # the same words again say nothing more
        for event in found.events:
            if ask.message_id not in (event.message_id, event.in_response_to):
                unlike.setdefault(event.payload["text"], event)
        return tuple(_remembered(event) for event in unlike.values() if event is not None)[:_RELATED]

    async def _expired_facts(self, user_id: str) -> tuple[Fact, ...]:
        """What held once and holds no more, the last to end first."""
        if self._facts is None or (self._outbox is not None and await self._outbox.is_erasing(user_id)):
            return ()
        since = self._clock() - self._kept_for if self._kept_for is not None else None
        facts = [fact for fact in await self._facts.read(user_id) if since is None or fact.valid_at > since]
        ended = [(fact.invalid_at, fact) for fact in facts if fact.invalid_at is not None]
        ended.sort(key=lambda one: one[0], reverse=True)
        return tuple(fact for _, fact in ended[:_FORMER])


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """So that asyncio does not log it where it came too late for anybody to wait for it."""
    if not task.cancelled():
        task.exception()


def _answer_line(answer: Event) -> ChatMessage:
    payload = answer.payload
    was_stopped = payload.get("status") == "stopped"
    return ChatMessage("assistant", payload["text"], answer.seq, was_stopped, payload.get("stopped_by"))


def _remembered(event: Event) -> RelatedMessage:
    role = "user" if event.type == "user_message" else "assistant"
    return RelatedMessage(ChatMessage(role, event.payload["text"], event.seq), event.at)  # type: ignore[arg-type]

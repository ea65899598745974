"""What the twin remembers when it answers: the agent's `Memory`, over the store's ports."""

from __future__ import annotations

from collections.abc import Sequence

from twin_sio.agent import Ask, Said
from twin_sio.domain import Event, Json, Profile
from twin_sio.store import Contexts, Log, Profiles

_ANSWERS_AFTER = 50


class Recall:
    """Reads the conversation as it stood when the message was sent, and the profile as it stands now."""

    def __init__(self, messages: Log, profiles: Profiles, contexts: Contexts) -> None:
        self._messages = messages
        self._profiles = profiles
        self._contexts = contexts

    async def history(self, ask: Ask, limit: int) -> Sequence[Said]:
        earlier = await self._messages.page(ask.user_id, ask.conversation_id, before=ask.seq, after=None, limit=limit)
        # An answer is younger than the messages that were sent while it was made: it may stand after `ask`.
        later = await self._messages.page(
            ask.user_id, ask.conversation_id, before=None, after=ask.seq, limit=_ANSWERS_AFTER
        )
        answers: dict[str | None, Event] = {}
        for event in (*earlier.events, *later.events):
            if event.type == "twin_message" and event.payload["text"]:
                answers[event.in_response_to] = event
        said: list[Said] = []
        for event in earlier.events:
            if event.type != "user_message":
                continue
            said.append(Said("user", event.payload["text"]))
            if (answer := answers.get(event.message_id)) is not None:
                said.append(Said("assistant", answer.payload["text"]))
        return said[-limit:]

    async def profile(self, user_id: str) -> Profile:
        return (await self._profiles.get(user_id)).profile

    async def context(self, user_id: str) -> Json | None:
        return await self._contexts.newest(user_id)

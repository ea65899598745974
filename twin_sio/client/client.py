"""`TwinClient`: the public API, a method for each thing that a user does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote

from twin_sio.client.changes import Message
from twin_sio.client.envelopes import without_none
from twin_sio.client.host_tools import RunTool
from twin_sio.client.session import ClientSession
from twin_sio.client.state import ClientState
from twin_sio.domain import DEFAULT_CONVERSATION, Json, MessageMode
from twin_sio.protocol import PAGE_DEFAULT, PAGE_MAX, SEARCH_DEFAULT


class TwinClient(ClientSession):
    """A session with a method for each event that a user's app sends."""

    # -- messages ------------------------------------------------------------------------------------------------------

    async def send(
        self,
        text: str,
        *,
        context: Json | None = None,
        mode: MessageMode = "queue",
        conversation_id: str = DEFAULT_CONVERSATION,
        message_id: str | None = None,
    ) -> str:
        """Send a message; returns its id at once. It is sent until it is stored; `receipt` and `answer` wait.

        What `mode` does to an answer that is being made in the conversation: `queue` waits for it, `interrupt` ends it,
        `steer` is taken in at its next step, and the answer is that one's.
        """
        payload = without_none({"text": text, "context": context, "mode": None if mode == "queue" else mode})
        return await self.submit("user_message", payload, conversation_id=conversation_id, message_id=message_id)

    async def receipt(self, message_id: str, timeout: float | None = None) -> Message:
        """Wait until an own message is stored; raises `RequestFailed` if it was refused."""

        def stored(state: ClientState) -> Message | None:
            if message_id in state.outbox:
                return None
            self._raise_failure(message_id)
            return state.messages.get(message_id)

        return await self.until(stored, timeout)

    async def answer(self, message_id: str, timeout: float | None = None, *, newer_than: int = 0) -> Message:
        """Wait for the twin's final answer to a message (for the one after the first `newer_than` answers).

        A failed answer is an answer, too: see its `status`, and `failure`. Raises `RequestFailed` if the message itself
        was refused.
        """

        def answered(state: ClientState) -> Message | None:
            answers = state.answers(message_id)
            if len(answers) > newer_than:
                return answers[-1]
            message = state.messages.get(message_id)
            if message is not None and message.status == "refused":
                self._raise_failure(message_id)
            return None

        return await self.until(answered, timeout)

    async def ask(self, text: str, timeout: float | None = None, **more: Any) -> Message:
        """`send`, then `answer`."""
        return await self.answer(await self.send(text, **more), timeout)

    async def stop(self, message_id: str) -> None:
        """End the running answer to an own message; it comes as a `twin_message` with status `stopped`."""
        await self.submit(
            "stop_generation", {"message_id": message_id}, conversation_id=self._conversation_of(message_id)
        )

    async def regenerate(self, message_id: str, timeout: float | None = None) -> Message:
        """Ask for another answer to a message of the user, and wait for it; the older ones stay."""
        before = len(self.state.answers(message_id))
        request = await self.submit(
            "regenerate", {"message_id": message_id}, conversation_id=self._conversation_of(message_id)
        )

        def another(state: ClientState) -> Message | None:
            answers = state.answers(message_id)
            if len(answers) > before:
                return answers[-1]
            self._raise_failure(request)
            return None

        return await self.until(another, timeout)

    async def feedback(
        self,
        message_id: str,
        rating: Literal["up", "down", "none"],
        *,
        comment: str | None = None,
        tags: Sequence[str] | None = None,
        correction: str | None = None,
    ) -> list[Json]:
        """Rate an answer of the twin; returns when it is stored, with the traits that it changed."""
        fields = {"message_id": message_id, "rating": rating, "comment": comment, "correction": correction}
        payload = without_none({**fields, "tags": None if tags is None else list(tags)})
        receipt = await self.request("feedback", payload, conversation_id=self._conversation_of(message_id))
        return list(receipt.get("traits", ()))

    async def typing(self, is_typing: bool, *, conversation_id: str = DEFAULT_CONVERSATION) -> None:
        await self.submit("typing_indicator", {"is_typing": is_typing}, conversation_id=conversation_id)

    async def read(self, message_id: str) -> None:
        """Mark everything up to this message as read, on all devices."""
        await self.submit("read_receipt", {"message_id": message_id}, conversation_id=self._conversation_of(message_id))

    # -- tools ---------------------------------------------------------------------------------------------------------

    async def approve(
        self,
        approval_id: str,
        decision: Literal["approve", "reject", "edit"] = "approve",
        *,
        arguments: Json | None = None,
        comment: str | None = None,
    ) -> None:
        """Decide a call that an answer waits for (`state.progress.waiting`), on whatever device it is shown first; with
        `edit` it is made with these arguments. Returns when the decision counts. `RequestFailed`: `already_decided`
        otherwise, or over; `not_found`."""
        known = self.state.progress.approvals.get(approval_id)
        fields = {"approval_id": approval_id, "decision": decision, "arguments": arguments, "comment": comment}
        conversation_id = known.conversation_id if known is not None else DEFAULT_CONVERSATION
        await self.request("approval", without_none(fields), conversation_id=conversation_id)

    async def offer_tools(self, tools: Sequence[Json], run: RunTool) -> None:
        """Offer the twin what this app can do, from now on and after every reconnect; these take the place of those
        before, `[]` takes all back. A tool is `{name, description, parameters?, needs_approval?}`.

        `run(name, arguments)` is called once for each of the twin's calls, and what it returns is sent until the server
        has it; what it raises is the call's error. Returns when the offer counts; raises `RequestFailed`.
        """
        await self._host_tools.offer(tools, run)

    # -- requests ------------------------------------------------------------------------------------------------------

    async def history(
        self,
        *,
        before: str | None = None,
        after: str | None = None,
        limit: int = PAGE_DEFAULT,
        conversation_id: str = DEFAULT_CONVERSATION,
    ) -> Json:
        """A page of a conversation, oldest first: `{messages, has_more, conversation_id}`, added to the state."""
        payload = without_none({"before": before, "after": after, "limit": limit})
        return await self.request("history", payload, conversation_id=conversation_id)

    async def conversations(self) -> list[Json]:
        """`{conversation_id, title, last_message, unread}` of each, newest first; `last_message` has the
        beginning of the text."""
        conversations: list[Json] = []
        payload: dict[str, Any] = {"limit": PAGE_MAX}
        while True:
            page = await self.request("conversations", payload)
            conversations += page["conversations"]
            if not page.get("has_more"):
                return conversations
            payload["before"] = page["next"]

    async def search(self, text: str, *, limit: int = SEARCH_DEFAULT) -> Json:
        """Messages of all conversations that have to do with the text, the best first:
        `{messages: [{message_id, conversation_id, role, excerpt, timestamp, seq}], complete}`."""
        return await self.request("search", {"text": text, "limit": limit})

    async def profile(self) -> Json:
        """The user's profile: `{version, traits}`."""
        return await self.request("profile_get", {})

    async def correct(
        self, trait_id: str, action: Literal["confirm", "reject", "edit"], value: str | None = None
    ) -> Json:
        """Confirm, reject or edit a trait; returns the payload of the reply."""
        return await self.request(
            "profile_correct", without_none({"trait_id": trait_id, "action": action, "value": value})
        )

    async def heartbeat(self) -> int:
        """The newest seq of the log. The client sends heartbeats by itself; this is for asking now."""
        head: int = (await self.request("heartbeat", {}))["head_seq"]
        return head

    async def why(self, trait_id: str) -> Json:
        """The evidence for a trait and its weights, from `GET /v1/profile/{trait_id}/why` with this session's token."""
        return await self.get_json(f"/v1/profile/{quote(trait_id, safe='')}/why")

    def _conversation_of(self, message_id: str) -> str:
        known = self.state.messages.get(message_id)
        return known.conversation_id if known is not None else DEFAULT_CONVERSATION

    def _raise_failure(self, message_id: str) -> None:
        if failure := self.failure(message_id):
            raise failure

"""The client's state, and how every envelope changes it. Pure: no sockets, no clock, no tasks.

`ClientState.receive(envelope)` applies one envelope and returns what changed, for an app to show or to act on. It
holds the client's half of the resume contract: durable events are applied in the order of their `seq`, each once;
at a gap a resume is requested, and nothing behind the gap is applied before it is filled; chunks are joined by
their index. Stale state plus the missed events equals fresh state, whatever was dropped, repeated or reordered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from twin_sio.client.changes import (
    AuthExpiring,
    ContextChanged,
    DevicesChanged,
    Draining,
    Failed,
    Message,
    MessageChanged,
    ProfileChanged,
    ReadUpTo,
    Ready,
    Resumed,
    Settled,
    StateChange,
    StreamedAnswer,
    Thinking,
    Typing,
    WantsHistory,
    WantsResume,
)
from twin_sio.client.envelopes import (
    NEEDS_ANSWER,
    REPLIES,
    Head,
    history_message,
    rating_of,
    twin_message,
    user_message,
)
from twin_sio.client.generations import Generations
from twin_sio.client.progress import Progress, tool_called
from twin_sio.domain import DEFAULT_CONVERSATION, Json
from twin_sio.protocol import DURABLE_EVENTS


@dataclass(slots=True)
class ClientState:
    """Everything that one client knows of its user's twin.

    `last_seq` is None until the first `session_ready`. `outbox` holds, in order, what was sent and has no answer yet:
    send all of it again after every reconnect; the ids make that safe. Read the attributes freely, change none.
    """

    last_seq: int | None = None
    resuming: bool = False
    session: Json = field(default_factory=dict)
    messages: dict[str, Message] = field(default_factory=dict)
    outbox: dict[str, Json] = field(default_factory=dict)
    thinking: dict[str, str] = field(default_factory=dict)
    typing: set[str] = field(default_factory=set)
    read_up_to: dict[str, str] = field(default_factory=dict)
    devices: tuple[Json, ...] = ()
    profile_version: int = 0
    traits: dict[str, Json] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    _generations: Generations = field(default_factory=Generations)
    # Message ids of the newest errors, which arrive as event and as acknowledgement.
    _errors_seen: deque[str] = field(default_factory=lambda: deque(maxlen=64))

    # -- reading -------------------------------------------------------------------------------------------------------

    def transcript(self, conversation_id: str = DEFAULT_CONVERSATION) -> list[Message]:
        """The conversation in the order that every device sees; own messages not yet stored come last."""
        ours = [message for message in self.messages.values() if message.conversation_id == conversation_id]
        # Sorting is stable: unstored messages stay in the order in which they were sent.
        return sorted(ours, key=lambda message: (message.seq is None, message.seq or 0))

    def answers(self, message_id: str) -> list[Message]:
        """The final answers to a user's message, oldest first; more than one after `regenerate`."""
        found = [message for message in self.messages.values() if message.is_answer_to(message_id)]
        return sorted(found, key=lambda message: message.seq or 0)

    @property
    def generations(self) -> Mapping[str, StreamedAnswer]:
        """The answers that are being written, by generation id."""
        return self._generations.running

    def generation_of(self, message_id: str) -> StreamedAnswer | None:
        """The running answer to a user's message."""
        return self._generations.answering(message_id)

    # -- sending -------------------------------------------------------------------------------------------------------

    def sending(self, envelope: Json) -> list[StateChange]:
        """Note that `envelope` goes out: one that is answered enters the outbox, an own message the transcript."""
        head = Head.of(envelope)
        if head.type in NEEDS_ANSWER:
            self.outbox[head.message_id] = envelope
        if head.type != "user_message":
            return []
        known = self.messages.get(head.message_id)
        if known is not None and known.seq is not None:
            return []
        message = Message(
            head.message_id,
            "user",
            head.payload["text"],
            head.conversation_id,
            timestamp=head.timestamp,
            status="sending",
        )
        return self._put(message)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def acknowledged(self, envelope: Json) -> list[StateChange]:
        """Apply an envelope that arrived as an acknowledgement, which may overtake the events that were sent before it:
        a gap before it is no loss, the missing event is still on its way."""
        seq = Head.of(envelope).seq
        if seq is None or self.last_seq is None or seq <= self.last_seq + 1:
            return self.receive(envelope)
        return []

    def receive(self, envelope: Json) -> list[StateChange]:
        """Apply one envelope and say what changed. Unknown types change nothing (forward compatibility), but those with
        a seq count: the log has them."""
        head = Head.of(envelope)
        request = self._settle(head)
        changes: list[StateChange] = [Settled(request[0], envelope)] if request else []
        if head.type == "message_received":
            changes += self._received(head, request[1] if request else None)
        elif apply := _EPHEMERAL.get(head.type):
            changes += apply(self, head)
        elif head.type in DURABLE_EVENTS or head.seq is not None:
            changes += self._durable(head)
        return changes

    def _settle(self, head: Head) -> tuple[str, Json] | None:
        asked = head.payload.get("message_id") if head.type == "message_received" else head.in_response_to
        request = self.outbox.get(asked or "")
        if request is None or asked is None:
            return None
        if head.type != "error" and head.type not in REPLIES.get(request["type"], ()):
            return None
        del self.outbox[asked]
        return asked, request

    def _advance(self, seq: int) -> Literal["next", "old", "gap"]:
        if self.last_seq is not None and seq <= self.last_seq:
            return "old"
        if self.last_seq is not None and seq > self.last_seq + 1:
            return "gap"
        self.last_seq = seq
        return "next"

    def _request_resume(self) -> list[StateChange]:
        """Request a resume once; until it is complete, further gaps are the same gap."""
        if self.resuming:
            return []
        self.resuming = True
        return [WantsResume(self.last_seq or 0)]

    def _received(self, head: Head, request: Json | None) -> list[StateChange]:
        changes: list[StateChange] = []
        message = self.messages.get(head.payload.get("message_id", ""))
        if message is not None and message.role == "user" and message.seq is None:
            changes += self._put(replace(message, seq=head.seq, status=None, timestamp=head.timestamp))
        # The receipt of a repeat may come after what was stored behind it, which counts.
        is_news = head.seq is None or self.last_seq is None or head.seq > self.last_seq
        if request is not None and request["type"] == "feedback" and is_news:
            changes += self._rate(request["payload"])
        if request is not None and request["type"] == "approval":
            changes += self.progress.decided(request["payload"], head.conversation_id)
        if head.seq is not None and self._advance(head.seq) == "gap":
            changes += self._request_resume()
        return changes

    def _durable(self, head: Head) -> list[StateChange]:
        place = "next" if head.seq is None else self._advance(head.seq)
        if place == "gap":
            return self._request_resume()
        # A repeated request gets the old answer, which a client that lost its state has never received.
        is_news = head.type.endswith("_message") and head.message_id not in self.messages
        if place == "old" and not is_news:
            return []
        apply = _DURABLE.get(head.type)
        return apply(self, head) if apply else []

    def _put(self, message: Message) -> list[StateChange]:
        known = self.messages.get(message.message_id)
        if known is not None:
            message = replace(
                message,
                feedback=message.feedback or known.feedback,
                joined_matches=known.joined_matches if message.joined_matches is None else message.joined_matches,
            )
            if message == known:
                return []
        self.messages[message.message_id] = message
        return [MessageChanged(message, known is None)]

    # -- durable events ------------------------------------------------------------------------------------------------

    def _user_message(self, head: Head) -> list[StateChange]:
        self.typing.discard(head.session_id or "")
        return self._put(user_message(head))

    def _twin_message(self, head: Head) -> list[StateChange]:
        generation_id = head.payload.get("generation_id")
        joined_matches = self._generations.joins_to(head.payload.get("text", ""), generation_id)
        self._generations.answered(generation_id, head.in_response_to)
        self.progress.answered(generation_id, head.in_response_to)
        self.thinking.pop(head.conversation_id, None)
        return self._put(twin_message(head, joined_matches))

    def _rate(self, rating: Json) -> list[StateChange]:
        message = self.messages.get(rating.get("message_id", ""))
        if message is None:
            return []
        return self._put(replace(message, feedback=rating_of(rating)))

    def _read_receipt(self, head: Head) -> list[StateChange]:
        message_id = head.payload.get("message_id", "")
        self.read_up_to[head.conversation_id] = message_id
        return [ReadUpTo(head.conversation_id, message_id)]

    def _profile_update(self, head: Head) -> list[StateChange]:
        version = head.payload.get("version", 0)
        changes = tuple(head.payload.get("changes", ()))
        self.profile_version = max(self.profile_version, version)
        for change in changes:
            trait_id = change["trait_id"]
            fields = {key: value for key, value in change.items() if key not in ("previous", "reason")}
            self.traits[trait_id] = {**self.traits.get(trait_id, {}), **fields}
        return [ProfileChanged(version, changes)]

    # -- the session ---------------------------------------------------------------------------------------------------

    def _session_ready(self, head: Head) -> list[StateChange]:
        known_epoch = self.session.get("epoch")
        epoch = head.payload.get("epoch")
        if epoch is None:  # from an instance of an earlier version, which knows of no epochs
            self.session = {**head.payload, "epoch": known_epoch}
        else:
            self.session = head.payload
        is_erased = known_epoch is not None and epoch is not None and epoch != known_epoch
        newest = head.payload.get("seq", 0)
        self.devices = tuple(head.payload.get("sessions", ()))
        self.thinking.clear()
        self.typing.clear()
        changes: list[StateChange] = [Ready(head.payload)]
        self.resuming = self.last_seq is not None
        if self.last_seq is None:
            self.last_seq = newest
        elif newest < self.last_seq or is_erased:
            # All was erased: the log begins again, also where its seqs go on.
            self.last_seq = newest
            self._forget()
            changes.append(WantsHistory("log_restarted"))
        return changes

    def _forget(self) -> None:
        """Know nothing but what the server does not have."""
        self.messages = {known: message for known, message in self.messages.items() if message.seq is None}
        self._generations.running.clear()
        self.read_up_to.clear()
        self.traits.clear()
        self.profile_version = 0
        self.progress = Progress()

    def _session_ended(self, head: Head) -> list[StateChange]:
        if head.payload.get("reason") == "erased":
            self._forget()
        return []

    def _resumed(self, head: Head) -> list[StateChange]:
        self.resuming = False
        through = head.payload["through_seq"]
        last = self.last_seq or 0
        changes: list[StateChange] = [Resumed(through)]
        if not head.payload.get("complete", True):
            self.last_seq = max(last, through)
            self.progress.approvals.clear()  # what became of them may be among what was removed
            changes.append(WantsHistory("retention"))
        elif through > last:
            changes += self._request_resume()
        return changes

    def _heartbeat_ack(self, head: Head) -> list[StateChange]:
        if head.payload.get("head_seq", 0) > (self.last_seq or 0):
            return self._resync()
        return []

    def _resync(self) -> list[StateChange]:
        """The server has more than the client: request a resume, even if one is under way."""
        self.resuming = False
        return self._request_resume()

    def _error(self, head: Head) -> list[StateChange]:
        # The acknowledgement and the event are the same envelope: report it once.
        if head.message_id in self._errors_seen:
            return []
        self._errors_seen.append(head.message_id)
        changes: list[StateChange] = []
        message = self.messages.get(head.in_response_to or "")
        if message is not None and message.status == "sending":
            changes += self._put(replace(message, status="refused"))
        return [*changes, Failed(head.payload, head.in_response_to)]

    def _presence(self, head: Head) -> list[StateChange]:
        self.devices = tuple(head.payload.get("sessions", ()))
        if head.payload.get("state") == "left":
            self.typing.discard(head.payload.get("session_id", ""))
        return [DevicesChanged(head.payload, self.devices)]

    def _typing_indicator(self, head: Head) -> list[StateChange]:
        session_id = head.session_id or ""
        is_typing = bool(head.payload.get("is_typing"))
        if is_typing:
            self.typing.add(session_id)
        else:
            self.typing.discard(session_id)
        return [Typing(session_id, is_typing)]

    def _twin_thinking(self, head: Head) -> list[StateChange]:
        state = head.payload.get("state", "")
        if state == "done":
            self.thinking.pop(head.conversation_id, None)
        else:
            self.thinking[head.conversation_id] = state
        return [Thinking(head.conversation_id, head.in_response_to, state)]

    def _chunk(self, head: Head) -> list[StateChange]:
        applied = self._generations.chunk(head)
        if applied == "old":
            return []
        if applied == "gap":
            return self._request_resume()
        return [applied]

    # -- replies -------------------------------------------------------------------------------------------------------

    def _history(self, head: Head) -> list[StateChange]:
        conversation_id = head.payload.get("conversation_id", head.conversation_id)
        found = [history_message(entry, conversation_id) for entry in head.payload.get("messages", ())]
        changes = [change for message in found for change in self._put(message)]
        return changes + self.progress.history(head.payload.get("approvals") or (), conversation_id)

    def _profile(self, head: Head) -> list[StateChange]:
        version = head.payload.get("version", 0)
        if version < self.profile_version:
            return []
        self.profile_version = version
        self.traits = {trait["trait_id"]: trait for trait in head.payload.get("traits", ())}
        return [ProfileChanged(version, ())]


_Rule = Callable[[ClientState, Head], list[StateChange]]
_DURABLE: Mapping[str, _Rule] = {
    "user_message": ClientState._user_message,
    "twin_message": ClientState._twin_message,
    "feedback": lambda state, head: state._rate(head.payload),
    "read_receipt": ClientState._read_receipt,
    "profile_update": ClientState._profile_update,
    "approval_requested": lambda state, head: state.progress.approval_requested(head),
    "approval_resolved": lambda state, head: state.progress.decided(head.payload, head.conversation_id),
}
_EPHEMERAL: Mapping[str, _Rule] = {
    "twin_message_chunk": ClientState._chunk,
    "session_ready": ClientState._session_ready,
    "session_ended": ClientState._session_ended,
    "resumed": ClientState._resumed,
    "heartbeat_ack": ClientState._heartbeat_ack,
    "resync": lambda state, _: state._resync(),
    "error": ClientState._error,
    "presence": ClientState._presence,
    "typing_indicator": ClientState._typing_indicator,
    "twin_thinking": ClientState._twin_thinking,
    "twin_activity": lambda state, head: state.progress.activity(head),
    "twin_reasoning_chunk": lambda state, head: state.progress.reasoning_chunk(head),
    "tool_call": lambda _, head: [tool_called(head)],
    "history": ClientState._history,
    "profile": ClientState._profile,
    "context_update": lambda _, head: [ContextChanged(head.payload)],
    "server_draining": lambda _, head: [Draining(head.payload.get("reconnect_after_ms", 0))],
    "auth_expiring": lambda _, head: [AuthExpiring(head.payload.get("expires_at", ""))],
}

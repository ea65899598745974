"""What a conversation's state is made of, and what can change in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from twin_sio.domain import DEFAULT_CONVERSATION, Json


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the transcript. `seq` is None while an own message is not yet stored.

    `finish` says what cut a complete answer short (`length`, `content_filter`), `error` is the code of why one failed;
    `joined_matches` says whether the chunks that were seen join to the final text; None where not all were seen.
    `steps` is what was done for it, `steered_by` the messages that it took in, `stopped_by` the one that ended it.
    """

    message_id: str
    role: Literal["user", "twin"]
    text: str
    conversation_id: str = DEFAULT_CONVERSATION
    seq: int | None = None
    timestamp: str | None = None
    session_id: str | None = None
    in_response_to: str | None = None
    status: str | None = None
    generation_id: str | None = None
    model: str | None = None
    used_traits: tuple[str, ...] = ()
    feedback: Json | None = None
    finish: str | None = None
    error: str | None = None
    joined_matches: bool | None = None
    steps: tuple[Json, ...] = ()
    reasoning: str | None = None
    steered_by: tuple[str, ...] = ()
    stopped_by: str | None = None

    def is_answer_to(self, message_id: str) -> bool:
        """Whether it answers this message of the user, or took it in while it answered another."""
        return self.role == "twin" and (self.in_response_to == message_id or message_id in self.steered_by)


@dataclass(slots=True)
class StreamedAnswer:
    """An answer that is being written: the text so far, the index of the next chunk, whether all are here."""

    generation_id: str
    in_response_to: str | None
    conversation_id: str
    text: str = ""
    next_index: int = 0
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """A call of a tool that waits for its user: the answer to `in_response_to` goes on once it is decided."""

    approval_id: str
    conversation_id: str
    in_response_to: str | None
    call_id: str
    tool: str
    title: str
    arguments: Json
    expires_at: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Connected and authorised; `session` is the payload of `session_ready`."""

    session: Json


@dataclass(frozen=True, slots=True)
class MessageChanged:
    """A message is new, or reads otherwise (stored, refused, rated). A twin's message is final when it appears."""

    message: Message
    is_new: bool


@dataclass(frozen=True, slots=True)
class ChunkApplied:
    """More of an answer. Where `replaced` is set, what was shown of it before must go: `text` is all of it."""

    generation_id: str
    in_response_to: str | None
    conversation_id: str
    text: str
    replaced: bool


@dataclass(frozen=True, slots=True)
class Thinking:
    conversation_id: str
    in_response_to: str | None
    state: str


@dataclass(frozen=True, slots=True)
class StepChanged:
    """Something is done for an answer: a step began, or changed; `step` is as in `twin_activity`."""

    conversation_id: str
    in_response_to: str
    step: Json


@dataclass(frozen=True, slots=True)
class ReasoningApplied:
    """More of what the model thinks. Where `replaced` is set, what was shown of it before must go."""

    generation_id: str
    in_response_to: str
    conversation_id: str
    text: str
    replaced: bool


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    approval: PendingApproval


@dataclass(frozen=True, slots=True)
class ApprovalResolved:
    """`decision` is approve, reject, edit, expired or cancelled; `approval` is None where it was not known here."""

    approval_id: str
    conversation_id: str
    decision: str
    approval: PendingApproval | None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The twin calls a tool that this session offers; the same `call_id` again is a repeat."""

    call_id: str
    name: str
    arguments: Json
    timeout_ms: int
    conversation_id: str


@dataclass(frozen=True, slots=True)
class Typing:
    session_id: str
    is_typing: bool


@dataclass(frozen=True, slots=True)
class ReadUpTo:
    conversation_id: str
    message_id: str


@dataclass(frozen=True, slots=True)
class DevicesChanged:
    """`event` is the `presence` payload; `devices` all sessions that are there now."""

    event: Json
    devices: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class ProfileChanged:
    version: int
    changes: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class ContextChanged:
    payload: Json


@dataclass(frozen=True, slots=True)
class Settled:
    """A request has its answer: the envelope, which is an `error` where it was refused."""

    message_id: str
    envelope: Json


@dataclass(frozen=True, slots=True)
class Failed:
    """The server says that something failed; `error` is the payload of the `error` event."""

    error: Json
    in_response_to: str | None


@dataclass(frozen=True, slots=True)
class WantsResume:
    """Something was missed: send `resume` with this `last_seq`."""

    last_seq: int


@dataclass(frozen=True, slots=True)
class WantsHistory:
    """What was missed can no longer be resumed: ask for `history`."""

    reason: Literal["retention", "log_restarted"]


@dataclass(frozen=True, slots=True)
class Resumed:
    through_seq: int


@dataclass(frozen=True, slots=True)
class Draining:
    reconnect_after_ms: int


@dataclass(frozen=True, slots=True)
class AuthExpiring:
    expires_at: str


StateChange = (
    Ready
    | MessageChanged
    | ChunkApplied
    | Thinking
    | StepChanged
    | ReasoningApplied
    | ApprovalRequested
    | ApprovalResolved
    | ToolCalled
    | Typing
    | ReadUpTo
    | DevicesChanged
    | ProfileChanged
    | ContextChanged
    | Settled
    | Failed
    | WantsResume
    | WantsHistory
    | Resumed
    | Draining
    | AuthExpiring
)

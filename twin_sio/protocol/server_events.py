"""What the service says: the payload of every event from server to client, as JSON holds it.

The product does not validate its own output: these models are what the AsyncAPI document and the TypeScript types are
made from, and every test holds whatever a server sends against them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from twin_sio.domain import AnswerStatus, Cut, StepState, TraitStatus

Seq = Annotated[int, Field(ge=0, description="A place in the user's log, dense from 1; 0: before the first.")]
Time = Annotated[
    str, Field(json_schema_extra={"format": "date-time"}, description="UTC, milliseconds, `2026-06-12T14:22:31.123Z`.")
]
Fraction = Annotated[float, Field(ge=0, le=1)]
Finish = Annotated[
    Cut,
    Field(description="What cut a complete answer short: its longest length, or the rules of the model's provider."),
]
ErrorCode = Annotated[str, Field(description="Why it failed, as in the `error` before it.")]
DeviceEntry = Annotated[
    dict[str, str], Field(description="`name`, `platform`, `app_version`, as far as the device reported.")
]


class ServerPayload(BaseModel):
    """Base of every payload from the server."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class SessionEntry(ServerPayload):
    session_id: str
    device: DeviceEntry


class SessionLimits(ServerPayload):
    text_characters: int
    envelope_bytes: int
    history_page: int
    messages_per_minute: int
    events_per_second: int
    sessions: int


class ServerInfo(ServerPayload):
    instance: str
    protocol: int
    time: Time


class SessionReadyPayload(ServerPayload):
    user_id: str
    session_id: str
    expires_at: Time
    seq: Seq
    sessions: list[SessionEntry]
    heartbeat_interval_ms: int
    limits: SessionLimits
    profile_version: int
    epoch: Annotated[
        int | None,
        Field(
            description="How often all that the user had was erased. Where that has changed, show nothing of before."
        ),
    ] = None
    server: ServerInfo


class TraitEntity(ServerPayload):
    """A person or an animal in the user's life, as far as the user has told."""

    kind: Literal["person", "pet"]
    relation: Annotated[str | None, Field(description='As the user calls them: "daughter", "cat".')] = None
    name: str | None = None
    count: Annotated[int | None, Field(ge=1, description="How many there are, where they are several.")] = None


class TraitChanged(ServerPayload):
    trait_id: str
    key: str
    value: str
    previous: str | None = None
    confidence: Fraction
    status: TraitStatus
    reason: str
    entity: Annotated[TraitEntity | None, Field(description="Who it is of; without it the user.")] = None


class MessageReceivedPayload(ServerPayload):
    message_id: str
    status: Literal["accepted", "duplicate"]
    traits: Annotated[list[TraitChanged] | None, Field(description="To a feedback: the traits it changed.")] = None
    expires_at: Annotated[Time | None, Field(description="To a context_update: until when it is kept.")] = None


class UserMessagePayload(ServerPayload):
    text: str


class TwinThinkingPayload(ServerPayload):
    state: Literal["queued", "recalling", "thinking", "done"]


class TwinMessageChunkPayload(ServerPayload):
    text: str
    generation_id: str
    chunk_index: Annotated[int, Field(ge=0)]
    first_chunk_index: Annotated[int | None, Field(description="Set where several chunks come as one.")] = None
    is_last_chunk: bool


class Step(ServerPayload):
    """Something that was done for an answer. `unknown`: whether it was done, as its server died meanwhile."""

    step_id: str
    kind: Literal["tool", "node"]
    name: Annotated[str, Field(description="The tool's, or the node's.")]
    title: Annotated[str, Field(description="For people.")]
    state: StepState
    summary: Annotated[str | None, Field(description="For people: what came of it.")] = None


class TwinActivityPayload(Step):
    pass


class TwinReasoningChunkPayload(ServerPayload):
    text: str
    generation_id: str
    chunk_index: Annotated[int, Field(ge=0)]


class ToolCallPayload(ServerPayload):
    call_id: Annotated[str, Field(description="Also the key by which a repeat is known.")]
    name: str
    arguments: dict[str, Any]
    timeout_ms: int


class ApprovalRequestedPayload(ServerPayload):
    approval_id: str
    call_id: str
    tool: str
    title: str
    arguments: dict[str, Any]
    expires_at: Time


class ApprovalResolvedPayload(ServerPayload):
    approval_id: str
    decision: Literal["approve", "reject", "edit", "expired", "cancelled"]
    arguments: Annotated[dict[str, Any] | None, Field(description="As edited.")] = None
    comment: str | None = None


class PendingApproval(ApprovalRequestedPayload):
    in_response_to: Annotated[str, Field(description="The user's message whose answer waits.")]
    seq: Seq


class TwinMessagePayload(ServerPayload):
    text: str
    generation_id: str
    status: AnswerStatus
    model: str
    usage: dict[str, Any] | None = None
    used_traits: list[str]
    finish: Finish | None = None
    error: ErrorCode | None = None
    steps: Annotated[list[Step] | None, Field(description="What was done for it.")] = None
    reasoning: Annotated[str | None, Field(description="What the model thought, where that is shown.")] = None
    steered_by: Annotated[list[str] | None, Field(description="Messages that it took in while it was made.")] = None
    stopped_by: Annotated[str | None, Field(description="The message that ended it.")] = None


class ProfileUpdatePayload(ServerPayload):
    version: int
    changes: list[TraitChanged]
    has_more: Annotated[
        bool | None, Field(description="True where more has changed than fits into a frame: ask for the profile.")
    ] = None


class Trait(ServerPayload):
    trait_id: str
    key: str
    value: str
    status: TraitStatus
    confidence: Fraction
    supporting: float
    opposing: float
    valid_from: Time
    valid_to: Time | None = None
    pinned: bool
    when: Annotated[str | None, Field(description="What the user said of the time, and in which month.")] = None
    denied: Annotated[bool | None, Field(description="True where the user said last that it is not so.")] = None
    entity: Annotated[TraitEntity | None, Field(description="Who it is of; without it the user.")] = None


class ProfilePayload(ServerPayload):
    version: int
    as_of: Time
    traits: list[Trait]
    has_more: Annotated[
        bool | None, Field(description="True where there are more than fit into a frame; the surest are shown.")
    ] = None


class TypingIndicatorPayload(ServerPayload):
    is_typing: bool


class ReadReceiptPayload(ServerPayload):
    message_id: str


class FeedbackPayload(ServerPayload):
    message_id: str
    rating: Literal["up", "down", "none"]
    comment: str | None = None
    tags: list[str] | None = None
    correction: str | None = None


class ContextUpdatePayload(ServerPayload):
    context: dict[str, Any]
    mode: Literal["merge", "replace"]


class PresencePayload(ServerPayload):
    session_id: str
    state: Literal["joined", "left"]
    device: DeviceEntry
    sessions: list[SessionEntry]


class HeartbeatAckPayload(ServerPayload):
    server_time: Time
    head_seq: Seq


class ResumedPayload(ServerPayload):
    through_seq: Seq
    complete: Annotated[bool, Field(description="False: retention has removed some of it; call `history`.")]


class ResyncPayload(ServerPayload):
    reason: Literal["gap", "redis_restored"]


class HistoryMessage(ServerPayload):
    message_id: str
    role: Literal["user", "twin"]
    text: str
    timestamp: Time
    seq: Seq
    session_id: str | None = None
    in_response_to: str | None = None
    status: AnswerStatus | None = None
    generation_id: str | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    used_traits: list[str] | None = None
    finish: Finish | None = None
    error: ErrorCode | None = None
    steps: Annotated[list[Step] | None, Field(description="What was done for it.")] = None
    reasoning: Annotated[str | None, Field(description="What the model thought, where that is shown.")] = None
    steered_by: Annotated[list[str] | None, Field(description="Messages that it took in while it was made.")] = None
    stopped_by: Annotated[str | None, Field(description="The message that ended it.")] = None
    feedback: FeedbackPayload | None = None


class HistoryPagePayload(ServerPayload):
    messages: list[HistoryMessage]
    has_more: bool
    conversation_id: str
    approvals: Annotated[
        list[PendingApproval] | None, Field(description="What answers of this conversation wait for.")
    ] = None


class ConversationLine(ServerPayload):
    conversation_id: str
    title: str
    last_message: HistoryMessage | None
    unread: int


class ConversationListPayload(ServerPayload):
    conversations: list[ConversationLine]
    has_more: Annotated[
        bool | None, Field(description="True where there are more: ask again with `before` set to `next`.")
    ] = None
    next: Annotated[int | None, Field(description="The seq of the last line's message.")] = None


class FoundMessage(ServerPayload):
    message_id: str
    conversation_id: str
    role: Literal["user", "twin"]
    excerpt: Annotated[str, Field(description="Of the text what is around the first of the words.")]
    timestamp: Time
    seq: Seq


class SearchPayload(ServerPayload):
    messages: list[FoundMessage]
    complete: Annotated[bool, Field(description="False: not everything could be searched in time; ask again.")]


class AuthRefreshedPayload(ServerPayload):
    expires_at: Time


class AuthExpiringPayload(ServerPayload):
    expires_at: Time


class ServerDrainingPayload(ServerPayload):
    reconnect_after_ms: int


class SessionEndedPayload(ServerPayload):
    reason: Literal["replaced", "revoked", "erased"]
    message: Annotated[str, Field(description="The same, to show to people.")]


class ErrorPayload(ServerPayload):
    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None
    field: str | None = None
    error_id: str | None = None


class Refusal(ServerPayload):
    """A refused handshake: the `data` of Socket.IO's `connect_error`."""

    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None


class ServerMetadata(ServerPayload):
    timestamp: Time
    message_id: str
    session_id: Annotated[str | None, Field(description="The session that caused the event, where one did.")] = None
    in_response_to: Annotated[str | None, Field(description="The client's message_id that is answered.")] = None
    conversation_id: str | None = None
    seq: Annotated[Seq | None, Field(description="On every durable event, and on its receipt.")] = None

"""What the server sends under which name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from twin_sio.protocol import server_events as said


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """What the server says under a name. `is_durable`: it carries a `seq` and can be resumed. `feature`: what a client
    announces to get it; another one gets a `read_receipt` in its place, so that its count of the log stays whole."""

    payload: type[said.ServerPayload]
    meaning: str
    is_durable: bool = False
    feature: str | None = None


SERVER_EVENTS: Mapping[str, ServerEvent] = {
    "session_ready": ServerEvent(
        said.SessionReadyPayload, "First on every connection: who you are, where the log stands, the limits."
    ),
    "message_received": ServerEvent(
        said.MessageReceivedPayload, "What you sent is stored. `status` is accepted or duplicate."
    ),
    "user_message": ServerEvent(
        said.UserMessagePayload, "Another of the user's devices said something.", is_durable=True
    ),
    "twin_thinking": ServerEvent(
        said.TwinThinkingPayload, "Where the answer stands: queued, recalling, thinking, done."
    ),
    "twin_message_chunk": ServerEvent(said.TwinMessageChunkPayload, "The next piece of an answer."),
    "twin_reasoning_chunk": ServerEvent(
        said.TwinReasoningChunkPayload, "The next piece of what the model thinks, where that is shown."
    ),
    "twin_activity": ServerEvent(said.TwinActivityPayload, "A step of the answer: a tool begins, goes on, has ended."),
    "tool_call": ServerEvent(said.ToolCallPayload, "To one session: run a tool that you offer, send `tool_result`."),
    "approval_requested": ServerEvent(
        said.ApprovalRequestedPayload,
        "The answer waits for your `approval` of a tool's call.",
        is_durable=True,
        feature="approvals",
    ),
    "approval_resolved": ServerEvent(
        said.ApprovalResolvedPayload,
        "How it was decided, by a device, the time or a stop.",
        is_durable=True,
        feature="approvals",
    ),
    "twin_message": ServerEvent(said.TwinMessagePayload, "A whole answer, and how it ended.", is_durable=True),
    "profile_update": ServerEvent(
        said.ProfileUpdatePayload, "What the twin now believes otherwise, and why.", is_durable=True
    ),
    "profile": ServerEvent(said.ProfilePayload, "The profile as it stands."),
    "typing_indicator": ServerEvent(said.TypingIndicatorPayload, "Another device is typing."),
    "read_receipt": ServerEvent(said.ReadReceiptPayload, "Another device has read up to here.", is_durable=True),
    "feedback": ServerEvent(said.FeedbackPayload, "Another device rated an answer.", is_durable=True),
    "context_update": ServerEvent(said.ContextUpdatePayload, "Another device changed the host context."),
    "presence": ServerEvent(said.PresencePayload, "A device joined or left."),
    "heartbeat_ack": ServerEvent(said.HeartbeatAckPayload, "The server's time and the newest seq."),
    "resumed": ServerEvent(said.ResumedPayload, "All that was missed has been sent."),
    "resync": ServerEvent(said.ResyncPayload, "Live delivery had a gap: send resume."),
    "history": ServerEvent(said.HistoryPagePayload, "A page of the conversation, oldest first."),
    "conversations": ServerEvent(said.ConversationListPayload, "The user's conversations, newest first."),
    "search": ServerEvent(said.SearchPayload, "What was found in all conversations, the best first."),
    "auth_refreshed": ServerEvent(said.AuthRefreshedPayload, "The fresh token is in force."),
    "auth_expiring": ServerEvent(said.AuthExpiringPayload, "The token ends soon."),
    "server_draining": ServerEvent(
        said.ServerDrainingPayload, "This server goes away: reconnect after the time given."
    ),
    "session_ended": ServerEvent(
        said.SessionEndedPayload, "Why the server ends this session, for good; the disconnect follows."
    ),
    "error": ServerEvent(said.ErrorPayload, "What failed, by code."),
}
# Sent by clients, relayed, and answered by nothing.
EPHEMERAL_EVENTS = frozenset({"typing_indicator"})
DURABLE_EVENTS = frozenset(name for name, event in SERVER_EVENTS.items() if event.is_durable)

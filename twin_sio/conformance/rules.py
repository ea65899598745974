"""The rules of the protocol for clients, and the verdict on a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a client must do, and how to fix a client that does not."""

    name: str
    must: str
    fix: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a rule was kept; `observed` says what the client did instead."""

    rule: Rule
    passed: bool
    observed: str = ""


class RuleViolation(Exception):
    """The client broke a rule; the text says what it did."""


RULES = (
    Rule(
        "retries_a_refused_handshake",
        "A handshake that is refused with retryable: true is tried again, not before retry_after_ms.",
        "connect_error carries data {code, message, retryable, retry_after_ms?}; most SDKs do not try again.",
    ),
    Rule(
        "sends_a_message",
        "It sends a user_message with payload.text and a metadata.message_id of its own.",
        "One argument, the envelope: {payload: {text}, metadata: {message_id}}.",
    ),
    Rule(
        "reconnects_with_the_same_session",
        "After a transport close it reconnects, with the same auth.session_id.",
        "Reconnect on `transport close`; create the session id once, keep it as long as the device or tab lives.",
    ),
    Rule(
        "reports_last_seq",
        "It sends the newest seq that it received: auth.last_seq, or a resume event.",
        "Keep the largest metadata.seq that was applied; if auth cannot change, emit resume on session_ready.",
    ),
    Rule(
        "resends_with_the_same_id",
        "A message without message_received is sent again, with the same message_id and text.",
        "Keep an outbox by message_id until message_received names it; send all of it after session_ready.",
    ),
    Rule(
        "joins_chunks",
        "Chunks of a generation are joined by chunk_index; a repeated one adds nothing.",
        "Append only where chunk_index is the next one.",
    ),
    Rule(
        "applies_a_merged_chunk",
        "A chunk with first_chunk_index 0 replaces all text so far; older chunks are dropped.",
        "Set the text to its text, the next index to chunk_index + 1.",
    ),
    Rule(
        "follows_a_new_generation",
        "Another generation_id for the same message replaces the first, whose late chunks are dropped.",
        "Keep one draft for each in_response_to, and the ids of generations that ended.",
    ),
    Rule(
        "finishes_once",
        "twin_message replaces the draft; a repeat of it, or a late chunk, changes nothing.",
        "Its text is final; drop durable events with seq <= last, and chunks of an ended generation.",
    ),
    Rule(
        "ignores_duplicates",
        "A repeated durable event is dropped.",
        "Drop seq <= last.",
    ),
    Rule(
        "resumes_at_a_gap",
        "At a gap (seq > last + 1) it sends resume with the last seq before the gap.",
        "Do not apply events behind a gap, and do not count them as received.",
    ),
    Rule(
        "fills_the_gap_in_order",
        "Missing messages are shown in their place, and nothing twice.",
        "Order by seq; the events behind the gap come again with the resume.",
    ),
    Rule("resumes_on_resync", "On resync it sends resume.", "resync means that live delivery had a gap."),
    Rule(
        "sends_heartbeats",
        "It sends heartbeat every session_ready.heartbeat_interval_ms.",
        "Engine.IO's ping does not carry head_seq; the heartbeat event does.",
    ),
    Rule(
        "resumes_when_behind",
        "If heartbeat_ack.head_seq is greater than its last seq, it sends resume, and shows what it missed.",
        "Compare head_seq with the last seq.",
    ),
    Rule(
        "refreshes_its_token",
        "On auth_expiring it sends auth_refresh with a token.",
        "Ask the host app for a fresh token; the connection stays.",
    ),
    Rule(
        "leaves_a_draining_server",
        "On server_draining it reconnects after reconnect_after_ms, or when the server closes the connection.",
        "Close the transport when the time is up, and reconnect.",
    ),
    Rule(
        "fetches_history_after_a_loss",
        "On resumed with complete: false it requests history.",
        "Retention has removed the missed events: continue from through_seq and read the newest page.",
    ),
    Rule(
        "does_not_resend_stored_messages",
        "An acknowledged message is not sent again.",
        "Remove it from the outbox on message_received, whether accepted or duplicate.",
    ),
    Rule(
        "counts_unknown_events",
        "A durable event of a type that it does not know counts: the next one is no gap.",
        "Whatever has a metadata.seq moves the last seq; only then look whether the type is known.",
    ),
    Rule(
        "counts_approvals",
        "approval_requested and approval_resolved count, or the read_receipts in their place.",
        'auth.features: ["approvals"] is for clients that show approvals; another gets receipts with the same seq.',
    ),
    Rule(
        "runs_a_tool_once",
        "Where it offers tools: again after it reconnected, and a call_id that comes again is not run again.",
        "Send host_tools after every session_ready; keep the results by call_id, and send the same one again.",
    ),
    Rule(
        "stays_disconnected",
        "After a Socket.IO disconnect (`io server disconnect`) it does not reconnect.",
        "The session was replaced, or its user was removed.",
    ),
    Rule(
        "follows_the_protocol",
        "Everything it sent follows the protocol.",
        "See docs/protocol.md and docs/asyncapi.json.",
    ),
)

"""The scripted server that a client is held against."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from aiohttp import web

from twin_sio.clock import iso, monotonic, new_id, now
from twin_sio.conformance.rules import RuleViolation, T
from twin_sio.domain import DEFAULT_CONVERSATION, Json
from twin_sio.errors import HandshakeRefused, ServiceError
from twin_sio.protocol import (
    ENVELOPE_MAX_BYTES,
    PAGE_MAX,
    PROTOCOL_VERSION,
    SERVER_EVENTS,
    TEXT_MAX,
    Auth,
    Incoming,
    Outgoing,
    error_payload,
    parse,
    parse_auth,
)
from twin_sio.transport import ConnectionRegistry, ConnectRequest
from twin_sio.transport.aiohttp_socket import bearer
from twin_sio.transport.frames import ack_frame, event_frame

_USER = "conformance"
_OTHER_DEVICE = "another-device"
HEARTBEAT_MS = 500
RETRY_AFTER_MS = 400
RECONNECT_AFTER_MS = 300


@dataclass(frozen=True, slots=True)
class ConnectAttempt:
    """A handshake of the client."""

    auth: Auth
    at: float
    accepted: bool


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event from the client."""

    event: Incoming[Any]
    at: float


@dataclass(slots=True)
class ScriptedServer:
    """A server for one user and one client, the client under test. It replies as the service does, but for four flags:

    `refuses_next`: the next handshake is refused. `ignores_messages`: a user message is neither stored nor confirmed.
    `has_lost_log`: missed events cannot be resumed. `reports_head`: heartbeats carry the newest seq.
    """

    connections: ConnectionRegistry
    attempts: list[ConnectAttempt] = field(default_factory=list)
    received: list[ReceivedEvent] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    log: list[Outgoing] = field(default_factory=list)
    sid: str | None = None  # of the connected client
    refuses_next: bool = True
    ignores_messages: bool = True
    has_lost_log: bool = False
    reports_head: bool = False
    _auth: Auth = field(default_factory=Auth)
    # Set whenever the client did something: `wait_for` looks again.
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def seq(self) -> int:
        """The seq of the newest event in the log."""
        return len(self.log)

    def of(self, type: str, since: int = 0) -> list[ReceivedEvent]:
        """The events of this type, without those among the first `since` events received."""
        return [received for received in self.received[since:] if received.event.type == type]

    async def wait_for(self, check: Callable[[], T | None], within_s: float, otherwise: str) -> T:
        """The first result of `check` that is neither None nor False; raises `RuleViolation` when the time is up."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    result = check()
                    if result is not None and result is not False:
                        return result
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise RuleViolation(f"{otherwise} within {within_s:g} s") from None

    def append(self, type: str, payload: Json, **meta: Any) -> Outgoing:
        """A durable event, stored and not sent."""
        event = Outgoing(type, payload, **{"message_id": new_id(), **in_main(meta)}, at=now(), seq=self.seq + 1)
        self.log.append(event)
        return event

    def append_from_other_device(self, text: str, conversation_id: str = DEFAULT_CONVERSATION) -> Outgoing:
        """A message from another device of the user; stored and not sent."""
        return self.append("user_message", {"text": text}, session_id=_OTHER_DEVICE, conversation_id=conversation_id)

    def send(self, event: Outgoing) -> None:
        """Send to the client, if one is connected; in the place of what it does not know a receipt."""
        if self.sid is not None:
            known = SERVER_EVENTS.get(event.type)
            if known is not None and known.feature not in (None, *self._auth.features):
                payload = {"message_id": event.in_response_to or event.message_id}
                event = replace(event, type="read_receipt", payload=payload, in_response_to=None)
            self.connections.write(self.sid, event_frame(event.type, event.envelope()))

    def send_new(self, type: str, payload: Json, **meta: Any) -> Outgoing:
        """Send an event that is not stored."""
        event = Outgoing(type, payload, new_id(), now(), **meta)
        self.send(event)
        return event

    def close(self) -> None:
        """Close as a lost network or a draining server does: the client reconnects."""
        if self.sid is not None:
            self.connections.close(self.sid, "draining")

    # callbacks of the Socket.IO server

    def allow_connection(self, _: web.Request) -> bool:
        return True

    async def admit(self, _: str, asked: ConnectRequest) -> None:
        refused: HandshakeRefused | None
        try:
            sent = _with_headers(parse_auth(asked.auth), asked.request)
            refused = self._refusal(sent)
        except ServiceError as error:
            self._record_violation(f"an auth payload with a bad {error.field}")
            sent, refused = Auth(), HandshakeRefused("auth_invalid", "The auth payload is refused.")
        self.attempts.append(ConnectAttempt(sent, monotonic(), refused is None))
        self._changed.set()
        if refused is not None:
            raise refused
        self._auth = sent

    def _refusal(self, sent: Auth) -> HandshakeRefused | None:
        if not sent.token:
            return HandshakeRefused("auth_missing", "A token is needed: send it as auth.token, never in the query.")
        if self.refuses_next:
            self.refuses_next = False
            return HandshakeRefused("overloaded", "Too much to do.", retryable=True, retry_after_ms=RETRY_AFTER_MS)
        return None

    async def on_disconnect(self, sid: str, _: object) -> None:
        if self.sid == sid:
            self.sid = None
        self._changed.set()

    def on_connected(self, sid: str) -> None:
        self.sid = sid
        self.send_new("session_ready", self._session(), session_id=self._auth.session_id)
        if self._auth.last_seq is not None:
            self._catch_up(self._auth.last_seq)
        self._changed.set()

    def _session(self) -> Json:
        session_id = self._auth.session_id or new_id()
        limits = {
            "text_characters": TEXT_MAX,
            "envelope_bytes": ENVELOPE_MAX_BYTES,
            "history_page": PAGE_MAX,
            "messages_per_minute": 600,
            "events_per_second": 50,
            "sessions": 20,
        }
        return {
            "user_id": _USER,
            "session_id": session_id,
            "expires_at": iso(now() + timedelta(hours=1)),
            "seq": self.seq,
            "sessions": [{"session_id": session_id, "device": {}}, {"session_id": _OTHER_DEVICE, "device": {}}],
            "heartbeat_interval_ms": HEARTBEAT_MS,
            "limits": limits,
            "profile_version": 0,
            "server": {"instance": "conformance", "protocol": PROTOCOL_VERSION, "time": iso(now())},
        }

    def _catch_up(self, last_seq: int, in_response_to: str | None = None) -> Outgoing:
        complete = not self.has_lost_log or last_seq >= self.seq
        for event in self.log[last_seq:] if complete else ():
            self.send(event)
        done = {"through_seq": self.seq, "complete": complete}
        return self.send_new("resumed", done, in_response_to=in_response_to)

    def on_malformed(self, _: str, __: int, ___: Sequence[object] = (), ____: int | None = None) -> float:
        self._record_violation("a frame that is no event")
        return 0.0

    def on_too_long(self, _: str) -> None:
        self._record_violation("a frame over the bound")

    def on_poll(self, _: str, __: int = 0) -> float:
        return 0.0

    def on_event(self, sid: str, name: str, args: list[Any], ack_id: int | None, _: int) -> float:
        self._handle(sid, name, args, ack_id)
        return 0.0

    def _handle(self, sid: str, name: str, args: list[Any], ack_id: int | None) -> None:
        try:
            event = parse(name, args)
        except ServiceError as error:
            self._record_violation(f"{name[:40]}: {error.field or error.code}")
            self.send_new("error", error_payload(error))
            return
        self.received.append(ReceivedEvent(event, monotonic()))
        if event.session_id not in (None, self._auth.session_id):
            self._record_violation(f"{name}: metadata.session_id is not the connection's")
        if not (self.ignores_messages and event.type == "user_message"):
            answer = self._answer(event)
            if ack_id is not None:
                self.connections.write(sid, ack_frame(ack_id, answer.envelope() if answer else None))
        self._changed.set()

    def _record_violation(self, fault: str) -> None:
        self.violations.append(fault)
        self._changed.set()

    def _answer(self, event: Incoming[Any]) -> Outgoing | None:
        reply_to = {"in_response_to": event.message_id}
        match event.type:
            case "user_message":
                return self._store(event)
            case "heartbeat":
                head = self.seq if self.reports_head else 0
                return self.send_new("heartbeat_ack", {"server_time": iso(now()), "head_seq": head}, **reply_to)
            case "resume":
                return self._catch_up(event.payload.last_seq, event.message_id)
            case "auth_refresh":
                return self.send_new("auth_refreshed", {"expires_at": iso(now() + timedelta(hours=1))}, **reply_to)
            case "history":
                page = {"messages": [], "has_more": False, "conversation_id": event.conversation_id}
                return self.send_new("history", page, conversation_id=event.conversation_id, **reply_to)
            case "conversations":
                return self.send_new("conversations", {"conversations": []}, **reply_to)
            case "search":
                return self.send_new("search", {"messages": [], "complete": True}, **reply_to)
            case "profile_get":
                return self.send_new("profile", {"version": 0, "as_of": iso(now()), "traits": []}, **reply_to)
            case "context_update" | "host_tools" | "tool_result" | "approval":
                received = {"message_id": event.message_id or new_id(), "status": "accepted"}
                return self.send_new("message_received", received, **reply_to)
            case _:
                return None

    def _store(self, event: Incoming[Any]) -> Outgoing:
        known = next((stored for stored in self.log if stored.message_id == event.message_id), None)
        stored = known or self.append(
            "user_message",
            {"text": event.payload.text},
            message_id=event.required_id,
            session_id=self._auth.session_id,
            conversation_id=event.conversation_id,
        )
        received = {"message_id": stored.message_id, "status": "duplicate" if known else "accepted"}
        meta = {"in_response_to": stored.message_id, "conversation_id": stored.conversation_id}
        reply = Outgoing("message_received", received, new_id(), now(), self._auth.session_id, **meta, seq=stored.seq)
        self.send(reply)
        return reply


def _with_headers(sent: Auth, request: web.BaseRequest) -> Auth:
    """The auth payload, completed from the headers for clients that can set nothing else."""
    completed = {
        "token": sent.token or bearer(request),
        "session_id": sent.session_id or request.headers.get("X-Session-ID"),
    }
    return sent.model_copy(update=completed)


def in_main(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"conversation_id": DEFAULT_CONVERSATION, **meta}

"""The scripted server that a client is held against."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from aiohttp import web
from socketio.exceptions import ConnectionRefusedError as SocketRefused

from twin_sio.clock import iso, monotonic, new_id, now
from twin_sio.conformance.rules import RuleViolation, T
from twin_sio.domain import DEFAULT_CONVERSATION, Json
from twin_sio.errors import HandshakeRefused, ServiceError
from twin_sio.protocol import (
    ENVELOPE_MAX_BYTES,
    PAGE_MAX,
    PROTOCOL_VERSION,
    TEXT_MAX,
    Auth,
    Incoming,
    Outgoing,
    error_payload,
    parse,
    parse_auth,
)
from twin_sio.transport.frames import ack_frame, event_frame
from twin_sio.transport.socketio import SocketServer, bearer

_USER = "conformance"
_ELSEWHERE = "another-device"
_HEARTBEAT_MS = 500
_RETRY_AFTER_MS = 400
_LEAVE_AFTER_MS = 300


@dataclass(frozen=True, slots=True)
class _Entry:
    """A client that wants in."""

    auth: Auth
    at: float
    let_in: bool


@dataclass(frozen=True, slots=True)
class _Heard:
    """An event from the client."""

    event: Incoming[Any]
    at: float


@dataclass(slots=True)
class ScriptedServer:
    """One user's log and the one client that is looked at. It answers as the service does, but for what the script
    sets: `refusing` turns away who comes next, `deaf` heeds no message, `forgetful` has lost what was missed,
    `tells_head` says in heartbeats where the log stands."""

    server: SocketServer
    entries: list[_Entry] = field(default_factory=list)
    heard: list[_Heard] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    log: list[Outgoing] = field(default_factory=list)
    sid: str | None = None
    refusing: bool = True
    deaf: bool = True
    forgetful: bool = False
    tells_head: bool = False
    _auth: Auth = field(default_factory=Auth)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.server.on("connect", self._connect)
        self.server.on("disconnect", self._disconnect)
        self.server.on_accept = lambda _: True
        self.server.on_connected = self._greet
        self.server.on_event = self._take
        self.server.on_malformed = lambda *_: self._note("a frame that is no event")

    @property
    def seq(self) -> int:
        """The newest of the log."""
        return len(self.log)

    def of(self, type: str, since: int = 0) -> list[_Heard]:
        """The events of this type, without the first `since` of all that was heard."""
        return [one for one in self.heard[since:] if one.event.type == type]

    async def until(self, check: Callable[[], T | None], within_s: float, otherwise: str) -> T:
        """The first result of `check` that is neither None nor False; raises `Broken` when the time is up."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    found = check()
                    if found is not None and found is not False:
                        return found
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise RuleViolation(f"{otherwise} within {within_s:g} s") from None

    def append(self, type: str, payload: Json, **meta: Any) -> Outgoing:
        """A durable event, stored and not sent."""
        told = Outgoing(type, payload, **{"message_id": new_id(), **_main(meta)}, at=now(), seq=self.seq + 1)
        self.log.append(told)
        return told

    def say_elsewhere(self, text: str, conversation_id: str = DEFAULT_CONVERSATION) -> Outgoing:
        """Another device of the user says something; stored and not sent."""
        return self.append("user_message", {"text": text}, session_id=_ELSEWHERE, conversation_id=conversation_id)

    def send(self, told: Outgoing) -> None:
        """To the client, where one is connected."""
        if self.sid is not None:
            self.server.write(self.sid, event_frame(told.type, told.envelope()))

    def tell(self, type: str, payload: Json, **meta: Any) -> Outgoing:
        """An event that is not stored."""
        told = Outgoing(type, payload, new_id(), now(), **meta)
        self.send(told)
        return told

    def close(self) -> None:
        """As a network that goes away, or a server that drains: the client comes back."""
        if self.sid is not None:
            self.server.close(self.sid, "draining")

    # the client's side of the door

    async def _connect(self, _: str, environ: Mapping[str, Any], auth: object = None) -> None:
        refused: HandshakeRefused | None
        try:
            sent = _with_headers(parse_auth(auth), environ["aiohttp.request"])
            refused = self._refusal(sent)
        except ServiceError as error:
            self._note(f"an auth payload with a bad {error.field}")
            sent, refused = Auth(), HandshakeRefused("auth_invalid", "The auth payload is refused.")
        self.entries.append(_Entry(sent, monotonic(), refused is None))
        self._changed.set()
        if refused is not None:
            raise SocketRefused(refused.message, refused.as_data())
        self._auth = sent

    def _refusal(self, sent: Auth) -> HandshakeRefused | None:
        if not sent.token:
            return HandshakeRefused("auth_missing", "A token is needed: send it as auth.token.")
        if self.refusing:
            self.refusing = False
            return HandshakeRefused("overloaded", "Too much to do.", retryable=True, retry_after_ms=_RETRY_AFTER_MS)
        return None

    def _disconnect(self, sid: str, *_: object) -> None:
        if self.sid == sid:
            self.sid = None
        self._changed.set()

    def _greet(self, sid: str) -> None:
        self.sid = sid
        self.tell("session_ready", self._session(), session_id=self._auth.session_id)
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
            "sessions": [{"session_id": session_id, "device": {}}, {"session_id": _ELSEWHERE, "device": {}}],
            "heartbeat_interval_ms": _HEARTBEAT_MS,
            "limits": limits,
            "profile_version": 0,
            "server": {"instance": "conformance", "protocol": PROTOCOL_VERSION, "time": iso(now())},
        }

    def _catch_up(self, last_seq: int, in_response_to: str | None = None) -> Outgoing:
        complete = not self.forgetful or last_seq >= self.seq
        for told in self.log[last_seq:] if complete else ():
            self.send(told)
        done = {"through_seq": self.seq, "complete": complete}
        return self.tell("resumed", done, in_response_to=in_response_to)

    def _take(self, sid: str, name: str, args: list[Any], ack_id: int | None, _: int) -> None:
        try:
            event = parse(name, args)
        except ServiceError as error:
            self._note(f"{name[:40]}: {error.field or error.code}")
            self.tell("error", error_payload(error))
            return
        self.heard.append(_Heard(event, monotonic()))
        if event.session_id not in (None, self._auth.session_id):
            self._note(f"{name}: metadata.session_id is not the connection's")
        if not (self.deaf and event.type == "user_message"):
            answer = self._answer(event)
            if ack_id is not None:
                self.server.write(sid, ack_frame(ack_id, answer.envelope() if answer else None))
        self._changed.set()

    def _note(self, fault: str) -> None:
        self.faults.append(fault)
        self._changed.set()

    def _answer(self, event: Incoming[Any]) -> Outgoing | None:
        about = {"in_response_to": event.message_id}
        match event.type:
            case "user_message":
                return self._store(event)
            case "heartbeat":
                head = self.seq if self.tells_head else 0
                return self.tell("heartbeat_ack", {"server_time": iso(now()), "head_seq": head}, **about)
            case "resume":
                return self._catch_up(event.payload.last_seq, event.message_id)
            case "auth_refresh":
                return self.tell("auth_refreshed", {"expires_at": iso(now() + timedelta(hours=1))}, **about)
            case "history":
                page = {"messages": [], "has_more": False, "conversation_id": event.conversation_id}
                return self.tell("history", page, conversation_id=event.conversation_id, **about)
            case "conversations":
                return self.tell("conversations", {"conversations": []}, **about)
            case "profile_get":
                return self.tell("profile", {"version": 0, "as_of": iso(now()), "traits": []}, **about)
            case "context_update":
                received = {"message_id": event.message_id or new_id(), "status": "accepted"}
                return self.tell("message_received", received, **about)
            case _:
                return None

    def _store(self, event: Incoming[Any]) -> Outgoing:
        known = next((one for one in self.log if one.message_id == event.message_id), None)
        stored = known or self.append(
            "user_message",
            {"text": event.payload.text},
            message_id=event.required_id,
            session_id=self._auth.session_id,
            conversation_id=event.conversation_id,
        )
        received = {"message_id": stored.message_id, "status": "duplicate" if known else "accepted"}
        meta = {"in_response_to": stored.message_id, "conversation_id": stored.conversation_id}
        told = Outgoing("message_received", received, new_id(), now(), self._auth.session_id, **meta, seq=stored.seq)
        self.send(told)
        return told


def _with_headers(sent: Auth, request: web.BaseRequest) -> Auth:
    """What a client that can only set headers has put there."""
    found = {
        "token": sent.token or bearer(request),
        "session_id": sent.session_id or request.headers.get("X-Session-ID"),
    }
    return sent.model_copy(update=found)


def _main(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"conversation_id": DEFAULT_CONVERSATION, **meta}

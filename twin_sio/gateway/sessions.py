"""The authenticated connections of this instance, from `session_ready` to their end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog

from twin_sio.background import BackgroundTasks
from twin_sio.clock import Clock, NewId, iso, monotonic
from twin_sio.config import LimitSettings, Tuning
from twin_sio.delivery import Delivery
from twin_sio.domain import Caller, Identity
from twin_sio.errors import AuthExpired, ServiceError
from twin_sio.protocol import (
    CLIENT_EVENTS,
    ENVELOPE_MAX_BYTES,
    PAGE_MAX,
    PROTOCOL_VERSION,
    TEXT_MAX,
    Outgoing,
    error_payload,
)
from twin_sio.rate_limit import Bucket
from twin_sio.services.limits import Limits
from twin_sio.store.ports import ConnectSnapshot, LiveSession, Presence, Revocations
from twin_sio.transport import ConnectionRegistry

log = structlog.get_logger("gateway")

_REVOCATIONS_S = 2.0
_SIMULTANEOUS_S = 0.1
_ERASED_MAX = 1000
_ENDED = {
    "replaced": "This session was opened elsewhere.",
    "revoked": "Your access was ended. Sign in again.",
    "erased": "All data of this account was erased.",
}
_DRAIN_BATCH = 100  # connections that are closed at once
_LISTED_MAX = 100  # sessions in a frame; clients choose the length of their device's fields


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The settings that the gateway needs."""

    limits: LimitSettings
    tuning: Tuning
    heartbeat_interval_ms: int
    # s of clock skew that are accepted after a token's expiry
    leeway_s: int


@dataclass(slots=True)
class GatewayStats:
    """Counts for metrics."""

    errors: Counter[str] = field(default_factory=Counter)  # sent to clients, by code
    handled: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(CLIENT_EVENTS, 0)))  # events, by name


@dataclass(frozen=True, slots=True)
class QueuedEvent:
    """An event that was read and is not handled yet."""

    name: str
    args: list[Any]
    message_id: str | None  # its own, if it has one that can be repeated
    ack_id: int | None
    size: int  # bytes, as it arrived
    refusal: ServiceError | None = None  # it is answered with this


@dataclass(slots=True)
class ClientConnection:
    """What the gateway keeps of one connection."""

    caller: Caller
    snapshot: ConnectSnapshot  # the user's state when it connected
    last_seq: int | None  # up to which the client has seen the log; None: it does not resume
    bucket: Bucket  # of its events
    units: Bucket  # of the user, over all connections
    connected_at: float = field(default_factory=monotonic)
    is_ready: bool = False  # `session_ready` was sent: its events are handled from then on
    queue: deque[QueuedEvent] = field(default_factory=deque)
    queued_bytes: int = 0
    worker: asyncio.Task[None] | None = None  # handles what is queued; ended when the queue is empty
    timers: list[asyncio.TimerHandle] = field(default_factory=list)  # of the token's expiry


class Sessions:
    """Greets connections, tells devices of each other, and closes those that are replaced, expired or revoked."""

    def __init__(
        self,
        *,
        delivery: Delivery,
        connections: ConnectionRegistry,
        presence: Presence,
        revocations: Revocations,
        limits: Limits,
        stats: GatewayStats,
        settings: GatewaySettings,
        on_revoked: Callable[[str], None],
        instance: str,
        clock: Clock,
        new_id: NewId,
        on_left: Callable[[Caller], Awaitable[None]],
    ) -> None:
        """`on_left` is called once a connection has ended."""
        self._delivery = delivery
        self._connections = connections
        self._presence = presence
        self._revocations = revocations
        self._limits = limits
        self._stats = stats
        self._settings = settings
        self._on_revoked = on_revoked  # called with the user of each connection that is closed as revoked
        self._instance = instance
        self._clock = clock
        self._new_id = new_id
        self._on_left = on_left
        self.draining = False
        self.background = BackgroundTasks()
        self._by_sid: dict[str, ClientConnection] = {}
        # The connections of each (user, session), in the order in which they connected.
        self._by_session: dict[tuple[str, str], dict[str, None]] = {}
        # By user: each session with its number of connections, counted from the moment at which one asks to connect.
        self._reserved: dict[str, Counter[str]] = {}
        self._erased: dict[str, int] = {}  # the epochs of the users that were erased last

    def __len__(self) -> int:
        return len(self._by_sid)

    def get(self, sid: str) -> ClientConnection | None:
        """The connection of this id, if it is authenticated and here."""
        return self._by_sid.get(sid)

    def all(self) -> list[ClientConnection]:
        """Every connection."""
        return list(self._by_sid.values())

    # -- connecting --------------------------------------------------------------------------------------------------

    def reserve(self, user_id: str, session_id: str) -> bool:
        """Hold a place among the user's sessions of this instance until `release`; False: there is none left."""
        live = self._reserved.setdefault(user_id, Counter())
        if session_id not in live and len(live) >= self._settings.limits.sessions:
            return False
        live[session_id] += 1
        return True

    def release(self, user_id: str, session_id: str) -> None:
        """Give the place back."""
        live = self._reserved[user_id]
        live[session_id] -= 1
        if not live[session_id]:
            del live[session_id]
        if not live:
            del self._reserved[user_id]

    def is_erased(self, caller: Caller) -> bool:
        """Whether the user's data of the caller's epoch was erased meanwhile."""
        return caller.epoch < self._erased.get(caller.user_id, 0)

    def has_older_connection(self, user_id: str, epoch: int) -> bool:
        """Whether the user has a connection to this instance that is older than this epoch."""
        mine = (self._by_session.get((user_id, session_id), {}) for session_id in self._reserved.get(user_id, ()))
        return any(self._by_sid[sid].caller.epoch < epoch for sids in mine for sid in sids)

    def add(self, connection: ClientConnection) -> None:
        """A connection was authenticated; its place is reserved."""
        caller = connection.caller
        self._by_sid[caller.connection_id] = connection
        self._by_session.setdefault(_session_key(caller), {})[caller.connection_id] = None

    async def greet(self, connection: ClientConnection) -> bool:
        """Send `session_ready` before anything else, then what was missed and what happens; False: it has left."""
        caller = connection.caller
        sessions = self._session_list(caller, await self._presence.joined(caller))
        if self._by_sid.get(caller.connection_id) is not connection:
            return False
        self._delivery.to_session(caller, self._session_ready(connection, sessions))
        connection.is_ready = True
        self._delivery.join_room(caller.connection_id, caller.user_id)
        snapshot = connection.snapshot
        self._delivery.attach(caller, head=snapshot.head, last_seq=connection.last_seq, is_answering=snapshot.is_owed)
        # In the same step as the presence event: both go to Redis in one write.
        self._delivery.close_older_connections(caller)
        self._send_presence(caller, "joined", sessions)
        self._watch_expiry(connection)
        log.info("connected", user=caller.user_id, session=caller.session_id, connection=caller.connection_id)
        return True

    def _session_list(self, caller: Caller, live: Sequence[LiveSession]) -> list[dict[str, Any]]:
        devices = {session.session_id: session.device for session in live}
        devices.update({local.session_id: local.device for local in self._delivery.local_sessions(caller.user_id)})
        listed = [{"session_id": name, "device": device.as_dict()} for name, device in sorted(devices.items())]
        return listed[:_LISTED_MAX]

    def _session_ready(self, connection: ClientConnection, sessions: list[dict[str, Any]]) -> Outgoing:
        caller, settings = connection.caller, self._settings
        payload = {
            "user_id": caller.user_id,
            "session_id": caller.session_id,
            "expires_at": iso(caller.identity.expires_at),
            "seq": connection.snapshot.head,
            "sessions": sessions or [{"session_id": caller.session_id, "device": caller.device.as_dict()}],
            "heartbeat_interval_ms": settings.heartbeat_interval_ms,
            "limits": {
                "text_characters": TEXT_MAX,
                "envelope_bytes": ENVELOPE_MAX_BYTES,
                "history_page": PAGE_MAX,
                "messages_per_minute": settings.limits.messages_per_minute,
                "events_per_second": settings.limits.events_per_second,
                "sessions": settings.limits.sessions,
            },
            "profile_version": connection.snapshot.profile_version,
            "epoch": connection.snapshot.epoch,
            "server": {"instance": self._instance, "protocol": PROTOCOL_VERSION, "time": iso(self._clock())},
        }
        return Outgoing("session_ready", payload, self._new_id(), self._clock(), caller.session_id)

    def _send_presence(self, caller: Caller, state: str, sessions: list[dict[str, Any]]) -> None:
        if self._limits.is_shedding:
            return
        payload = {
            "session_id": caller.session_id,
            "state": state,
            "device": caller.device.as_dict(),
            "sessions": sessions,
        }
        presence = Outgoing("presence", payload, self._new_id(), self._clock(), caller.session_id)
        self._delivery.to_others(caller, presence)

    # -- closing -----------------------------------------------------------------------------------------------------

    def on_replace(self, user_id: str, session_id: str, keep: str) -> None:
        """Close this session's connections that are older than `keep`: of several at the same time, one stays."""
        mine = self._by_session.get((user_id, session_id), {})
        for sid in list(mine):
            if sid == keep:
                return
            connection = self._by_sid[sid]
            if keep not in mine and sid > keep and monotonic() - connection.connected_at < _SIMULTANEOUS_S:
                # `keep` connected to another instance at the same time. Both instances decide by the ids.
                self._delivery.close_older_connections(connection.caller)
            else:
                self._end(connection, "replaced")

    def on_erased(self, user_id: str, epoch: int) -> None:
        """The user's data of before this epoch was erased: close the connections that are older than it, for good."""
        self._erased[user_id] = max(epoch, self._erased.get(user_id, 0))
        while len(self._erased) > _ERASED_MAX:
            del self._erased[next(iter(self._erased))]
        for connection in list(self._by_sid.values()):
            if connection.caller.user_id == user_id and connection.caller.epoch < epoch:
                self._end(connection, "erased")

    def _end(self, connection: ClientConnection, reason: str) -> None:
        """Say why the session ends, then disconnect it for good."""
        caller = connection.caller
        if connection.is_ready:  # `session_ready` comes before any other event
            payload = {"reason": reason, "message": _ENDED[reason]}
            ended = Outgoing("session_ended", payload, self._new_id(), self._clock(), caller.session_id)
            self._delivery.to_session(caller, ended)
        self._connections.close(caller.connection_id, "gone")

    def remove(self, sid: str, reason: object) -> ClientConnection | None:
        """The connection has ended; None where it was never authenticated."""
        connection = self._by_sid.pop(sid, None)
        if connection is None:
            return None
        for timer in connection.timers:
            timer.cancel()
        caller = connection.caller
        self.release(caller.user_id, caller.session_id)
        mine = self._by_session[_session_key(caller)]
        del mine[sid]
        if not mine:
            del self._by_session[_session_key(caller)]
        self._delivery.detach(caller)
        log.info("disconnected", user=caller.user_id, session=caller.session_id, connection=sid, reason=str(reason))
        self.background.start(self._leave(caller))
        return connection

    async def _leave(self, caller: Caller) -> None:
        await self._presence.gone(caller)
        await self._on_left(caller)
        sessions = self._session_list(caller, await self._presence.sessions(caller.user_id))
        if all(session["session_id"] != caller.session_id for session in sessions):
            self._send_presence(caller, "left", sessions)

    async def drain(self, within_s: float) -> None:
        """Tell every client when to connect again, then close plainly, spread over `within_s`."""
        self.draining = True
        clients = list(self._by_sid.items())
        for _, connection in clients:
            if not connection.is_ready:  # `session_ready` comes before any other event
                continue
            wait_ms = random.randint(100, max(200, int(within_s * 1000)))
            draining = Outgoing("server_draining", {"reconnect_after_ms": wait_ms}, self._new_id(), self._clock())
            self._delivery.to_session(connection.caller, draining)
        batches = max(1, -(-len(clients) // _DRAIN_BATCH))
        for start in range(0, len(clients), _DRAIN_BATCH):
            await asyncio.sleep(within_s / batches)  # before each batch: clients are to read the event first
            for sid, _ in clients[start : start + _DRAIN_BATCH]:
                self._connections.close(sid, "draining")

    # -- expiry and revocation ---------------------------------------------------------------------------------------

    def renew(self, caller: Caller, identity: Identity) -> None:
        """A fresh token of the same user replaces the connection's."""
        connection = self._by_sid.get(caller.connection_id)
        if connection is not None:
            connection.caller = replace(caller, identity=identity)
            self._watch_expiry(connection)

    def is_expired(self, caller: Caller, at: datetime) -> bool:
        """Whether the caller's token is no longer accepted."""
        return (at - caller.identity.expires_at).total_seconds() >= self._settings.leeway_s

    def _watch_expiry(self, connection: ClientConnection) -> None:
        for timer in connection.timers:
            timer.cancel()
        left_s = (connection.caller.identity.expires_at - self._clock()).total_seconds()
        loop = asyncio.get_running_loop()
        connection.timers = [
            loop.call_later(max(0.0, left_s - self._settings.tuning.auth_expiring_s), self._warn, connection),
            loop.call_later(max(0.0, left_s + self._settings.leeway_s), self._expire, connection),
        ]

    def _warn(self, connection: ClientConnection) -> None:
        expires_at = connection.caller.identity.expires_at
        expiring = Outgoing("auth_expiring", {"expires_at": iso(expires_at)}, self._new_id(), self._clock())
        self._delivery.to_session(connection.caller, expiring)

    def _expire(self, connection: ClientConnection) -> None:
        if not self.is_expired(connection.caller, self._clock()):
            self._watch_expiry(connection)
            return
        self._delivery.to_session(connection.caller, self.error(connection.caller, AuthExpired()))
        self._connections.close(connection.caller.connection_id, "expired")

    async def watch_revocations(self) -> None:
        """Every other second, close the connections whose token was revoked meanwhile, for good."""
        while True:
            await asyncio.sleep(_REVOCATIONS_S)
            everybody = list(self._by_sid.items())
            for start in range(0, len(everybody), 1000):
                batch = everybody[start : start + 1000]
                revoked = await self._revocations.revoked([connection.caller.identity for _, connection in batch])
                for (sid, connection), is_revoked in zip(batch, revoked, strict=True):
                    if is_revoked:
                        log.info("revoked", user=connection.caller.user_id, connection=sid)
                        self._delivery.to_session(connection.caller, self.error(connection.caller, AuthExpired()))
                        self._end(connection, "revoked")
                        self._on_revoked(connection.caller.user_id)

    # -- errors ------------------------------------------------------------------------------------------------------

    def error(
        self, caller: Caller, error: ServiceError, in_response_to: str | None = None, error_id: str | None = None
    ) -> Outgoing:
        """The `error` event for this caller, counted."""
        self._stats.errors[error.code] += 1
        return Outgoing(
            "error", error_payload(error, error_id), self._new_id(), self._clock(), caller.session_id, in_response_to
        )


def _session_key(caller: Caller) -> tuple[str, str]:
    return caller.user_id, caller.session_id

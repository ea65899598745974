"""The socket's edge: who gets in, in which order events are handled, and what a client is told of failures.

The error boundary of the product is `_handle`: a `ServiceError` becomes an `error` event with its code, anything else
`internal` with an id that is in the log. Each connection has a bounded FIFO, worked off one event at a time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog
from aiohttp import web
from socketio.exceptions import ConnectionRefusedError as SocketRefused
from structlog.contextvars import bind_contextvars

from twin_sio.auth import Authenticator, auth_expired
from twin_sio.clock import Clock, NewId, iso, monotonic
from twin_sio.delivery import Delivery
from twin_sio.domain import Caller, Device, Identity
from twin_sio.errors import (
    AuthExpired,
    Forbidden,
    HandshakeRefused,
    InvalidMessage,
    RateLimited,
    ServiceError,
    StorageUnavailable,
)
from twin_sio.gateway.budgets import Budgets
from twin_sio.handlers import Reply
from twin_sio.handlers.context import HostContext
from twin_sio.observability.overload import Bucket, BucketCache
from twin_sio.observability.tracing import span
from twin_sio.protocol import (
    CLIENT_EVENTS,
    ENVELOPE_MAX_BYTES,
    EPHEMERAL_EVENTS,
    PAGE_MAX,
    PROTOCOL_VERSION,
    TEXT_MAX,
    Auth,
    AuthRefresh,
    Incoming,
    Outgoing,
    cost_of,
    error_payload,
    is_id,
    parse,
    parse_auth,
    token_of,
)
from twin_sio.services.limits import Limits
from twin_sio.store.ports import ConnectSnapshot, ConnectSnapshots, LiveSession, Presence, Revocations
from twin_sio.transport.client_address import TrustedProxies
from twin_sio.transport.frames import ack_frame
from twin_sio.transport.socketio import SocketServer, bearer

log = structlog.get_logger("gateway")

Handler = Callable[[Caller, Incoming[Any]], Awaitable[Reply | None]]
_ADMISSION_S = 4.5
_REVOCATIONS_S = 2.0
_SIMULTANEOUS_S = 0.1
_ERASED_MAX = 1000
_LISTED_MAX = 100  # sessions in a frame; what each says of its device is up to it
_PAUSE_MAX_S = 1.0
_POLL_COST = 2


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An event that was read and is not handled yet."""

    name: str
    args: list[Any]
    ack_id: int | None
    size: int  # bytes, as it came


@dataclass(slots=True)
class _Connection:
    """What the gateway keeps of one connection."""

    caller: Caller
    standing: ConnectSnapshot
    last_seq: int | None
    bucket: Bucket
    units: Bucket  # of the user, over all connections
    connected_at: float = field(default_factory=monotonic)
    greeted: bool = False
    waiting: deque[_Waiting] = field(default_factory=deque)
    waiting_bytes: int = 0
    worker: asyncio.Task[None] | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What somebody who wants to come in has to show: `auth` as the client sent it, the token of its headers, or an
    identity that was checked before (by a ticket)."""

    request: web.Request
    auth: object
    token: str | None
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Bounds; the names are those of the settings."""

    connection_queue: int
    events_per_second: int
    messages_per_minute: int
    knocks_per_minute: int
    sessions: int
    heartbeat_interval_ms: int
    auth_expiring_s: int
    leeway_s: int


class Gateway:
    """Authenticates connections and dispatches their events to handlers."""

    def __init__(
        self,
        server: SocketServer,
        *,
        delivery: Delivery,
        authenticator: Authenticator,
        standings: ConnectSnapshots,
        presence: Presence,
        revocations: Revocations,
        context: HostContext,
        limits: Limits,
        peers: TrustedProxies,
        handlers: Mapping[str, Handler],
        settings: GatewaySettings,
        instance: str,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._server = server
        self._delivery = delivery
        self._authenticator = authenticator
        self._standings = standings
        self._presence = presence
        self._revocations = revocations
        self._context = context
        self._limits = limits
        self._peers = peers
        self._knocks = BucketCache()
        self._handlers: Mapping[str, Handler] = {**handlers, "auth_refresh": self._auth_refresh}
        self._settings = settings
        self._instance = instance
        self._clock = clock
        self._new_id = new_id
        self._connections: dict[str, _Connection] = {}
        self._by_session: dict[tuple[str, str], dict[str, None]] = {}  # in the order in which they came
        # By user: each session with its connections, from the moment on when they are looked at.
        self._sessions: dict[str, Counter[str]] = {}
        self._budgets = Budgets(settings.events_per_second)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._erased: dict[str, int] = {}  # the epochs of the users that were erased last
        self.draining = False
        self.on_error: Callable[[str], None] = lambda _: None
        self.on_handled: Callable[[str], None] = lambda _: None
        missing = CLIENT_EVENTS.keys() - self._handlers.keys()
        if missing:
            raise ValueError(f"events without a handler: {sorted(missing)}")
        server.on("connect", self._connect)
        server.on("disconnect", self.on_disconnect)
        server.on_accept = lambda environ: self.allow_connection(environ["aiohttp.request"])
        server.on_connected = self.on_connected
        server.on_event = self.on_event
        server.on_malformed = self.malformed
        server.on_poll = self.polled

    @property
    def connections(self) -> int:
        """Authenticated connections of this instance."""
        return len(self._connections)

    @property
    def users(self) -> int:
        """Users with a connection on this instance."""
        return len({one.caller.user_id for one in self._connections.values()})

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- getting in --------------------------------------------------------------------------------------------------

    async def _connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        request = environ["aiohttp.request"]
        try:
            await self.admit(sid, ConnectRequest(request, auth, bearer(request)))
        except HandshakeRefused as refused:
            raise SocketRefused(refused.message, refused.as_data()) from None

    async def admit(self, sid: str, knock: ConnectRequest) -> None:
        """Let a connection in under this id, or raise `Refused`. Nothing reaches it before `greet`."""
        try:
            async with asyncio.timeout(_ADMISSION_S):
                caller, sent = await self._identify(sid, knock)
                await self._authenticate(caller, sent)
        except HandshakeRefused as refused:
            self.on_error(refused.reason)
            raise
        except (StorageUnavailable, TimeoutError):
            raise self._unavailable("The store cannot be reached.") from None
        except Exception:
            error_id = self._new_id()
            log.exception("connect_failed", error_id=error_id)
            raise self._unavailable(f"Something went wrong on our side ({error_id}).") from None

    def _unavailable(self, text: str) -> HandshakeRefused:
        self.on_error("unavailable")
        return HandshakeRefused("unavailable", text, retryable=True, retry_after_ms=2_000)

    async def _identify(self, sid: str, knock: ConnectRequest) -> tuple[Caller, Auth]:
        """Who it is, and what else they sent. The token comes first: of who has none nothing else is looked at."""
        self.refuse_while_draining()
        await self._limits.connection_attempt(self._peers.of(knock.request))
        try:
            if knock.identity is not None:
                await self._authenticator.recheck(knock.identity)
            identity = knock.identity or await self._authenticator.authenticate(token_of(knock.auth) or knock.token)
            sent = parse_auth(knock.auth)
        except InvalidMessage as error:
            code = "session_invalid" if error.field == "auth.session_id" else "auth_invalid"
            raise HandshakeRefused(code, f"The auth payload is refused: {error.field}.") from None
        if sent.user_id is not None and sent.user_id != identity.user_id:
            raise HandshakeRefused("auth_user_mismatch", "The token belongs to another user.")
        if not identity.scopes & {"twin:chat", "twin:profile"}:
            raise HandshakeRefused("auth_forbidden", "The token has no scope for this service.")
        session_id = sent.session_id or knock.request.headers.get("X-Session-ID") or self._new_id()
        if not is_id(session_id):
            raise HandshakeRefused("session_invalid", "A session id has 1 to 128 of A-Z a-z 0-9 . _ : -")
        device = Device(sent.device.name, sent.device.platform, sent.device.app_version)
        return Caller(identity.user_id, session_id, sid, identity, device), sent

    async def _authenticate(self, caller: Caller, sent: Auth) -> None:
        user_id, session_id = caller.user_id, caller.session_id
        await self._limits.connect(user_id)
        # From the first look on the session counts: of many that come at once no more get in than there is room for.
        self._reserve(user_id, session_id)
        is_in = False
        try:
            if not await self._presence.reserve(caller, self._settings.sessions):
                raise self._too_many_sessions()
            await self._delivery.subscribe(user_id)
            connection = await self._load_state(caller, sent)
            self.refuse_while_draining()  # it may have begun since
            if connection.caller.epoch < self._erased.get(user_id, 0):
                raise HandshakeRefused(
                    "unavailable", "Everything was erased just now.", retryable=True, retry_after_ms=500
                )
            self._connections[caller.connection_id] = connection
            self._by_session.setdefault(_session_key(caller), {})[caller.connection_id] = None
            is_in = True
        finally:
            if not is_in:
                self._release(user_id, session_id)
                self._spawn(self._presence.gone(caller))

    def _reserve(self, user_id: str, session_id: str) -> None:
        """Hold a place among the user's sessions of this instance, or raise `Refused`."""
        live = self._sessions.setdefault(user_id, Counter())
        if session_id not in live and len(live) >= self._settings.sessions:
            raise self._too_many_sessions()
        live[session_id] += 1

    def _release(self, user_id: str, session_id: str) -> None:
        live = self._sessions[user_id]
        live[session_id] -= 1
        if not live[session_id]:
            del live[session_id]
        if not live:
            del self._sessions[user_id]

    def _too_many_sessions(self) -> HandshakeRefused:
        self._limits.hit["sessions"] += 1
        return HandshakeRefused(
            "too_many_sessions", "Too many devices are connected.", retryable=True, retry_after_ms=10_000
        )

    def allow_connection(self, request: web.Request) -> bool:
        """Whether a socket may be opened at all. A wall for those who never say who they are; before it each connect
        is counted over all instances, and refused with a code."""
        most = 2 * self._settings.knocks_per_minute
        address = self._peers.of(request)
        # A connect costs some milliseconds: a minute's worth of them is not for one moment.
        is_open = not most or self._knocks.of(address, most / 120, min(most, max(20, most / 8))).take() is None
        self._limits.hit["knocks"] += not is_open
        return is_open

    def refuse_while_draining(self) -> None:
        """Raises `Refused` once this instance sends everybody elsewhere."""
        if self.draining:
            raise HandshakeRefused(
                "draining", "This server goes away: try another.", retryable=True, retry_after_ms=500
            )

    async def _load_state(self, caller: Caller, sent: Auth) -> _Connection:
        standing = await self._standings.of(caller.user_id)
        caller = replace(caller, epoch=standing.epoch)
        if sent.context is not None:
            try:
                await self._context.merge(caller, sent.context)
            except ServiceError as error:
                if isinstance(error, StorageUnavailable):
                    raise
                raise HandshakeRefused("session_invalid", error.message) from None
        bucket = Bucket(self._settings.events_per_second, 2 * self._settings.events_per_second)
        return _Connection(caller, standing, sent.last_seq, bucket, self._budgets.units(caller.user_id))

    def on_connected(self, sid: str) -> None:
        """The client knows that it is connected: greet it before anything else reaches it."""
        connection = self._connections.get(sid)
        if connection is None:
            return
        self._spawn(self._send_session_ready(sid, connection))

    async def _send_session_ready(self, sid: str, connection: _Connection) -> None:
        caller = connection.caller
        sessions = self._session_list(caller, await self._presence.joined(caller))
        if self._connections.get(sid) is not connection:
            return
        self._delivery.to_session(caller, self._session_ready(connection, sessions))
        connection.greeted = True
        self._delivery.join_room(sid, caller.user_id)
        standing = connection.standing
        self._delivery.attach(caller, head=standing.head, last_seq=connection.last_seq, is_answering=standing.is_owed)
        # In one breath with the word that it joined: both go to Redis in one write.
        self._delivery.close_older_connections(caller)
        self._tell_presence(caller, "joined", sessions)
        self._watch_expiry(connection)
        log.info("connected", user=caller.user_id, session=caller.session_id, connection=sid)
        self._schedule(connection)

    def _session_list(self, caller: Caller, live: Sequence[LiveSession]) -> list[dict[str, Any]]:
        known = {one.session_id: one.device for one in live}
        known.update({one.session_id: one.device for one in self._delivery.local_sessions(caller.user_id)})
        listed = [{"session_id": name, "device": device.as_dict()} for name, device in sorted(known.items())]
        return listed[:_LISTED_MAX]

    def _session_ready(self, connection: _Connection, sessions: list[dict[str, Any]]) -> Outgoing:
        caller, settings = connection.caller, self._settings
        payload = {
            "user_id": caller.user_id,
            "session_id": caller.session_id,
            "expires_at": iso(caller.identity.expires_at),
            "seq": connection.standing.head,
            "sessions": sessions or [{"session_id": caller.session_id, "device": caller.device.as_dict()}],
            "heartbeat_interval_ms": settings.heartbeat_interval_ms,
            "limits": {
                "text_characters": TEXT_MAX,
                "envelope_bytes": ENVELOPE_MAX_BYTES,
                "history_page": PAGE_MAX,
                "messages_per_minute": settings.messages_per_minute,
                "events_per_second": settings.events_per_second,
                "sessions": settings.sessions,
            },
            "profile_version": connection.standing.profile_version,
            "server": {"instance": self._instance, "protocol": PROTOCOL_VERSION, "time": iso(self._clock())},
        }
        return Outgoing("session_ready", payload, self._new_id(), self._clock(), caller.session_id)

    def _tell_presence(self, caller: Caller, state: str, sessions: list[dict[str, Any]]) -> None:
        if self._limits.is_shedding:
            return
        payload = {
            "session_id": caller.session_id,
            "state": state,
            "device": caller.device.as_dict(),
            "sessions": sessions,
        }
        told = Outgoing("presence", payload, self._new_id(), self._clock(), caller.session_id)
        self._delivery.to_others(caller, told)

    def on_replace(self, user_id: str, session_id: str, keep: str) -> None:
        """Let go of this session's connections that came before `keep`: of several that come at once, one stays."""
        mine = self._by_session.get((user_id, session_id), {})
        for sid in list(mine):
            if sid == keep:
                return
            connection = self._connections[sid]
            if keep not in mine and sid > keep and monotonic() - connection.connected_at < _SIMULTANEOUS_S:
                # `keep` came to another instance at the same time. There they hear it, too, and decide by the ids.
                self._delivery.close_older_connections(connection.caller)
            else:
                self._spawn(self._server.disconnect(sid))

    def on_erased(self, user_id: str, epoch: int) -> None:
        """The user's data of before this epoch is gone: so are the sessions that began before, and they are not to come
        back by themselves."""
        self._erased[user_id] = max(epoch, self._erased.get(user_id, 0))
        while len(self._erased) > _ERASED_MAX:
            del self._erased[next(iter(self._erased))]
        for sid, connection in list(self._connections.items()):
            if connection.caller.user_id == user_id and connection.caller.epoch < epoch:
                self._spawn(self._server.disconnect(sid))

    def look(self) -> None:
        """Somebody's publishes were lost: compare all feeds with the log."""
        self._spawn(self._delivery.reconcile())

    # -- leaving -----------------------------------------------------------------------------------------------------

    async def on_disconnect(self, sid: str, reason: object = None) -> None:
        """The connection is gone."""
        connection = self._connections.pop(sid, None)
        if connection is None:
            return
        for timer in connection.timers:
            timer.cancel()
        caller = connection.caller
        self._release(caller.user_id, caller.session_id)
        mine = self._by_session[_session_key(caller)]
        del mine[sid]
        if not mine:
            del self._by_session[_session_key(caller)]
        if not connection.greeted:  # nobody would work off what waits
            self._budgets.done(caller.user_id, connection.waiting_bytes)
            connection.waiting.clear()
        self._delivery.detach(caller)
        log.info("disconnected", user=caller.user_id, session=caller.session_id, connection=sid, reason=str(reason))
        self._spawn(self._leave(caller))

    async def _leave(self, caller: Caller) -> None:
        await self._presence.gone(caller)
        sessions = self._session_list(caller, await self._presence.sessions(caller.user_id))
        if all(one["session_id"] != caller.session_id for one in sessions):
            self._tell_presence(caller, "left", sessions)

    async def drain(self, within_s: float, batch: int = 100) -> None:
        """Tell every client to come back later, then close plainly, spread over `within_s`."""
        self.draining = True
        clients = list(self._connections.items())
        for _, connection in clients:
            wait_ms = random.randint(100, max(200, int(within_s * 1000)))
            told = Outgoing("server_draining", {"reconnect_after_ms": wait_ms}, self._new_id(), self._clock())
            self._delivery.to_session(connection.caller, told)
        batches = max(1, -(-len(clients) // batch))
        for start in range(0, len(clients), batch):
            await asyncio.sleep(within_s / batches)  # before, too: the clients are to read the word first
            for sid, _ in clients[start : start + batch]:
                self._server.close(sid, "draining")

    def start(self) -> None:
        """Begin to look after connections."""
        self._spawn(self._watch_revocations())

    async def stop(self) -> None:
        """End the gateway's own tasks."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- expiry ------------------------------------------------------------------------------------------------------

    def _watch_expiry(self, connection: _Connection) -> None:
        for timer in connection.timers:
            timer.cancel()
        left_s = (connection.caller.identity.expires_at - self._clock()).total_seconds()
        loop = asyncio.get_running_loop()
        connection.timers = [
            loop.call_later(max(0.0, left_s - self._settings.auth_expiring_s), self._warn, connection),
            loop.call_later(max(0.0, left_s + self._settings.leeway_s), self._expire, connection),
        ]

    def _warn(self, connection: _Connection) -> None:
        expires_at = connection.caller.identity.expires_at
        told = Outgoing("auth_expiring", {"expires_at": iso(expires_at)}, self._new_id(), self._clock())
        self._delivery.to_session(connection.caller, told)

    def _expire(self, connection: _Connection) -> None:
        if not self._is_expired(connection.caller, self._clock()):
            self._watch_expiry(connection)
            return
        self._tell_error(connection.caller, AuthExpired(), None, None)
        self._server.close(connection.caller.connection_id, "expired")

    def _is_expired(self, caller: Caller, at: datetime) -> bool:
        return (at - caller.identity.expires_at).total_seconds() >= self._settings.leeway_s

    async def _watch_revocations(self) -> None:
        """Look every other second whose token was revoked meanwhile, and let those go for good."""
        while True:
            await asyncio.sleep(_REVOCATIONS_S)
            everybody = list(self._connections.items())
            for start in range(0, len(everybody), 1000):
                some = everybody[start : start + 1000]
                found = await self._revocations.revoked([one.caller.identity for _, one in some])
                for (sid, connection), is_revoked in zip(some, found, strict=True):
                    if is_revoked:
                        log.info("revoked", user=connection.caller.user_id, connection=sid)
                        self._tell_error(connection.caller, AuthExpired(), None, None)
                        self._spawn(self._server.disconnect(sid))

    async def _auth_refresh(self, caller: Caller, sent: Incoming[AuthRefresh]) -> Reply:
        """A fresh token of the same user takes the place of the old one."""
        try:
            identity = await self._authenticator.authenticate(sent.payload.token)
        except HandshakeRefused as refused:
            if refused.reason == auth_expired().reason:
                raise AuthExpired() from None
            raise Forbidden("The token is not accepted.", field="payload.token") from None
        if identity.user_id != caller.user_id:
            raise Forbidden("The token belongs to another user.", field="payload.token")
        connection = self._connections.get(caller.connection_id)
        if connection is not None:
            connection.caller = replace(caller, identity=identity)
            self._watch_expiry(connection)
        payload = {"expires_at": iso(identity.expires_at)}
        return Reply(
            Outgoing("auth_refreshed", payload, self._new_id(), self._clock(), caller.session_id, sent.message_id)
        )

    # -- events ------------------------------------------------------------------------------------------------------

    def on_event(self, sid: str, name: str, args: list[Any], ack_id: int | None, size: int) -> float:
        """An event of `size` bytes, in the order of arrival; what is over the bounds is refused at once. The seconds
        to wait before more is read from this connection: who sends too much is not read."""
        connection = self._connections.get(sid)
        if connection is None:
            return 0.0
        user_id, units = connection.caller.user_id, connection.units
        wait_ms = connection.bucket.take()
        if wait_ms is None:
            wait_ms = units.wait_ms() or None
        if wait_ms is None and (
            len(connection.waiting) >= self._settings.connection_queue
            or not self._budgets.fits(user_id, size, connection.waiting_bytes)
        ):
            wait_ms = 1_000
        if wait_ms is not None:
            self._limits.hit["events"] += 1
            units.spend(cost_of("", size))
            self._reply_error(connection.caller, RateLimited(retry_after_ms=wait_ms), args, ack_id)
        else:
            units.spend(cost_of(name, size))
            connection.waiting.append(_Waiting(name, args, ack_id, size))
            connection.waiting_bytes += size
            self._budgets.waits(user_id, size)
            self._schedule(connection)
        return min(_PAUSE_MAX_S, units.owed_s())

    def malformed(self, sid: str, size: int) -> float:
        """What a client sent is no event. The seconds to wait before more is read from this connection."""
        connection = self._connections.get(sid)
        if connection is None:
            return 0.0
        error: ServiceError = InvalidMessage("The frame is no event: no binary, one name, one envelope.", field="frame")
        wait_ms = connection.bucket.take()
        connection.units.spend(cost_of("", size))
        if wait_ms is not None:
            self._limits.hit["events"] += 1
            error = RateLimited(retry_after_ms=wait_ms)
        self._tell_error(connection.caller, error, None, None)
        return min(_PAUSE_MAX_S, connection.units.owed_s())

    def polled(self, sid: str) -> float:
        """A connection has asked over HTTP, for what there is or with what it sends. The seconds to wait before that
        is answered."""
        connection = self._connections.get(sid)
        if connection is None:
            return 0.0
        connection.units.spend(_POLL_COST)
        return min(_PAUSE_MAX_S, connection.units.owed_s())

    def _schedule(self, connection: _Connection) -> None:
        if connection.greeted and connection.waiting and (connection.worker is None or connection.worker.done()):
            connection.worker = self._spawn(self._drain_queue(connection))

    async def _drain_queue(self, connection: _Connection) -> None:
        caller = connection.caller
        bind_contextvars(user=caller.user_id, session=caller.session_id, connection=caller.connection_id)
        while connection.waiting:
            sent = connection.waiting.popleft()
            connection.waiting_bytes -= sent.size
            name, about = sent.name, _message_id(sent.args) or ""
            bind_contextvars(message=about)
            try:
                with span(_known(name), parent="", user=caller.user_id, connection=caller.connection_id, message=about):
                    await self._handle(connection, name, sent.args, sent.ack_id)
            finally:  # until now it is in memory
                self._budgets.done(caller.user_id, sent.size)

    async def _handle(self, connection: _Connection, name: str, args: list[Any], ack_id: int | None) -> None:
        caller = connection.caller
        try:
            answer = await self._dispatch(caller, name, args)
        except ServiceError as error:
            self._reply_error(caller, error, args, ack_id)
            return
        except Exception:
            error_id = self._new_id()
            log.exception("event_failed", error_id=error_id, event_type=_known(name))
            self._reply_error(caller, ServiceError(), args, ack_id, error_id)
            return
        self.on_handled(name)
        if answer is not None and not answer.already_sent:
            self._delivery.to_session(caller, answer.outgoing)
        if ack_id is not None:
            self._ack(caller, ack_id, answer.outgoing if answer is not None else None)

    async def _dispatch(self, caller: Caller, name: str, args: list[Any]) -> Reply | None:
        sent = parse(name, args)
        if sent.session_id is not None and sent.session_id != caller.session_id:
            raise InvalidMessage("The session_id is not this connection's.", field="metadata.session_id")
        if name != "auth_refresh" and self._is_expired(caller, self._clock()):
            raise AuthExpired()
        scope = CLIENT_EVENTS[name].scope
        if scope is not None and scope not in caller.identity.scopes:
            raise Forbidden()
        if name in EPHEMERAL_EVENTS and self._limits.is_shedding:
            return None
        return await self._handlers[name](caller, sent)

    def _reply_error(
        self, caller: Caller, error: ServiceError, args: list[Any], ack_id: int | None, error_id: str | None = None
    ) -> None:
        outgoing = self._tell_error(caller, error, _message_id(args), error_id)
        if ack_id is not None:
            self._ack(caller, ack_id, outgoing)

    def _tell_error(
        self, caller: Caller, error: ServiceError, in_response_to: str | None, error_id: str | None
    ) -> Outgoing:
        self.on_error(error.code)
        outgoing = Outgoing(
            "error", error_payload(error, error_id), self._new_id(), self._clock(), caller.session_id, in_response_to
        )
        self._delivery.to_session(caller, outgoing)
        return outgoing

    def _ack(self, caller: Caller, ack_id: int, outgoing: Outgoing | None) -> None:
        frame = ack_frame(ack_id, outgoing.envelope() if outgoing is not None else None)
        self._server.write(caller.connection_id, frame)


def _known(name: str) -> str:
    """The event's name where it is one of ours: what else a client writes there goes into no log."""
    return name if name in CLIENT_EVENTS else "unknown"


def _session_key(caller: Caller) -> tuple[str, str]:
    return caller.user_id, caller.session_id


def _message_id(args: list[Any]) -> str | None:
    """The id of what was refused, if it has one that can be repeated."""
    metadata = args[0].get("metadata") if args and isinstance(args[0], dict) else None
    found = metadata.get("message_id") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) and is_id(found) else None

"""From a connection's frame to its handler, and from the handler's reply back to the connection.

`admission` lets clients in, `sessions` keeps connections, `budgets` bounds what one user may queue. `Gateway`, here,
queues events and dispatches them. Its `_handle` is the error boundary of sockets: a `ServiceError` becomes an `error`
event with its code, any other exception `internal` with an id that is in the log. May import handlers and all below.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog
from aiohttp import web
from structlog.contextvars import bind_contextvars

from twin_sio.clock import Clock, NewId
from twin_sio.delivery import Delivery
from twin_sio.domain import Caller
from twin_sio.errors import AuthExpired, Forbidden, InvalidMessage, RateLimited, ServiceError, TooLarge
from twin_sio.gateway.admission import Admission
from twin_sio.gateway.budgets import Budgets
from twin_sio.gateway.sessions import ClientConnection, GatewaySettings, GatewayStats, QueuedEvent, Sessions
from twin_sio.handlers import Reply
from twin_sio.observability.tracing import span
from twin_sio.protocol import CLIENT_EVENTS, EPHEMERAL_EVENTS, Incoming, cost_of, is_id, parse
from twin_sio.services.limits import Limits
from twin_sio.transport import PACKET_MAX_BYTES, ConnectRequest

log = structlog.get_logger("gateway")

Handler = Callable[[Caller, Incoming[Any]], Awaitable[Reply | None]]
_PAUSE_MAX_S = 1.0  # a client that has stopped sending too much is read again within this
_REFUSALS = 8  # times as many refusals as events wait for `session_ready`
_POLL_COST = 2  # units, see `protocol.cost_of`: an HTTP request costs more than its frame


class Gateway:
    """What the transports call (see `transport.TransportHooks`). Each connection has a bounded queue of events, which
    are handled one at a time, in the order of arrival."""

    def __init__(
        self,
        sessions: Sessions,
        admission: Admission,
        budgets: Budgets,
        *,
        delivery: Delivery,
        limits: Limits,
        handlers: Mapping[str, Handler],
        stats: GatewayStats,
        settings: GatewaySettings,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self.sessions = sessions
        self.stats = stats
        self._admission = admission
        self._budgets = budgets
        self._delivery = delivery
        self._limits = limits
        # By event name. `auth_refresh` changes the connection itself, so it is the gateway's own.
        self._handlers: Mapping[str, Handler] = {**handlers, "auth_refresh": admission.auth_refresh}
        self._settings = settings
        self._clock = clock
        self._new_id = new_id
        missing = CLIENT_EVENTS.keys() - self._handlers.keys()
        if missing:
            raise ValueError(f"events without a handler: {sorted(missing)}")

    @property
    def connections(self) -> int:
        """Authenticated connections of this instance."""
        return len(self.sessions)

    @property
    def users(self) -> int:
        """Users with a connection on this instance."""
        return len({connection.caller.user_id for connection in self.sessions.all()})

    def count_error(self, code: str) -> None:
        """A client was refused outside of events, with this code."""
        self.stats.errors[code] += 1

    def start(self) -> None:
        """Begin to look for revoked tokens."""
        self.sessions.background.start(self.sessions.watch_revocations())

    async def stop(self) -> None:
        """End the gateway's own tasks."""
        await self.sessions.background.stop()

    # -- connecting and leaving --------------------------------------------------------------------------------------

    def allow_connection(self, request: web.Request) -> bool:
        return self._admission.allow_connection(request)

    async def check_attempt(self, request: web.Request) -> None:
        """See `Admission.check_attempt`."""
        await self._admission.check_attempt(request)

    async def admit(self, sid: str, asked: ConnectRequest) -> None:
        await self._admission.admit(sid, asked)

    def on_connected(self, sid: str) -> None:
        connection = self.sessions.get(sid)
        if connection is not None:
            self.sessions.background.start(self._greet(connection))

    async def _greet(self, connection: ClientConnection) -> None:
        if await self.sessions.greet(connection):
            self._schedule(connection)  # what was sent before `session_ready`

    async def on_disconnect(self, sid: str, reason: object) -> None:
        connection = self.sessions.remove(sid, reason)
        if connection is not None and not connection.is_ready:  # no worker has begun, and none will
            self._budgets.done(connection.caller.user_id, connection.queued_bytes)
            connection.queue.clear()

    # -- receiving ---------------------------------------------------------------------------------------------------

    def on_event(self, sid: str, name: str, args: list[Any], ack_id: int | None, size: int) -> float:
        """Queue an event; one over the bounds is refused at once, and slows down the reading of its connection."""
        return self._take(sid, QueuedEvent(name, args, _message_id(args), ack_id, size))

    def on_malformed(self, sid: str, size: int, args: Sequence[object] = (), ack_id: int | None = None) -> float:
        """Queue the error, which has its place among the events."""
        error = InvalidMessage("The frame is no event: no binary, one name, one envelope.", field="frame")
        return self._take(sid, QueuedEvent("", [], _message_id(args), ack_id, size, error))

    def _take(self, sid: str, event: QueuedEvent) -> float:
        connection = self.sessions.get(sid)
        if connection is None:
            return 0.0
        user_id, units, size = connection.caller.user_id, connection.units, event.size
        wait_ms = connection.bucket.take()
        if wait_ms is None:
            wait_ms = units.wait_ms() or None
        if wait_ms is None and (
            len(connection.queue) >= self._settings.tuning.connection_queue
            or not self._budgets.fits(user_id, size, connection.queued_bytes)
        ):
            wait_ms = 1_000
        if wait_ms is not None:
            self._limits.hit["events"] += 1
            units.spend(cost_of("", size))  # parsing and refusing is work as well
            # As it is after that: who comes back when told to is not told to come back again.
            error = RateLimited(retry_after_ms=max(wait_ms, units.wait_ms()))
            if connection.is_ready:
                self._reply_error(connection.caller, error, event.message_id, event.ack_id)
            elif len(connection.queue) < _REFUSALS * self._settings.tuning.connection_queue:
                # After `session_ready`; of the event nothing is kept, and of who floods not each refusal.
                connection.queue.append(QueuedEvent("", [], event.message_id, event.ack_id, 0, error))
        else:
            units.spend(cost_of(event.name, size))
            connection.queue.append(event)
            connection.queued_bytes += size
            self._budgets.waits(user_id, size)
            self._schedule(connection)
        return min(_PAUSE_MAX_S, units.owed_s())

    def on_too_long(self, sid: str) -> None:
        connection = self.sessions.get(sid)
        if connection is not None and connection.is_ready:  # `session_ready` comes before any other event
            error = TooLarge(f"A frame has less than {PACKET_MAX_BYTES} bytes.")
            self._reply_error(connection.caller, error)

    def on_poll(self, sid: str, size: int = 0) -> float:
        connection = self.sessions.get(sid)
        if connection is None:
            return 0.0
        connection.units.spend(_POLL_COST + cost_of("", size))
        return min(_PAUSE_MAX_S, connection.units.owed_s())

    # -- dispatch ----------------------------------------------------------------------------------------------------

    def _schedule(self, connection: ClientConnection) -> None:
        if connection.is_ready and connection.queue and (connection.worker is None or connection.worker.done()):
            connection.worker = self.sessions.background.start(self._drain_queue(connection))

    async def _drain_queue(self, connection: ClientConnection) -> None:
        caller = connection.caller
        # A task has a context of its own: these are in every log line of it, and of no other connection.
        bind_contextvars(user=caller.user_id, session=caller.session_id, connection=caller.connection_id)
        while connection.queue:
            event = connection.queue.popleft()
            connection.queued_bytes -= event.size
            name, message_id = _known(event.name), event.message_id or ""
            bind_contextvars(message=message_id)
            try:
                with span(name, parent="", user=caller.user_id, connection=caller.connection_id, message=message_id):
                    await self._handle(connection, event)
            finally:  # until now it is in memory
                self._budgets.done(caller.user_id, event.size)

    async def _handle(self, connection: ClientConnection, event: QueuedEvent) -> None:
        caller, ack_id = connection.caller, event.ack_id
        try:
            if event.refusal is not None:
                raise event.refusal
            reply = await self._dispatch(caller, event.name, event.args)
            self.stats.handled[event.name] += 1
            self._send_reply(caller, reply, ack_id)
            ack_id = None  # is acknowledged once
            if reply is not None and reply.then is not None:
                await reply.then()
        except ServiceError as error:
            self._reply_error(caller, error, event.message_id, ack_id)
        except Exception:
            error_id = self._new_id()
            log.exception("event_failed", error_id=error_id, event_type=_known(event.name))
            self._reply_error(caller, ServiceError(), event.message_id, ack_id, error_id)

    async def _dispatch(self, caller: Caller, name: str, args: list[Any]) -> Reply | None:
        incoming = parse(name, args)
        if incoming.session_id is not None and incoming.session_id != caller.session_id:
            raise InvalidMessage("The session_id is not this connection's.", field="metadata.session_id")
        if name != "auth_refresh" and self.sessions.is_expired(caller, self._clock()):
            raise AuthExpired()
        scope = CLIENT_EVENTS[name].scope
        if scope is not None and scope not in caller.identity.scopes:
            raise Forbidden()
        if name in EPHEMERAL_EVENTS and self._limits.is_shedding:  # overload: nobody misses a typing indicator
            return None
        return await self._handlers[name](caller, incoming)

    def _reply_error(
        self,
        caller: Caller,
        error: ServiceError,
        message_id: str | None = None,
        ack_id: int | None = None,
        error_id: str | None = None,
    ) -> None:
        self._send_reply(caller, Reply(self.sessions.error(caller, error, message_id, error_id)), ack_id)

    def _send_reply(self, caller: Caller, reply: Reply | None, ack_id: int | None) -> None:
        """The one way out for replies: the event to the session, in its place in the log's order where it has one, and
        the acknowledgement if the client asked for it."""
        if reply is not None:
            self._delivery.reply(caller, reply.outgoing, publish=reply.publish, ack_id=ack_id)
        elif ack_id is not None:
            self._delivery.acknowledge(caller, ack_id)


def _known(name: str) -> str:
    """The event's name where the protocol has it: any other text of a client goes into no log."""
    return name if name in CLIENT_EVENTS else "unknown"


def _message_id(args: Sequence[object]) -> str | None:
    """The event's id, if it has one that can be repeated."""
    metadata = args[0].get("metadata") if args and isinstance(args[0], dict) else None
    message_id = metadata.get("message_id") if isinstance(metadata, dict) else None
    return message_id if isinstance(message_id, str) and is_id(message_id) else None

"""Lets connections in: the limit of an address, the token, the session limit, the user's state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog
from aiohttp import web

from twin_sio.auth import Authenticator
from twin_sio.clock import Clock, NewId, iso
from twin_sio.delivery import Delivery
from twin_sio.domain import Caller, Device
from twin_sio.errors import (
    AuthExpired,
    Forbidden,
    HandshakeRefused,
    InvalidMessage,
    ServiceError,
    StorageUnavailable,
)
from twin_sio.gateway.budgets import Budgets
from twin_sio.gateway.sessions import ClientConnection, GatewaySettings, GatewayStats, Sessions
from twin_sio.handlers import Reply
from twin_sio.handlers.context import HostContext
from twin_sio.protocol import Auth, AuthRefresh, Incoming, Outgoing, is_id, parse_auth, token_of
from twin_sio.rate_limit import Bucket, BucketCache
from twin_sio.services.limits import Limits
from twin_sio.store.ports import ConnectSnapshots, Presence
from twin_sio.transport import ConnectRequest
from twin_sio.transport.client_address import TrustedProxies

log = structlog.get_logger("gateway")

_ADMISSION_S = 4.5  # well within the time of a handshake: the refusal reaches the client before its socket is closed


class Admission:
    """Authenticates connections, and the fresh tokens of those that are connected."""

    def __init__(
        self,
        sessions: Sessions,
        budgets: Budgets,
        *,
        delivery: Delivery,
        authenticator: Authenticator,
        snapshots: ConnectSnapshots,
        presence: Presence,
        context: HostContext,
        limits: Limits,
        proxies: TrustedProxies,
        stats: GatewayStats,
        settings: GatewaySettings,
        on_erased: Callable[[str, int], None],
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._sessions = sessions
        self._budgets = budgets
        self._delivery = delivery
        self._authenticator = authenticator
        self._snapshots = snapshots
        self._presence = presence
        self._context = context
        self._limits = limits
        self._proxies = proxies
        self._stats = stats
        self._settings = settings
        self._clock = clock
        self._new_id = new_id
        self._on_erased = on_erased  # with a user and the epoch since an erasure that this instance was not told of
        self._by_address = BucketCache()  # of connection attempts to this instance

    def allow_connection(self, request: web.Request) -> bool:
        """Whether a socket may be opened at all. Bounds clients that never authenticate; each connect
        is also counted over all instances, and refused with a code."""
        most = 2 * self._settings.limits.connects_per_address
        if not most:
            return True
        # A connect costs some milliseconds: a minute's worth of them is not for one moment.
        bucket = self._by_address.of(self._proxies.of(request), most / 120, min(most, max(20, most / 8)))
        if bucket.take() is None:
            return True
        self._limits.hit["sockets"] += 1
        return False

    async def check_attempt(self, request: web.Request) -> None:
        """Count an attempt to connect against its address. Raises `HandshakeRefused`, also while this instance
        drains."""
        self._refuse_while_draining()
        await self._limits.connection_attempt(self._proxies.of(request))

    async def admit(self, sid: str, asked: ConnectRequest) -> None:
        """Let a connection in under this id, or raise `HandshakeRefused`. Nothing is sent to it before
        `session_ready`."""
        try:
            async with asyncio.timeout(_ADMISSION_S):
                caller, auth = await self._identify(sid, asked)
                await self._enter(caller, auth)
        except HandshakeRefused as refused:
            self._stats.errors[refused.reason] += 1
            raise
        except (StorageUnavailable, TimeoutError):
            raise self._unavailable("The store cannot be reached.") from None
        except Exception:
            error_id = self._new_id()
            log.exception("connect_failed", error_id=error_id)
            raise self._unavailable(f"Something went wrong on our side ({error_id}).") from None

    def _unavailable(self, text: str) -> HandshakeRefused:
        self._stats.errors["unavailable"] += 1
        return HandshakeRefused("unavailable", text, retryable=True, retry_after_ms=2_000)

    async def _identify(self, sid: str, asked: ConnectRequest) -> tuple[Caller, Auth]:
        """The caller, and what else it sent. The token is checked first: without one nothing else is read."""
        await self.check_attempt(asked.request)  # before the token: checking a signature costs more
        try:
            if asked.identity is not None:
                await self._authenticator.recheck(asked.identity)
            identity = asked.identity or await self._authenticator.authenticate(token_of(asked.auth) or asked.token)
            auth = parse_auth(asked.auth)
        except InvalidMessage as error:
            code = "session_invalid" if error.field == "auth.session_id" else "auth_invalid"
            raise HandshakeRefused(code, f"The auth payload is refused: {error.field}.") from None
        if auth.user_id is not None and auth.user_id != identity.user_id:
            raise HandshakeRefused("auth_user_mismatch", "The token belongs to another user.")
        if not identity.scopes & {"twin:chat", "twin:profile"}:
            raise HandshakeRefused("auth_forbidden", "The token has no scope for this service.")
        session_id = auth.session_id or asked.request.headers.get("X-Session-ID") or self._new_id()
        if not is_id(session_id):
            raise HandshakeRefused("session_invalid", "A session id has 1 to 128 of A-Z a-z 0-9 . _ : -")
        device = Device(auth.device.name, auth.device.platform, auth.device.app_version)
        return Caller(identity.user_id, session_id, sid, identity, device, frozenset(auth.features)), auth

    async def _enter(self, caller: Caller, auth: Auth) -> None:
        user_id, session_id = caller.user_id, caller.session_id
        await self._limits.connect(user_id)
        # The session counts from here on: of many that connect at once no more get in than the limit allows.
        if not self._sessions.reserve(user_id, session_id):
            raise self._too_many_sessions()
        is_in = False
        try:
            if not await self._presence.reserve(caller, self._settings.limits.sessions):
                raise self._too_many_sessions()
            # Subscribed before the log's head is read: what is stored in between is received, or read.
            await self._delivery.subscribe(user_id)
            connection = await self._load_state(caller, auth)
            self._refuse_while_draining()  # it may have begun since
            if self._sessions.is_erased(connection.caller):
                raise _erased()
            self._sessions.add(connection)
            is_in = True
        finally:
            if not is_in:
                self._sessions.release(user_id, session_id)
                await self._presence.gone(caller)  # before the refusal: the next attempt finds the place free

    def _too_many_sessions(self) -> HandshakeRefused:
        self._limits.hit["sessions"] += 1
        return HandshakeRefused(
            "too_many_sessions", "Too many devices are connected.", retryable=True, retry_after_ms=10_000
        )

    def _refuse_while_draining(self) -> None:
        if self._sessions.draining:
            raise HandshakeRefused(
                "draining", "This server goes away: try another.", retryable=True, retry_after_ms=500
            )

    async def _load_state(self, caller: Caller, auth: Auth) -> ClientConnection:
        snapshot = await self._snapshots.of(caller.user_id)
        if snapshot.is_erasing:  # a client admitted now would be shown what is being deleted
            raise _erased()
        if snapshot.epoch and self._sessions.has_older_connection(caller.user_id, snapshot.epoch):
            self._on_erased(caller.user_id, snapshot.epoch)  # the message about it got lost
        caller = replace(caller, epoch=snapshot.epoch)
        if auth.context is not None:
            try:
                await self._context.merge(caller, auth.context)
            except ServiceError as error:
                if isinstance(error, StorageUnavailable):  # is no fault of the client: it connects again
                    raise
                raise HandshakeRefused("session_invalid", error.message) from None
        bucket = Bucket(self._settings.limits.events_per_second, 2 * self._settings.limits.events_per_second)
        return ClientConnection(caller, snapshot, auth.last_seq, bucket, self._budgets.units(caller.user_id))

    async def auth_refresh(self, caller: Caller, sent: Incoming[AuthRefresh]) -> Reply:
        """A fresh token of the same user replaces the old one."""
        try:
            identity = await self._authenticator.authenticate(sent.payload.token)
        except HandshakeRefused as refused:
            if refused.reason == "auth_expired":
                raise AuthExpired() from None
            raise Forbidden("The token is not accepted.", field="payload.token") from None
        if identity.user_id != caller.user_id:
            raise Forbidden("The token belongs to another user.", field="payload.token")
        self._sessions.renew(caller, identity)
        payload = {"expires_at": iso(identity.expires_at)}
        return Reply(
            Outgoing("auth_refreshed", payload, self._new_id(), self._clock(), caller.session_id, sent.message_id)
        )


def _erased() -> HandshakeRefused:
    return HandshakeRefused("unavailable", "Everything was erased just now.", retryable=True, retry_after_ms=500)

"""What the Socket.IO Admin UI is shown, in its read-only production mode: counts of this instance, and nobody's data.

The UI (https://admin.socket.io, or the page of the npm package `@socket.io/admin-ui`) connects to the namespace /admin
with any user name and the secret as its password. It gets `config` once and `server_stats` every two seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from aiohttp import web

from twin_sio.clock import Clock, monotonic
from twin_sio.errors import HandshakeRefused
from twin_sio.transport import NAMESPACE
from twin_sio.transport.socketio import ADMIN_NAMESPACE, SocketServer

log = structlog.get_logger("admin_ui")

_EVERY_S = 2.0  # between two counts that are sent
_INVALID = "invalid credentials"  # by this text the UI knows to ask for others


class AdminUi:
    """Lets clients with the secret into /admin of one instance; `run` sends them the counts for as long as it runs."""

    def __init__(
        self,
        *,
        secret: str,
        check_attempt: Callable[[web.Request], Awaitable[None]],
        on_refused: Callable[[str], None],
        sockets: Callable[[], int],
        connections: Callable[[], int],
        events_handled: Callable[[], int],
        instance: str,
        clock: Clock,
    ) -> None:
        """`check_attempt` counts an attempt against its address and raises `HandshakeRefused`; `on_refused(code)` is
        called for a wrong secret; the other three read counts: sockets of every transport, authenticated connections,
        events handled so far."""
        self._secret = _digest(secret)  # compared as digests, in a time that does not depend on the secret
        self._check_attempt = check_attempt
        self._on_refused = on_refused
        self._sockets = sockets
        self._connections = connections
        self._events_handled = events_handled
        self._clock = clock
        self._about = {"serverId": instance, "hostname": socket.gethostname(), "pid": os.getpid()}
        self._started_at = monotonic()
        self._counted = {"rawConnection": 0, "rawDisconnection": 0, "packetsIn": 0}  # at the last `server_stats`

    async def run(self, server: SocketServer) -> None:
        """Send the counts to everybody in /admin, again and again; ends by being cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            stats = self._stats(server)
            for admin in tuple(server.admins):  # a copy: `send_to_admin` may end one
                server.send_to_admin(admin, "server_stats", stats)

    async def refusal(self, request: web.Request, auth: object) -> Mapping[str, Any] | None:
        """Why this client may not connect; None: it may."""
        try:
            await self._check_attempt(request)
        except HandshakeRefused as refused:
            return {"message": refused.message, "data": refused.as_data()}
        password = auth.get("password") if isinstance(auth, dict) else None
        if isinstance(password, str) and hmac.compare_digest(_digest(password), self._secret):
            log.info("admin_connected")
            return None
        log.warning("admin_refused")
        self._on_refused("auth_invalid")
        return {"message": _INVALID, "data": {"code": "auth_invalid", "message": _INVALID, "retryable": False}}

    def greeting(self) -> tuple[str, Mapping[str, Any]]:
        """The event by which the UI knows what it can show."""
        return "config", {"supportedFeatures": ["AGGREGATED_EVENTS"]}

    def _stats(self, server: SocketServer) -> dict[str, Any]:
        counts = {
            "rawConnection": server.opened,
            "rawDisconnection": server.closed,
            "packetsIn": self._events_handled(),
        }
        before, self._counted = self._counted, counts
        at = int(self._clock().timestamp()) * 1000
        return {
            **self._about,
            "uptime": monotonic() - self._started_at,
            "clientsCount": self._sockets(),
            "pollingClientsCount": server.polling,
            "aggregatedEvents": [
                {"timestamp": at, "type": what, "count": count - before[what]}
                for what, count in counts.items()
                if count > before[what]
            ],
            "namespaces": [
                {"name": NAMESPACE, "socketsCount": self._connections()},
                {"name": ADMIN_NAMESPACE, "socketsCount": len(server.admins)},
            ],
        }


def _digest(secret: str) -> bytes:
    """Of one length, so that comparing takes as long for every secret."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()

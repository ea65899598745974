"""What the Socket.IO Admin UI is shown, in its read-only production mode: counts of this instance, and nobody's data.

The UI (https://admin.socket.io, or the page of the npm package `@socket.io/admin-ui`) connects to the namespace /admin
with any user name and the secret as its password. It hears `config` once and `server_stats` every two seconds.
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
from twin_sio.gateway import Gateway
from twin_sio.transport.socketio import ADMIN, NAMESPACE, SocketServer

log = structlog.get_logger("adminui")

_EVERY_S = 2.0
_INVALID = "invalid credentials"  # by this text the UI knows to ask for others


class AdminUi:
    """Serves /admin of one instance, for whoever has the secret; `run` tells the counts for as long as it runs."""

    def __init__(
        self,
        server: SocketServer,
        gateway: Gateway,
        *,
        secret: str,
        knock: Callable[[web.Request], Awaitable[None]],
        handled: Callable[[], int],
        instance: str,
        clock: Clock,
    ) -> None:
        """`knock` counts an attempt against its address and raises `Refused`; `handled` is the events so far."""
        self._server = server
        self._gateway = gateway
        self._secret = _digest(secret)
        self._knock = knock
        self._handled = handled
        self._clock = clock
        self._about = {"serverId": instance, "hostname": socket.gethostname(), "pid": os.getpid()}
        self._began = monotonic()
        self._counted = self._count()
        server.on_admin = self._refusal
        server.on_admin_connected = self._greet

    async def run(self) -> None:
        """Tell everybody in /admin the counts, again and again; ends by being cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            told = self._stats()
            for admin in tuple(self._server.admins):
                self._server.send_to_admin(admin, "server_stats", told)

    async def _refusal(self, request: web.Request, auth: object) -> Mapping[str, Any] | None:
        try:
            self._gateway.refuse_while_draining()
            await self._knock(request)
        except HandshakeRefused as refused:
            return {"message": refused.message, "data": refused.as_data()}
        password = auth.get("password") if isinstance(auth, dict) else None
        if isinstance(password, str) and hmac.compare_digest(_digest(password), self._secret):
            log.info("admin_ui_entered")
            return None
        log.warning("admin_ui_refused")
        self._gateway.on_error("auth_invalid")
        return {"message": _INVALID, "data": {"code": "auth_invalid", "message": _INVALID, "retryable": False}}

    def _greet(self, admin: str) -> None:
        self._server.send_to_admin(admin, "config", {"supportedFeatures": ["AGGREGATED_EVENTS"]})

    def _stats(self) -> dict[str, Any]:
        before, self._counted = self._counted, self._count()
        at = int(self._clock().timestamp()) * 1000
        return {
            **self._about,
            "uptime": monotonic() - self._began,
            "clientsCount": self._server.sockets,
            "pollingClientsCount": self._server.polling,
            "aggregatedEvents": [
                {"timestamp": at, "type": what, "count": count - before[what]}
                for what, count in self._counted.items()
                if count > before[what]
            ],
            "namespaces": [
                {"name": NAMESPACE, "socketsCount": self._gateway.connections},
                {"name": ADMIN, "socketsCount": len(self._server.admins)},
            ],
        }

    def _count(self) -> dict[str, int]:
        return {
            "rawConnection": self._server.opened,
            "rawDisconnection": self._server.closed,
            "packetsIn": self._handled(),
        }


def _digest(secret: str) -> bytes:
    """Of one length, so that comparing takes as long for every secret."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()

"""The HTTP application of a process: sockets, REST, probes, metrics, the widget, and in dev the chat page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from aiohttp import web

from twin_sio.http.connections import Connections, guard
from twin_sio.http.dev_page import DevPage
from twin_sio.transport.socketio import SocketServer

T = TypeVar("T")

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WEB = Path(__file__).parents[1] / "web"
# No script and no style within the page, and nothing from elsewhere: what a twin writes can only be shown.
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
# What pages of other origins load: the widget, and what it fetches where a message holds a formula.
_WIDGET = ("/widget.js", "/math.js")


async def _page(request: web.Request) -> web.StreamResponse:
    """A file of the chat page, whose policy allows files of the same origin only."""
    headers = {
        "Content-Security-Policy": _CSP,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        # Asked for again each time, and answered with 304: a new version counts at the next load.
        "Cache-Control": "no-cache",
    }
    return web.FileResponse(_WEB / (request.path[1:] or "index.html"), headers=headers)


async def _widget(request: web.Request) -> web.StreamResponse:
    """A file of the drop-in widget: public, for pages of any origin; TWIN_CORS_ORIGINS lists those that may connect."""
    headers = {
        # A file without secrets; who may connect is decided at the socket.
        "Access-Control-Allow-Origin": "*",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "public, max-age=300",
    }
    return web.FileResponse(_WEB / request.path[1:], headers=headers)


class SharedWork(Generic[T]):
    """Computes one result at a time. It starts after the call, so it is never older than the call.

    All callers that arrive during a computation share the next one.
    """

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._begun = 0
        self._made: tuple[int, T] | None = None  # with the number under which it was begun

    async def __call__(self) -> T:
        asked = self._begun
        async with self._lock:
            if self._made is None or self._made[0] <= asked:
                self._begun += 1
                number = self._begun
                self._made = (number, await self._make())
            return self._made[1]


class Probes:
    """`/healthz`, `/readyz` and `/metrics`. `checks`: for each part that a server needs what is wrong with it, in a
    sentence; empty: nothing."""

    def __init__(
        self,
        render_metrics: Callable[[], Awaitable[bytes]],
        checks: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        # Requests that arrive together share one run.
        self._metrics = SharedWork(render_metrics)
        self._checks = SharedWork(checks) if checks is not None else None
        self._is_draining = is_draining

    def routes(self) -> list[web.RouteDef]:
        """The routes; `/readyz` only where there are checks."""
        readiness = [web.get("/readyz", self._readyz)] if self._checks is not None else []
        return [web.get("/healthz", self._healthz), *readiness, web.get("/metrics", self._show_metrics)]

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        wrong = dict(await self._checks()) if self._checks is not None else {}
        draining = self._is_draining()
        ready = not any(wrong.values()) and not draining
        body: dict[str, object] = {
            "ready": ready,
            **{name: not why for name, why in wrong.items()},
            "draining": draining,
        }
        if any(wrong.values()):
            body["why"] = {name: why for name, why in wrong.items() if why}
        return web.json_response(body, status=200 if ready else 503)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._metrics(), headers={"Content-Type": _METRICS_TYPE})


def server_app(
    sockets: SocketServer,
    connections: Connections,
    probes: Probes,
    routes: Iterable[web.RouteDef],
    *,
    dev: DevPage | None,
) -> web.Application:
    """The server: Socket.IO, `routes`, probes, the widget, and where there is a `dev` page the chat page."""
    app = web.Application(middlewares=[guard(connections, sockets.is_open)])
    sockets.attach(app, socketio_path="socket.io")
    app.router.add_routes([*probes.routes(), *routes])
    app.router.add_routes(web.get(path, _widget) for path in _WIDGET)
    if dev is not None:
        app.router.add_routes(dev.routes())
        app.router.add_get("/", _page)
        for file in _WEB.iterdir():
            if f"/{file.name}" not in _WIDGET:
                app.router.add_get(f"/{file.name}", _page)
    return app


def worker_app(connections: Connections, probes: Probes) -> web.Application:
    """The worker: probes only."""
    app = web.Application(middlewares=[guard(connections, lambda _: False)])
    app.router.add_routes(probes.routes())
    return app

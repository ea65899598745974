"""The HTTP application of a process: sockets, REST, probes, metrics, and in dev the chat page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web

from twin_sio.http.connections import Connections, guard
from twin_sio.http.dev_page import DevPage
from twin_sio.http.shared_work import SharedWork
from twin_sio.http.static import WEB, WIDGET, page, widget
from twin_sio.transport.socketio import SocketServer

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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
    app.router.add_routes(web.get(path, widget) for path in WIDGET)
    if dev is not None:
        app.router.add_routes(dev.routes())
        app.router.add_get("/", page)
        for file in WEB.iterdir():
            if f"/{file.name}" not in WIDGET:
                app.router.add_get(f"/{file.name}", page)
    return app


def worker_app(connections: Connections, probes: Probes) -> web.Application:
    """The worker: probes only."""
    app = web.Application(middlewares=[guard(connections, lambda _: False)])
    app.router.add_routes(probes.routes())
    return app

"""The server process: sockets, HTTP, signals, and its end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from twin_sio import clock
from twin_sio.config import ConfigError, Settings
from twin_sio.errors import StorageUnavailable
from twin_sio.gateway import Gateway
from twin_sio.http.connections import Connections, Runner, Site, guard, raise_descriptor_limit
from twin_sio.http.rest import Rest
from twin_sio.http.shared_work import SharedWork
from twin_sio.http.static import _WIDGET, WEB, _page, _widget
from twin_sio.observability import tracing
from twin_sio.observability.logging import configure_logs
from twin_sio.observability.watchdog import Watchdog
from twin_sio.runtime.dev_engines import DevEngines
from twin_sio.runtime.dev_engines.process import Child, EngineError
from twin_sio.runtime.edges import build_edge_deps, build_gateway, control_messages
from twin_sio.runtime.metrics import CONTENT_TYPE, CommonMetrics, ServerMetrics
from twin_sio.runtime.wiring import (
    Services,
    build_services,
    log,
)
from twin_sio.store import mongo
from twin_sio.store.redis.tickets import RedisTickets
from twin_sio.transport.admin_ui import AdminUi
from twin_sio.transport.client_address import TrustedProxies
from twin_sio.transport.socketio import SocketServer
from twin_sio.transport.websocket import RawWebSocketEndpoint

Print = Callable[[str], None]
_INTERRUPT_PATIENCE_S = 1.0
_STOP_S = 4.5


@contextmanager
def traced_process(settings: Settings, role: str) -> Iterator[None]:
    """Traces of this process, where a collector is set. Raises `ConfigError` where the extra is not installed."""
    if not settings.process.otlp_endpoint:
        yield
        return
    try:
        from twin_sio.observability.otel import OtlpTracer  # only for those who want it
    except ImportError:
        raise ConfigError("OTEL_EXPORTER_OTLP_ENDPOINT needs the extra `otel`: pip install 'twin-sio[otel]'.") from None
    tracer = OtlpTracer(settings.process.otlp_endpoint, role)
    tracing.use(tracer)
    try:
        yield
    finally:
        tracing.use(None)
        tracer.close()


class Service:
    """One running instance of the server."""

    def __init__(
        self,
        settings: Settings,
        parts: Services,
        sockets: SocketServer,
        gateway: Gateway,
        raw: RawWebSocketEndpoint,
        rest: Rest,
        connections: Connections,
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._raw = raw
        self._rest = rest
        self._gateway = gateway
        self._sockets = sockets
        self.connections = connections
        self.metrics = ServerMetrics(parts.watched, gateway, (sockets, raw), parts.load, parts.statistics)
        self.port = 0
        # Asked for together they are made once.
        self._ready = SharedWork(self._check_readiness)
        self._shown = SharedWork(self.metrics.render)

    def routes(self) -> web.Application:
        """The HTTP side: sockets, probes, metrics, and in dev the chat page."""
        app = web.Application(middlewares=[guard(self.connections, self._sockets.is_open)])
        self._sockets.attach(app, socketio_path="socket.io")
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_routes([self._raw.route(), *self._rest.routes()])
        app.router.add_get(_WIDGET, _widget)
        if self._settings.is_dev:
            app.router.add_get("/", _page)
            for file in WEB.iterdir():
                if f"/{file.name}" != _WIDGET:
                    app.router.add_get(f"/{file.name}", _page)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        checks = {**await self._ready(), "draining": self._gateway.sessions.draining}
        ready = checks["mongodb"] and checks["redis"] and not checks["draining"]
        return web.json_response({"ready": ready, **checks}, status=200 if ready else 503)

    async def _check_readiness(self) -> dict[str, bool]:
        checks = {"mongodb": True, "redis": self._parts.delivery.channels.healthy}
        try:
            await mongo.ping(self._parts.db)
        except StorageUnavailable:
            checks["mongodb"] = False
        return checks

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._shown(), headers={"Content-Type": CONTENT_TYPE})

    async def drain(self, patience_s: float) -> None:
        """Take nobody new, send everybody elsewhere, finish or hand over what runs."""
        self._gateway.sessions.draining = True
        answers = asyncio.create_task(self._parts.runner.drain(patience_s))
        await self._gateway.sessions.drain(min(2.0, patience_s))
        await answers


@asynccontextmanager
async def service(settings: Settings) -> AsyncIterator[Service]:
    """A listening instance on `settings.server.host` and `.port` (0: a free one, see `Service.port`)."""
    async with build_services(settings, listen=True) as parts, AsyncExitStack() as stack:
        edges = build_edge_deps(settings, parts)
        stack.push_async_callback(edges.revocations.close)
        gateway = build_gateway(settings, parts, edges)
        gateway.start()
        stack.push_async_callback(gateway.stop)
        parts.delivery.on_control = control_messages(gateway, parts)
        tickets = RedisTickets(parts.delivery.channels.redis)
        connections = Connections(edges.proxies, per_minute=settings.limits.connects_per_address)
        parts.load.also.append(connections.share)
        admin_ui = None
        if settings.server.admin_ui_secret.get_secret_value():
            admin_ui = AdminUi(
                secret=settings.server.admin_ui_secret.get_secret_value(),
                check_attempt=gateway.check_attempt,
                on_refused=gateway.count_error,
                sockets=lambda: sum(transport.open_sockets for transport in (sockets, raw)),
                connections=lambda: gateway.connections,
                events_handled=lambda: gateway.stats.handled.total(),
                instance=parts.delivery.channels.instance,
                clock=clock.now,
            )
        sockets = SocketServer(
            parts.delivery.rooms,
            gateway,
            parts.delivery.connections,
            cors=list(settings.server.cors_origins) or None,
            ping_interval_s=settings.tuning.ping_interval_s,
            ping_timeout_s=settings.tuning.ping_timeout_s,
            handshake_s=settings.tuning.handshake_s,
            frames_per_second=4 * settings.limits.events_per_second,
            on_carries=connections.carries_session,
            admin=admin_ui,
        )
        raw = RawWebSocketEndpoint(
            gateway,
            parts.delivery.connections,
            parts.delivery.rooms,
            redeem=tickets.redeem,
            new_id=clock.new_id,
            origins=settings.server.cors_origins,
            ping_s=settings.tuning.ping_interval_s,
            on_carries=connections.carries_session,
        )
        rest = Rest(
            authenticator=edges.authenticator,
            tickets=tickets,
            limits=parts.limits,
            peers=edges.proxies,
            personal=parts.personal,
            eraser=parts.eraser,
            keeper=parts.keeper,
            statistician=parts.statistician,
            new_id=clock.new_id,
        )
        instance = Service(settings, parts, sockets, gateway, raw, rest, connections)
        if admin_ui is not None:
            sending = asyncio.create_task(admin_ui.run(sockets))
            stack.callback(sending.cancel)
        runner = Runner(instance.routes(), connections, clock.new_id, shutdown_timeout=1.0)
        stack.push_async_callback(_close, sockets, raw, runner)
        watching = asyncio.create_task(parts.load.run())
        stack.callback(watching.cancel)
        await mongo.create_indexes(parts.db)
        kept = {
            "messages": settings.storage.retention_messages_days,
            "evidence": settings.storage.retention_evidence_days,
        }
        await mongo.apply_retention(parts.db, kept)
        parts.runner.start()
        stack.push_async_callback(parts.runner.drain, 0)
        await runner.setup()
        site = Site(runner, settings.server.host, settings.server.port, backlog=1024, ssl_context=_tls(settings))
        await site.start()
        instance.port = runner.addresses[0][1]
        yield instance


@asynccontextmanager
async def probe_server(settings: Settings, metrics: CommonMetrics) -> AsyncIterator[None]:
    """A worker's `/healthz` and `/metrics`, on `settings.server.worker_port`."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=await shown(), headers={"Content-Type": CONTENT_TYPE})

    shown = SharedWork(metrics.render)
    connections = Connections(
        TrustedProxies(settings.server.trusted_proxies), per_minute=settings.limits.connects_per_address
    )
    app = web.Application(middlewares=[guard(connections, lambda _: False)])
    app.router.add_routes([web.get("/healthz", healthz), web.get("/metrics", show)])
    runner = Runner(app, connections, clock.new_id)
    await runner.setup()
    try:
        await Site(runner, settings.server.host, settings.server.worker_port).start()
        yield
    finally:
        await runner.cleanup()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.server.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.server.tls_cert, settings.server.tls_key)
    except (OSError, ssl.SSLError):
        raise ConfigError("TWIN_TLS_CERT and TWIN_TLS_KEY cannot be read, or do not fit each other.") from None
    return context


async def _close(sockets: SocketServer, raw: RawWebSocketEndpoint, runner: web.AppRunner) -> None:
    for transport in (sockets, raw):
        transport.abort_all()
    await sockets.shutdown()
    await runner.cleanup()


async def serve(settings: Settings, say: Print) -> int:
    """Run until a signal: in dev with what has no URL embedded, the worker included. Returns the exit code."""
    configure_logs(settings.process.log_level, for_people=settings.is_dev)
    if settings.auth.has_weak_secret and (settings.storage.mongodb_url or settings.storage.redis_url):
        log.warning("development_secret_counts", meaning="anybody can sign a token for any user: set TWIN_JWT_SECRET")
    raise_descriptor_limit()
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[signal.Signals] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _signalled, asked, number)
    try:
        async with AsyncExitStack() as stack:
            engines: DevEngines | None = None
            if settings.is_dev:
                engines = await stack.enter_async_context(DevEngines(settings, say))
                settings = engines.settings
            stack.enter_context(traced_process(settings, "server"))
            instance = await stack.enter_async_context(service(settings))
            # What is there now stays: the collector need not look at it again, which would take it 0.1 s each time.
            gc.collect()
            gc.freeze()
            if settings.process.watchdog_ms:
                watchdog = Watchdog(settings.process.watchdog_ms)
                watchdog.start()
                stack.callback(watchdog.stop)
            deaths = [asyncio.create_task(engines.wait_for_exit())] if engines else []
            if engines is not None:
                worker = Child("worker", [sys.executable, "-P", "-m", "worker"], env=engines.environment)
                worker.start()
                stack.push_async_callback(asyncio.to_thread, worker.stop)
                deaths.append(asyncio.create_task(_obituary(worker)))
                _print_banner(settings, instance, engines, say)
            else:
                say(f"listening on http://{settings.server.host}:{instance.port}")
            ended: list[asyncio.Future[Any]] = [asked, *deaths]
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
            died = next((task.result() for task in deaths if task.done()), None)
            for task in deaths:
                task.cancel()
            if died is not None and not asked.done():
                say(died)
            patience_s = (
                settings.process.drain_s if asked.done() and asked.result() == signal.SIGTERM else _INTERRUPT_PATIENCE_S
            )
            say("stopping: clients are sent elsewhere, running answers are finished or handed over")
            _exit_after(patience_s + _STOP_S)
            await instance.drain(patience_s)
            return 1 if died is not None and not asked.done() else 0
    except (ConfigError, EngineError) as error:
        say(str(error))
    except StorageUnavailable:
        say("MongoDB cannot be reached: see TWIN_MONGODB_URL.")
    except OSError as error:
        where = f"{settings.server.host}:{settings.server.port}"
        say(f"Cannot listen on {where} ({error.strerror}): set PORT to a free one.")
    return 1


def _signalled(asked: asyncio.Future[signal.Signals], number: signal.Signals) -> None:
    if asked.done():
        os._exit(130)  # asked twice: at once; embedded engines die with this process
    asked.set_result(number)


def _exit_after(seconds: float) -> None:
    """End the process then, whatever hangs: a store that does not answer, a thread that waits for one."""
    deadline = threading.Timer(seconds, os._exit, [1])
    deadline.daemon = True
    deadline.start()


async def _obituary(child: Child) -> str:
    await child.wait()
    return child.exit_summary()


def _print_banner(settings: Settings, instance: Service, engines: DevEngines, say: Print) -> None:
    from twin_sio.dev_tokens import create_token  # only a developer's server mints tokens

    token = create_token("ada", settings.auth.jwt_secret.get_secret_value(), ttl_s=86_400)
    url = f"http://{settings.server.host}:{instance.port}"
    say("")
    say(f"  Chat page   {url}/#token={token}")
    command = Path(sys.executable).with_name("twin-sio")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    say(f"  Terminal    {shown} chat --url {url} --token {token}")
    say("")
    if "OPENAI_BASE_URL" in engines.environment:
        say("  The answers come from a tiny local model: real, and not bright. For a bright one:")
        say("    OpenAI                   OPENAI_API_KEY=sk-... make run")
        say("    an endpoint like it      OPENAI_BASE_URL=... OPENAI_API_KEY=... TWIN_MODEL=... make run")
    else:
        say(f"  The answers come from {settings.model.name or 'gpt-4o-mini'}.")
    say("  Ctrl-C stops everything that was started here; the conversation is kept.")

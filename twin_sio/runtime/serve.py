"""The server process: sockets, HTTP, signals, and its end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from twin_sio import clock
from twin_sio.agent.model import OpenAIModel
from twin_sio.config import DEFAULT_MODEL, ConfigError, Settings
from twin_sio.errors import StorageUnavailable
from twin_sio.gateway import Gateway
from twin_sio.http.app import Probes, server_app
from twin_sio.http.connections import Connections, Runner, Site, raise_descriptor_limit
from twin_sio.http.dev_page import DevPage
from twin_sio.http.rest import Rest
from twin_sio.observability import tracing
from twin_sio.observability.limited_log import LimitedLog
from twin_sio.observability.logging import configure_logs
from twin_sio.observability.watchdog import Watchdog
from twin_sio.redis_connection import TIMEOUT_S
from twin_sio.runtime.dev_engines import DevEngines, Print
from twin_sio.runtime.dev_engines.process import Child, EngineError
from twin_sio.runtime.edges import build_edge_deps, build_gateway
from twin_sio.runtime.instance_messages import InstanceMessages
from twin_sio.runtime.local_models import LocalModels
from twin_sio.runtime.metrics import ServerMetrics
from twin_sio.runtime.model_check import what_is_wrong
from twin_sio.runtime.ports import check_address, listening, shown_address, tls_context
from twin_sio.runtime.services import ServerHooks, Services
from twin_sio.runtime.wiring import build_services, log
from twin_sio.store import mongo
from twin_sio.store.redis.tickets import RedisTickets
from twin_sio.transport import Transport
from twin_sio.transport.admin_ui import AdminUi
from twin_sio.transport.ag_ui import AgUiEndpoint
from twin_sio.transport.origins import Origins
from twin_sio.transport.socketio import SocketServer
from twin_sio.transport.websocket import RawWebSocketEndpoint

_INTERRUPT_TIMEOUT_S = 1.0  # for running answers after Ctrl-C: who presses it waits for the prompt
_SWITCH_S = 0.0005  # after which a thread that computes releases the GIL; by default 5 ms
_STOP_S = 4.5  # for the rest of the stop; orchestrators kill after some seconds more


@contextmanager
def traced_process(settings: Settings, role: str) -> Iterator[None]:
    """Trace this process if a collector is configured. Raises `ConfigError` if the extra is not installed."""
    if not settings.process.otlp_endpoint:
        yield
        return
    try:
        from twin_sio.observability.otel import OtlpTracer  # an optional extra
    except ImportError:
        raise ConfigError("OTEL_EXPORTER_OTLP_ENDPOINT needs the extra `otel`: pip install 'twin-sio[otel]'.") from None
    tracer = OtlpTracer(settings.process.otlp_endpoint, role)
    tracing.use(tracer)
    try:
        yield
    finally:
        tracing.use(None)
        tracer.close()


def _tune_interpreter() -> None:
    """Make the event loop wait less for the interpreter's lock (GIL), and for full garbage collections."""
    # At each turn the loop lets go of the interpreter and waits so long for it again where a thread computes.
    sys.setswitchinterval(_SWITCH_S)
    # These objects live as long as the process: without them a full collection takes 0.1 s less.
    gc.collect()
    gc.freeze()


class Service:
    """One running instance of the server."""

    def __init__(
        self,
        services: Services,
        gateway: Gateway,
        sockets: SocketServer,
        raw: RawWebSocketEndpoint,
        ag_ui: AgUiEndpoint,
        rest: Rest,
        connections: Connections,
    ) -> None:
        self.services = services
        self.gateway = gateway
        self.sockets = sockets
        self.raw = raw
        self.ag_ui = ag_ui
        self.rest = rest
        self.connections = connections
        self.metrics = ServerMetrics(services, gateway, (sockets, raw, ag_ui))
        self._log_mongodb = LimitedLog("app", "mongodb_unavailable")
        # The port that it listens on; 0 before it does.
        self.port = 0

    def app(self, dev: DevPage | None) -> web.Application:
        """Its HTTP application; see `server_app`."""
        probes = Probes(self.metrics.render, self._check_readiness, lambda: self.gateway.sessions.draining)
        routes = [self.raw.route(), *self.ag_ui.routes(), *self.rest.routes()]
        return server_app(self.sockets, self.connections, probes, routes, dev=dev)

    async def _check_readiness(self) -> dict[str, str]:
        wrong = {"mongodb": "", "redis": self.services.delivery.channels.problem}
        try:
            await mongo.ping(self.services.db)
        except StorageUnavailable as error:
            failure = mongo.explain(error)
            wrong["mongodb"] = failure.sentence
            self._log_mongodb(failure.kind, meaning=failure.sentence)
        return wrong

    async def drain(self, timeout_s: float) -> None:
        """Accept nobody new, send clients elsewhere, finish running answers or hand them over."""
        # First, so that readiness fails and load balancers send nobody new while the rest is told.
        self.gateway.sessions.draining = True
        answers = asyncio.create_task(self.services.runner.drain(timeout_s))
        await self.gateway.sessions.drain(min(2.0, timeout_s))
        await answers


@asynccontextmanager
async def service(settings: Settings, local_models: LocalModels | None = None) -> AsyncIterator[Service]:
    """A listening instance on `settings.server.host` and `.port` (0: a free one, see `Service.port`)."""
    # The services are made before what they call here: the names are looked up when something comes.
    hooks = ServerHooks(
        on_control=lambda message: messages.on_control(message),
        on_erased=lambda user_id, epoch: messages.on_erased(user_id, epoch),
        load=lambda: connections.share(),
    )
    async with build_services(settings, hooks) as services, AsyncExitStack() as stack:
        edges = build_edge_deps(settings, services)
        stack.push_async_callback(edges.revocations.close)
        gateway = build_gateway(settings, services, edges)
        gateway.start()
        stack.push_async_callback(gateway.stop)
        messages = InstanceMessages(services, gateway)
        tickets = RedisTickets(services.delivery.channels.redis)
        connections = Connections(edges.proxies, per_minute=settings.limits.connects_per_address)
        # Only now, since messages of other instances may come from here on.
        await services.delivery.start()
        admin_ui = None
        if settings.server.admin_ui_secret.get_secret_value():
            admin_ui = AdminUi(
                secret=settings.server.admin_ui_secret.get_secret_value(),
                check_attempt=gateway.check_attempt,
                on_refused=gateway.count_error,
                sockets=lambda: sum(transport.open_sockets for transport in (sockets, raw, ag_ui)),
                connections=lambda: gateway.connections,
                events_handled=lambda: gateway.stats.handled.total(),
                instance=services.delivery.channels.instance,
                clock=clock.now,
            )
        origins = Origins(settings.server.cors_origins)
        sockets = SocketServer(
            services.delivery.rooms,
            gateway,
            services.delivery.connections,
            origins=origins,
            ping_interval_s=settings.tuning.ping_interval_s,
            ping_timeout_s=settings.tuning.ping_timeout_s,
            handshake_s=settings.tuning.handshake_s,
            frames_per_second=4 * settings.limits.events_per_second,
            on_carries=connections.carries_session,
            admin=admin_ui,
        )
        raw = RawWebSocketEndpoint(
            gateway,
            services.delivery.connections,
            services.delivery.rooms,
            redeem=tickets.redeem,
            new_id=clock.new_id,
            origins=origins,
            ping_s=settings.tuning.ping_interval_s,
            on_carries=connections.carries_session,
        )
        ag_ui = AgUiEndpoint(
            gateway,
            services.delivery.connections,
            services.delivery.rooms,
            new_id=clock.new_id,
            origins=origins,
            ping_s=settings.tuning.ping_interval_s,
            on_carries=connections.carries_session,
        )
        rest = Rest(
            authenticator=edges.authenticator,
            tickets=tickets,
            limits=services.limits,
            proxies=edges.proxies,
            personal=services.personal,
            erasure=services.erasure,
            profile=services.profile_service,
            statistics=services.statistics_service,
            searched=services.search,
            new_id=clock.new_id,
        )
        instance = Service(services, gateway, sockets, raw, ag_ui, rest, connections)
        if admin_ui is not None:
            sending = asyncio.create_task(admin_ui.run(sockets))
            stack.callback(sending.cancel)
        app = instance.app(_dev_page(settings, local_models or LocalModels()) if settings.is_dev else None)
        runner = Runner(app, connections, clock.new_id, shutdown_timeout=1.0)
        stack.push_async_callback(_close, sockets, (raw, ag_ui), runner)
        watching = asyncio.create_task(services.load.run())
        stack.callback(watching.cancel)
        # Before anybody is served: the order of the log and the harmlessness of repeats are the indexes'.
        await mongo.create_indexes(services.db)
        retention = {
            "messages": settings.storage.retention_messages_days,
            "evidence": settings.storage.retention_evidence_days,
        }
        await mongo.apply_retention(services.db, retention)
        services.runner.start()
        stack.push_async_callback(services.runner.drain, 0)
        # The port opens last: what connects is served.
        await _first_probe(services)
        await runner.setup()
        site = Site(runner, settings.server.host, settings.server.port, backlog=1024, ssl_context=tls_context(settings))
        async with listening(settings.server.host, settings.server.port, "PORT"):
            await site.start()
        instance.port = runner.addresses[0][1]
        yield instance


async def _first_probe(services: Services) -> None:
    """Wait for Redis to return the first probe, a second at most: probes of the first moment then find it ready."""
    with suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT_S):
            while services.delivery.channels.problem:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.005)


async def _close(sockets: SocketServer, others: Iterable[Transport], runner: web.AppRunner) -> None:
    for transport in (sockets, *others):
        transport.abort_all()
    await sockets.shutdown()
    await runner.cleanup()


async def serve(settings: Settings, print_line: Print, local_models: LocalModels | None = None) -> int:
    """Run until a signal; in dev with embedded engines for those without a URL, and a worker. Returns the exit code.

    `local_models`: what is looked for where a development server would answer with the tiny model."""
    configure_logs(settings.process.log_level, for_people=settings.is_dev)
    if settings.auth.takes_development_secret and (settings.storage.mongodb_url or settings.storage.redis_url):
        log.warning("development_secret_counts", meaning="anybody can sign a token for any user: set TWIN_JWT_SECRET")
    raise_descriptor_limit()
    loop = asyncio.get_running_loop()
    stop_signal: asyncio.Future[signal.Signals] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Before the start, which may take long: Ctrl-C ends it, too.
        loop.add_signal_handler(number, _on_signal, stop_signal, number)
    try:
        await check_address(settings.server.host, settings.server.port, "PORT")  # before the engines, which take long
        async with AsyncExitStack() as stack:
            engines: DevEngines | None = None
            local_models = local_models or LocalModels()
            if settings.is_dev:
                if not settings.model.base_url and not settings.model.api_key.get_secret_value():
                    # Beside the start, which takes longer.
                    looking = asyncio.create_task(local_models.look())
                    stack.callback(looking.cancel)
                engines = await stack.enter_async_context(DevEngines(settings, print_line))
                settings = engines.settings
            stack.enter_context(traced_process(settings, "server"))
            instance = await stack.enter_async_context(service(settings, local_models))
            _tune_interpreter()
            if settings.process.watchdog_ms:
                watchdog = Watchdog(settings.process.watchdog_ms)
                watchdog.start()
                stack.callback(watchdog.stop)
            exits = [asyncio.create_task(engines.wait_for_exit())] if engines else []
            if engines is not None:
                # -P: a worker.py in the user's folder is not ours.
                worker = Child("worker", [sys.executable, "-P", "-m", "worker"], env=engines.environment)
                worker.start()
                stack.push_async_callback(asyncio.to_thread, worker.stop)
                exits.append(asyncio.create_task(_exit_summary(worker)))
                _print_banner(settings, instance, engines, local_models, print_line)
            else:
                print_line(f"listening on http://{shown_address(settings.server.host, instance.port)}")
            if engines is None or "OPENAI_BASE_URL" not in engines.environment:
                asking = asyncio.create_task(_check_model(instance.services.model))
                stack.callback(asking.cancel)
            ended: list[asyncio.Future[Any]] = [stop_signal, *exits]
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
            exited = next((task.result() for task in exits if task.done()), None)
            for task in exits:
                task.cancel()
            if exited is not None and not stop_signal.done():
                print_line(exited)
            timeout_s = (
                settings.process.drain_s
                if stop_signal.done() and stop_signal.result() == signal.SIGTERM
                else _INTERRUPT_TIMEOUT_S
            )
            print_line("stopping: clients are sent elsewhere, running answers are finished or handed over")
            _exit_after(timeout_s + _STOP_S)
            await instance.drain(timeout_s)
            return 1 if exited is not None and not stop_signal.done() else 0
    except (ConfigError, EngineError) as error:
        print_line(str(error))
    except StorageUnavailable as error:
        print_line(mongo.explain(error).sentence)
    except OSError as error:
        print_line(f"The start failed: {error.strerror or type(error).__name__}.")
    return 1


def _on_signal(stop_signal: asyncio.Future[signal.Signals], number: signal.Signals) -> None:
    if stop_signal.done():
        os._exit(130)  # a second signal: exit at once; embedded engines die with this process
    stop_signal.set_result(number)


def _exit_after(seconds: float) -> None:
    """Exit after so long in any case: a store may hang, and a thread may wait for it."""
    deadline = threading.Timer(seconds, os._exit, [1])
    deadline.daemon = True
    deadline.start()


async def _exit_summary(child: Child) -> str:
    await child.wait()
    return child.exit_summary()


async def _check_model(model: OpenAIModel) -> None:
    """Say in a line what is wrong with the model's endpoint, if anything is; the service starts all the same."""
    if (failure := await model.check()) is not None:
        wrong, advice = what_is_wrong(failure)
        log.warning(
            "model_check_failed",
            meaning=f"{wrong}: {advice}",
            code=failure.code,
            status=failure.status,
            error=failure.error,
            request_id=failure.request_id,
            host=model.host,
            model=model.name,
        )


def _dev_token(settings: Settings) -> Callable[[], str]:
    from twin_sio.dev_tokens import create_token  # only a development server signs tokens

    return lambda: create_token("ada", settings.auth.jwt_secret.get_secret_value(), ttl_s=86_400)


def _dev_page(settings: Settings, local_models: LocalModels) -> DevPage:
    return DevPage(_dev_token(settings), lambda: local_models.offers(_start_command()))


def _start_command() -> str:
    return "make run" if Path("Makefile").is_file() else "twin-sio up"


def _print_banner(
    settings: Settings, instance: Service, engines: DevEngines, local_models: LocalModels, print_line: Print
) -> None:
    token = _dev_token(settings)()
    url = f"http://{shown_address(settings.server.host, instance.port)}"
    print_line("")
    print_line(f"  Chat page   {url}/#token={token}")
    command = Path(sys.executable).with_name("twin-sio")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    print_line(f"  Terminal    {shown} chat --url {url} --token {token}")
    print_line("")
    if "OPENAI_BASE_URL" in engines.environment:
        print_line("  The answers come from a tiny local model: real, and not bright. For a bright one:")
        for line in local_models.lines(start := _start_command()):
            print_line(f"    {line}")
        print_line(f"    OpenAI                   OPENAI_API_KEY=sk-... {start}")
        print_line(f"    an endpoint like it      OPENAI_BASE_URL=... OPENAI_API_KEY=... TWIN_MODEL=... {start}")
    else:
        print_line(f"  The answers come from {settings.model.name or DEFAULT_MODEL}.")
    print_line("  Ctrl-C stops everything that was started here; the conversation is kept.")

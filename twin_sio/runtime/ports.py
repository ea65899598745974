"""The ports that a process listens on: what is wrong with an address, TLS, and a worker's own port."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twin_sio import clock
from twin_sio.config import ConfigError, Settings
from twin_sio.http.app import Probes, worker_app
from twin_sio.http.connections import Connections, Runner, Site
from twin_sio.runtime.metrics import CommonMetrics
from twin_sio.transport.client_address import TrustedProxies


@asynccontextmanager
async def listening(host: str, port: int, variable: str) -> AsyncIterator[None]:
    """What is wrong with the address, in a sentence of a `ConfigError`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EACCES:
            advice = f"a port under 1024 takes rights that this user has not: set {variable} to a higher one"
        elif isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            advice = "TWIN_HOST must be an address of this machine, as 127.0.0.1, 0.0.0.0 or ::"
        else:
            advice = f"set {variable} to a free one"
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else "the name has no address"
        raise ConfigError(f"Cannot listen on {shown_address(host, port)} ({why}): {advice}.") from None


async def check_address(host: str, port: int, variable: str) -> None:
    """Raise `ConfigError` where nobody could listen there now."""
    async with listening(host, port, variable):
        loop = asyncio.get_running_loop()
        plain = host.strip("[]")  # an IPv6 address may stand in brackets
        (await loop.create_server(asyncio.Protocol, plain, port, start_serving=False)).close()


def shown_address(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    plain = host.strip("[]")
    return f"[{plain}]:{port}" if ":" in plain else f"{plain}:{port}"


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The service's own certificate, where no proxy terminates TLS. Raises `ConfigError` for one that is none."""
    if settings.server.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.server.tls_cert, settings.server.tls_key)
    except (OSError, ssl.SSLError):
        raise ConfigError("TWIN_TLS_CERT and TWIN_TLS_KEY cannot be read, or do not fit each other.") from None
    return context


@asynccontextmanager
async def probe_server(settings: Settings, metrics: CommonMetrics) -> AsyncIterator[None]:
    """A worker's `/healthz` and `/metrics`, on `settings.server.worker_port`."""
    connections = Connections(
        TrustedProxies(settings.server.trusted_proxies), per_minute=settings.limits.connects_per_address
    )
    runner = Runner(worker_app(connections, Probes(metrics.render)), connections, clock.new_id)
    await runner.setup()
    try:
        async with listening(settings.server.host, settings.server.worker_port, "TWIN_WORKER_PORT"):
            await Site(runner, settings.server.host, settings.server.worker_port).start()
        yield
    finally:
        await runner.cleanup()

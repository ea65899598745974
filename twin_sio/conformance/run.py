"""The scripted server as a program: it listens, plays the script once, and prints each verdict as a JSON line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TextIO

import orjson
import socketio
from aiohttp import web

from twin_sio.conformance.rules import RULES, Verdict
from twin_sio.conformance.script import Script
from twin_sio.conformance.server import ScriptedServer
from twin_sio.dev_tokens import DEV_SECRET, create_token
from twin_sio.domain import Json
from twin_sio.transport import ConnectionRegistry
from twin_sio.transport.origins import Origins
from twin_sio.transport.socketio import SocketServer

_ARRIVAL_S = 60.0


@asynccontextmanager
async def conformance_server(
    port: int, limit_s: float, arrival_s: float, kind: Callable[[ConnectionRegistry], ScriptedServer] = ScriptedServer
) -> AsyncIterator[tuple[str, Script]]:
    """The server, on the loopback address (port 0: a free one): its URL, and the script to play."""
    connections = ConnectionRegistry()
    scripted = kind(connections)
    server = SocketServer(
        socketio.AsyncManager(),
        scripted,
        connections,
        origins=Origins(()),
        ping_interval_s=25,
        ping_timeout_s=20,
        handshake_s=10,
    )
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", Script(scripted, limit_s, arrival_s)
    finally:
        server.abort_all()
        await runner.cleanup()


async def run(port: int, limit_s: float, out: TextIO) -> None:
    """Play the script for the first client that connects, and print JSON lines to `out`.

    `{type: "listening", url, token}`, a `{type: "rule", rule, passed, observed, must, fix}` for each rule, and
    `{type: "end", passed, failed}`.
    """

    def write(line: Json) -> None:
        print(orjson.dumps(line).decode(), file=out, flush=True)

    failed = 0
    async with conformance_server(port, limit_s, _ARRIVAL_S) as (url, script):
        write({"type": "listening", "url": url, "token": create_token("conformance", DEV_SECRET)})
        async for verdict in script.play():
            failed += not verdict.passed
            write(_rule_line(verdict))
    write({"type": "end", "passed": len(RULES) - failed, "failed": failed})


def _rule_line(verdict: Verdict) -> Json:
    rule = verdict.rule
    return {
        "type": "rule",
        "rule": rule.name,
        "passed": verdict.passed,
        "observed": verdict.observed,
        "must": rule.must,
        "fix": rule.fix,
    }

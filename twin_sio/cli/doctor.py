"""`twin-sio doctor`: what a client needs, looked at one by one, each with what to do where it fails."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from statistics import median, quantiles
from typing import Any

import aiohttp
import orjson
from jose import jwt
from jose.exceptions import JOSEError

from twin_sio.cli.batch import explain
from twin_sio.cli.printable import Output
from twin_sio.cli.target import Target
from twin_sio.client import ClientError, TwinClient
from twin_sio.clock import monotonic, now
from twin_sio.domain import Json
from twin_sio.protocol import PROTOCOL_VERSION

_HTTP_S = 5.0
_ROUND_TRIPS = 20
_SKEW_MAX_S = 5.0
_SLOW_MS = 1_000


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: `text` is what was found, `advice` what to do where it is not as it must be."""

    check: str
    ok: bool
    text: str
    advice: str = ""


async def examine(target: Target, send: bool, as_json: bool, out: Output) -> bool:
    """Print a line for each check as it is made; whether all went well."""
    well = True
    async for check in checks(target, send):
        well = well and check.ok
        print(orjson.dumps(asdict(check)).decode() if as_json else _line(check), file=out, flush=True)
    return well


def _line(check: Check) -> str:
    said = ("note" if check.advice else "ok") if check.ok else "FAILED"
    head = f"{said:<6}  {check.check:<11} {check.text}"
    return head + (f"\n{' ' * 20}{check.advice}" if check.advice else "")


async def examine_server(what: str, as_json: bool, out: Output) -> bool:
    """Look at the `model`, or the settings and each `engine`, of the environment, in a process of the service's own;
    whether all is well."""
    command = (sys.executable, "-P", "-m", f"twin_sio.runtime.{what}_check")
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        async for line in process.stdout:
            said = orjson.loads(line)
            if "progress" not in said:
                check = Check(**said)
                print(orjson.dumps(asdict(check)).decode() if as_json else _line(check), file=out, flush=True)
            elif not as_json and sys.stderr.isatty():
                print(f"\r        reading  {said['progress']} of {said['of']}", end="\r", file=sys.stderr, flush=True)
        return await process.wait() == 0
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def checks(target: Target, send: bool) -> AsyncIterator[Check]:
    """All checks, in the order in which one thing needs the other; what cannot be looked at any more is left out."""
    address, server_time = await _address(target)
    yield address
    if address.ok:
        yield await _ready(target)
    yield _token(target.a_token(), server_time or now())
    if not address.ok:
        return
    for transport in ("polling", "websocket"):
        try:
            async with _connected(target, transport) as (client, took_ms, received_at):
                yield Check(transport, True, f"connected in {took_ms:.0f} ms as {client.state.session['user_id']}")
                if transport == "websocket":
                    async for check in _session(client, received_at, send):
                        yield check
        except ClientError as error:
            yield Check(transport, False, *_two_lines(error, transport))


async def _get(target: Target, path: str) -> tuple[int, Any, str | None]:
    """Status, JSON (None: it was none) and `Date` of an HTTP GET; raises `aiohttp.ClientError` and `TimeoutError`."""
    base = "http" + target.url.removeprefix("ws") if target.url.startswith("ws") else target.url
    timeout = aiohttp.ClientTimeout(total=_HTTP_S)
    async with aiohttp.ClientSession(timeout=timeout) as http, http.get(base.rstrip("/") + path) as response:
        raw = await response.read()
        body: Any = None
        with suppress(ValueError):
            body = orjson.loads(raw)
        return response.status, body, response.headers.get("Date")


async def _address(target: Target) -> tuple[Check, datetime | None]:
    """Whether the service responds, and its clock."""
    try:
        status, body, date = await _get(target, "/healthz")
    except (aiohttp.ClientError, TimeoutError, ValueError) as fault:
        advice = "Start the service (make run, or python server.py), or set its address: --url or TWIN_URL."
        return Check("address", False, f"{target.url} does not answer ({type(fault).__name__})", advice), None
    at = parsedate_to_datetime(date) if date else None
    if status != 200 or not isinstance(body, dict) or body.get("status") != "ok":
        text = f"{target.url}/healthz answers {status}, and not as twin_sio does"
        return Check("address", False, text, "Another service listens there, or a proxy is in between."), at
    return Check("address", True, f"{target.url} answers"), at


async def _ready(target: Target) -> Check:
    try:
        status, body, _ = await _get(target, "/readyz")
    except (aiohttp.ClientError, TimeoutError):
        return Check("ready", False, "/readyz does not answer", "Look at the server's log.")
    if status == 200:
        return Check("ready", True, "it can serve")
    body = body if isinstance(body, dict) else {}
    if body.get("draining"):
        return Check("ready", False, "it is draining", "Wait for its successor.")
    missing = ", ".join(name for name in ("mongodb", "redis") if body.get(name) is False) or "something"
    why = body.get("why")
    reasons = " ".join(str(one) for one in why.values()) if isinstance(why, dict) else ""
    advice = reasons or "Look at that engine, then at the server's log."
    return Check("ready", False, f"the server does not reach {missing}", advice)


def _token(token: str, at: datetime) -> Check:
    """What the token says of itself, by the server's time; whether the signature holds only the server can say."""
    make = "Make one: twin-sio token --sub ada (for development), or ask the host application's backend."
    try:
        claims = jwt.get_unverified_claims(token)
    except JOSEError:
        return Check("token", False, "it is no JWT", make)
    sub, ends = claims.get("sub"), claims.get("exp")
    if not isinstance(sub, str) or not sub or not isinstance(ends, int | float):
        return Check("token", False, "it has no sub, or no exp: both are required", make)
    left = ends - at.timestamp()
    if left <= 0:
        return Check("token", False, f"it ended {-left:.0f} s ago by the server's clock", make)
    if isinstance(claims.get("nbf"), int | float) and claims["nbf"] > at.timestamp() + _SKEW_MAX_S:
        return Check("token", False, "it is not good yet (nbf)", "Wait, or set the issuer's clock.")
    scopes = claims.get("scope") or " ".join(claims.get("scp") or ()) or "none claimed: the server's default"
    return Check("token", True, f"sub {sub}, {left:.0f} s left, scopes {scopes}")


@asynccontextmanager
async def _connected(target: Target, transport: str) -> AsyncIterator[tuple[TwinClient, float, datetime]]:
    began = monotonic()
    async with target.client("doctor", session="", transports=(transport,)) as client:
        yield client, (monotonic() - began) * 1000, now()


def _two_lines(error: ClientError, transport: str) -> tuple[str, str]:
    text, _, advice = explain(error).partition("\n")
    if not advice or "Start the service" in advice:
        advice = f"A proxy may not let {transport} through: see that /socket.io/ is passed on, upgrades too."
    return text, advice.replace("\n", " ")


async def _session(client: TwinClient, received_at: datetime, send: bool) -> AsyncIterator[Check]:
    server: Json = client.state.session.get("server", {})
    yield _version(server)
    yield _clock(server, received_at)
    yield await _round_trip(client)
    if send:
        yield await _message(client)


def _version(server: Json) -> Check:
    spoken = server.get("protocol")
    if spoken == PROTOCOL_VERSION:
        return Check("version", True, f"both speak protocol {spoken}")
    text = f"the server speaks protocol {spoken}, this client {PROTOCOL_VERSION}"
    return Check("version", False, text, "Install the twin-sio that belongs to the server.")


def _clock(server: Json, here: datetime) -> Check:
    try:
        skew = (here - datetime.fromisoformat(server["time"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return Check("clock", False, "the server does not report its time", "Install the twin-sio that belongs to it.")
    if abs(skew) <= _SKEW_MAX_S:
        return Check("clock", True, f"{skew:+.2f} s against the server's")
    text = f"this machine is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server ({server['time']})"
    return Check("clock", False, text, "Set the clock (NTP): tokens made here begin or end at the wrong time.")


async def _round_trip(client: TwinClient) -> Check:
    took: list[float] = []
    for _ in range(_ROUND_TRIPS):
        began = monotonic()
        await client.heartbeat()
        took.append((monotonic() - began) * 1000)
    p50, p95 = median(took), quantiles(took, n=20)[-1]
    text = f"p50 {p50:.1f} ms, p95 {p95:.1f} ms over {_ROUND_TRIPS} heartbeats"
    slow = "The network, or the server, is slow: compare with ping and /metrics."
    return Check("round trip", p50 < _SLOW_MS, text, "" if p50 < _SLOW_MS else slow)


async def _message(client: TwinClient) -> Check:
    began = monotonic()
    message_id = await client.send("This is twin-sio doctor. Answer with one word.", conversation_id="doctor")
    await client.receipt(message_id)
    stored_ms = (monotonic() - began) * 1000
    answer = await client.answer(message_id)
    text = f"stored after {stored_ms:.0f} ms, {answer.status} after {(monotonic() - began) * 1000:.0f} ms"
    if answer.status == "complete":
        return Check("message", True, text)
    why = client.failure(message_id)
    return Check("message", False, f"{text}: {why or 'no reason given'}", "See the model's endpoint and key.")

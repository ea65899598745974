"""`twin-sio load`: a small load test that says what it measured and what it could not.

Every user has its own devices; one of them says something, and the next message follows the answer. At the end every
device must hold every acknowledged message once, with its answer once. The figures are this machine's too: how late
its own event loop ran is printed beside them.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from statistics import quantiles
from typing import Any, Literal, TextIO
from urllib.parse import urlsplit

import orjson
from rich.console import Console
from rich.live import Live
from rich.table import Table

from twin_sio.client import ClientError, TwinClient
from twin_sio.clock import monotonic, new_id
from twin_sio.dev_tokens import token_provider
from twin_sio.domain import Json

_SETTLE_S = 10.0
_TICK_S = 0.05
_LATE_MS = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done: users come over `ramp_s`, each with its devices and messages; it ends after `limit_s` at most."""

    url: str
    secret: str
    users: int
    devices: int
    messages: int
    ramp_s: float
    limit_s: float


def is_loopback(url: str) -> bool:
    """Whether the address is this machine's own."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


@dataclass(slots=True)
class LoadCounts:
    """What was seen so far; times in ms."""

    connects: list[float] = field(default_factory=list)
    receipts: list[float] = field(default_factory=list)
    first_chunks: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    lost: int = 0
    doubled: int = 0
    ended: Literal["running", "complete", "time is up", "stopped"] = "running"

    def as_json(self) -> Json:
        """`{type: "load", ended, sent, acknowledged, answered, lost, doubled, errors, connect_ms, ...}`;
        times are `{p50, p95, p99}` or null."""
        return {
            "type": "load",
            "ended": self.ended,
            "connected": len(self.connects),
            "sent": self.sent,
            "acknowledged": len(self.receipts),
            "answered": len(self.answers),
            "lost": self.lost,
            "doubled": self.doubled,
            "errors": dict(self.errors),
            **{f"{name}_ms": _percentiles(times) for name, times in self.times().items()},
        }

    def times(self) -> dict[str, Sequence[float]]:
        """The measured times by name."""
        return {
            "connect": self.connects,
            "receipt": self.receipts,
            "first_chunk": self.first_chunks,
            "answer": self.answers,
            "own_lag": self.lags,
        }


def _percentiles(times: Sequence[float]) -> dict[str, float] | None:
    if not times:
        return None
    cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else [times[0]] * 99
    return {f"p{share}": round(cuts[share - 1], 1) for share in (50, 95, 99)}


class _User:
    """One user: its devices, and what it has said."""

    def __init__(self, plan: Plan, tally: LoadCounts) -> None:
        self._plan = plan
        self._tally = tally
        self._sub = f"load-{new_id()[:12]}"
        self._devices: list[TwinClient] = []
        self._acknowledged: list[str] = []
        self._answered: list[str] = []
        self._began: dict[str, float] = {}
        self._seen: set[tuple[str, str]] = set()

    async def run(self, delay_s: float) -> None:
        """Connect, say all there is to say."""
        await asyncio.sleep(delay_s)
        for number in range(self._plan.devices):
            await self._connect(f"load {number}")
        if not self._devices:
            return
        for number in range(self._plan.messages):
            await self._send_text(self._devices[number % len(self._devices)], f"load message {number}, {self._sub}")

    async def _connect(self, name: str) -> None:
        client = TwinClient(
            self._plan.url,
            token_provider(self._sub, self._plan.secret),
            device={"name": name},
            on_envelope=self._receive,
        )
        began = monotonic()
        try:
            await client.connect()
        except ClientError as error:
            self._fault(error)
            await client.close()
            return
        self._tally.connects.append((monotonic() - began) * 1000)
        self._devices.append(client)

    async def _send_text(self, client: TwinClient, text: str) -> None:
        message_id = new_id()
        self._began[message_id] = monotonic()
        self._tally.sent += 1
        try:
            await client.send(text, message_id=message_id)
            await client.receipt(message_id)
            self._acknowledged.append(message_id)
            answer = await client.answer(message_id)
        except ClientError as error:
            self._fault(error)
            return
        self._answered.append(message_id)
        if answer.status != "complete":
            self._fault(client.failure(message_id) or f"answer_{answer.status}")

    def _fault(self, fault: ClientError | str) -> None:
        code = fault if isinstance(fault, str) else getattr(fault, "code", type(fault).__name__)
        self._tally.errors[str(code)] += 1

    def _receive(self, direction: Literal["in", "out"], envelope: Json) -> None:
        if direction == "out":
            return
        kind, about = envelope["type"], envelope["metadata"].get("in_response_to")
        times = {
            "message_received": self._tally.receipts,
            "twin_message_chunk": self._tally.first_chunks,
            "twin_message": self._tally.answers,
        }.get(kind)
        if kind == "twin_message" and envelope["payload"].get("status") != "complete":
            return  # how soon an answer fails says nothing of how long one takes
        if times is not None and about in self._began and (kind, about) not in self._seen:
            self._seen.add((kind, about))
            times.append((monotonic() - self._began[about]) * 1000)

    async def audit(self) -> None:
        """Hold what every device shows against what was acknowledged, once all of them have caught up."""
        newest = max((device.state.last_seq or 0 for device in self._devices), default=0)
        for device in self._devices:
            with suppress(ClientError):
                await device.until(lambda state: (state.last_seq or 0) >= newest, _SETTLE_S)
            texts = Counter(one.text for one in device.state.transcript() if one.role == "user")
            answers = [len(device.state.answers(message_id)) for message_id in self._answered]
            self._tally.lost += sum(one not in device.state.messages for one in self._acknowledged)
            self._tally.lost += answers.count(0)
            self._tally.doubled += sum(count - 1 for count in [*texts.values(), *answers] if count > 1)

    async def close(self) -> None:
        await asyncio.gather(*(device.close() for device in self._devices))


async def load(plan: Plan, as_json: bool, out: TextIO) -> bool:
    """Run the plan until it is done, its time is up or Ctrl-C; print the table. Whether nothing was lost,
    doubled or failed."""
    tally = LoadCounts()
    users = [_User(plan, tally) for _ in range(plan.users)]
    async with _lag_watched(tally):
        with ExitStack() as shown:
            if not as_json:
                shown.enter_context(_live(plan, tally))
            tally.ended = await _until_done(plan, users)
            await asyncio.gather(*(user.audit() for user in users))
    await asyncio.gather(*(user.close() for user in users))
    if as_json:
        print(orjson.dumps(tally.as_json()).decode(), file=out)
    else:
        Console(file=out).print(_table(plan, tally))
    if tally.errors:
        print(_failures(tally), file=sys.stderr, flush=True)
    return not (tally.lost or tally.doubled or tally.errors) and bool(tally.connects)


def _failures(tally: LoadCounts) -> str:
    codes = ", ".join(f"{code} ({count})" for code, count in tally.errors.most_common())
    text = f"FAILED: {codes}. {len(tally.answers)} of {tally.sent} messages were answered."
    if "auth_invalid" in tally.errors:
        text += "\nThe server refuses these tokens: give its TWIN_JWT_SECRET with --secret."
    return text


async def _until_done(plan: Plan, users: Sequence[_User]) -> Literal["complete", "time is up", "stopped"]:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    step_s = plan.ramp_s / max(1, len(users))
    working = asyncio.gather(*(user.run(number * step_s) for number, user in enumerate(users)))
    stopping = asyncio.ensure_future(stopped.wait())
    with _interrupts(loop, stopped):
        ends: set[asyncio.Future[Any]] = {working, stopping}
        await asyncio.wait(ends, timeout=plan.limit_s, return_when=asyncio.FIRST_COMPLETED)
    is_done = working.done()
    for future in (working, stopping):
        future.cancel()
    found = await asyncio.gather(working, stopping, return_exceptions=True)
    if is_done and isinstance(found[0], BaseException):
        raise found[0]
    return "complete" if is_done else "stopped" if stopped.is_set() else "time is up"


@contextmanager
def _interrupts(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> Iterator[None]:
    """Ctrl-C sets the event, where there can be a handler (the main thread of a Unix process)."""
    with suppress(NotImplementedError, RuntimeError, ValueError):
        loop.add_signal_handler(signal.SIGINT, stopped.set)
    try:
        yield
    finally:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGINT)


@asynccontextmanager
async def _lag_watched(tally: LoadCounts) -> AsyncIterator[None]:
    async def watch() -> None:
        while True:
            began = monotonic()
            await asyncio.sleep(_TICK_S)
            tally.lags.append(max(0.0, monotonic() - began - _TICK_S) * 1000)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@contextmanager
def _live(plan: Plan, tally: LoadCounts) -> Iterator[None]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Live(get_renderable=lambda: _table(plan, tally), console=console, refresh_per_second=4, transient=True):
        yield


def _table(plan: Plan, tally: LoadCounts) -> Table:
    title = f"{plan.users} users x {plan.devices} devices x {plan.messages} messages: {tally.ended}"
    table = Table(title=title, title_justify="left")
    for column in ("", "count", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(column, justify="left" if not column else "right")
    for name, times in tally.times().items():
        found = _percentiles(times)
        label = "this machine's own delay" if name == "own_lag" else name.replace("_", " ")
        table.add_row(label, str(len(times)), *(f"{value:.1f}" for value in (found or {}).values()))
    for label, count in (("sent", tally.sent), ("lost", tally.lost), ("doubled", tally.doubled)):
        table.add_row(label, str(count))
    for code, count in tally.errors.most_common():
        table.add_row(f"error {code}", str(count))
    lag = _percentiles(tally.lags)
    if lag is not None and lag["p99"] > _LATE_MS:
        table.caption = "This machine ran late itself: part of the times is its own. Use fewer users, or more machines."
    return table

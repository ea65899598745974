"""The service under attack, in production mode with its default limits, and the measuring of an attack."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import pkgutil
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp

from tests import attacks
from tests.attacks.bystanders import Seen
from tests.faults.cluster import Cluster, cluster
from tests.faults.figures import percentile
from tests.processes import Process, token_of
from tests.raw import RawSocket
from tests.waiting import eventually
from twin_sio.clock import new_id

P95_MS = 50.0
MEMORY_MB = 64.0
LONG_STEP_MS = 100.0
"""Where one step fails an attack. Steps from 20 ms are shown: the collector and a busy machine make some of those."""
LONG_STEP_SHORT_MS = 1_000.0
"""The same in the short form, which runs beside other tests: only what no machine's speed explains."""

SHORT_S = 2.0
FULL_S = 30.0
_MEMORY_BACK_S = 30.0
_WARM_UP_S = 2.0
_MB = 1024 * 1024

Attack = Callable[["Site", float], Awaitable[str]]
DEFAULT_LIMITS = {
    "TWIN_LIMIT_MESSAGES_PER_MINUTE": 60,
    "TWIN_LIMIT_EVENTS_PER_SECOND": 50,
    "TWIN_LIMIT_WRITES_PER_MINUTE": 120,
    "TWIN_LIMIT_CONNECTS_PER_MINUTE": 60,
    "TWIN_LIMIT_CONNECTS_PER_ADDRESS": 1200,
    "TWIN_LIMIT_SESSIONS": 20,
    "TWIN_HEARTBEAT_INTERVAL_MS": 25_000,
    "TWIN_TEST_TUNING": "{}",
    "TWIN_WATCHDOG_MS": 20,
}


@dataclass
class Site:
    """A running service, and the address (`address`) that one kind of attack comes from."""

    cluster: Cluster
    address: str
    http: aiohttp.ClientSession
    """Bound to `address`; without a bound on connections."""
    seconds: float
    """How long an attack lasts: 2 in the short form, 30 in the full one."""
    mark: str = field(default_factory=lambda: new_id()[:8])

    @property
    def is_full(self) -> bool:
        return self.seconds >= FULL_S

    @property
    def url(self) -> str:
        """The first server's."""
        return self.cluster.servers[0].url

    @property
    def port(self) -> int:
        return self.cluster.servers[0].port

    def user(self, name: str = "mallory") -> str:
        """A user of this attack alone."""
        return f"{name}-{self.mark}-{new_id()[:6]}"

    def token(self, user: str) -> str:
        return token_of(user)

    def socket(self, user: str, server: int = 0, **auth: Any) -> RawSocket:
        """A Socket.IO connection without a client library, from this attack's address; `async with` it."""
        return RawSocket(self.cluster.servers[server].url, token_of(user), local_address=self.address, **auth)

    async def tcp(self, server: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare TCP connection from this attack's address."""
        port = self.cluster.servers[server].port
        return await asyncio.open_connection("127.0.0.1", port, local_addr=(self.address, 0))

    def logs(self) -> str:
        """All that servers and worker have printed."""
        return "".join(process.printed() for process in (*self.cluster.servers, self.cluster.worker))


def memory_mb(process: Process) -> float:
    """What the process holds in memory."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found.group(1)) / 1024 if found else 0.0


def cpu_s(process: Process) -> float:
    """CPU seconds that the process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@dataclass(frozen=True)
class LongStep:
    """A step of the server's event loop that took over 20 ms of CPU, as its watchdog logged it."""

    ms: float
    at: str


def long_steps(log: str) -> list[LongStep]:
    """What the watchdog has logged."""
    lines = [json.loads(line) for line in log.splitlines() if '"long_step"' in line]
    return [LongStep(line["ms"], f"{line['at']} ({line['place']})") for line in lines]


@dataclass
class Outcome:
    """What one attack did to the others."""

    name: str
    before: str
    note: str
    seen: Seen
    cpu_s: float
    memory_mb: tuple[float, float]
    long_steps: list[LongStep]
    broken: list[str]

    def row(self) -> str:
        """A row of the table in docs/security.md."""
        first, last = self.memory_mb
        verdict = "held" if not self.broken else "; ".join(self.broken)
        return f"| {self.name} | {self.before} | {self.note} | {self.seen} | {first:.0f} → {last:.0f} | {verdict} |"

    def __str__(self) -> str:
        first, last = self.memory_mb
        return (
            f"{'FAIL' if self.broken else 'PASS'}  {self.name}: {self.note}; others {self.seen}, newcomers "
            f"{percentile(self.seen.connects or [0.0], 0.95):.0f} ms; server CPU {self.cpu_s:.1f} s, "
            f"memory {first:.0f} -> {last:.0f} MB"
            + "".join(f"\n      {step.ms:.0f} ms of the loop at {step.at}" for step in self.long_steps[:5])
            + "".join(f"\n      broken: {what}" for what in self.broken)
        )


def kinds() -> dict[int, ModuleType]:
    """Every kind of attack by its number."""
    names = sorted(module.name for module in pkgutil.iter_modules(attacks.__path__) if module.name.startswith("kind_"))
    return {int(name.split("_")[1]): importlib.import_module(f"tests.attacks.{name}") for name in names}


def title(kind: ModuleType) -> str:
    """`01 connect payload` of `tests.attacks.kind_01_connect_payload`."""
    return kind.__name__.rpartition("kind_")[2].replace("_", " ")


def lower_priority() -> None:
    """Let this thread run, and what it starts, where nobody else wants the core: all share one machine, and what is
    measured is the service, not the race for its cores."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        # Each session is a group that the kernel gives an equal share, whatever the priorities within it.
        if os.getsid(0) == os.getpid():
            with suppress(OSError):
                Path("/proc/self/autogroup").write_text("19")
    else:
        os.nice(19)


async def prepared(site: Site, kind: ModuleType) -> None:
    """Store what an attacker of this kind would have brought together in days, past the service."""
    if hasattr(kind, "prepare"):
        await kind.prepare(site)


@asynccontextmanager
async def watched(site: Site) -> AsyncIterator[Seen]:
    """Measure what other users see within; complete once the block has ended."""
    # Started as all processes of the tests are, from a thread whose priority is not lowered with the attacker's.
    process = Process("tests.attacks.bystanders", site.cluster.folder, None, site.url)
    process.start()
    seen = Seen()
    try:
        await eventually(lambda: "ready" in process.printed(), 60)
        yield seen
        await asyncio.to_thread(process.stop, 60.0)
        vars(seen).update(json.loads(process.printed().splitlines()[-1]))
    finally:
        await asyncio.to_thread(process.stop, 1.0)


async def run_kind(site: Site, kind: ModuleType) -> Outcome:
    """One kind of attack, prepared, measured and judged."""
    await prepared(site, kind)
    checks = [kind.check] if hasattr(kind, "check") else []
    return await run(site, title(kind), kind.BEFORE, kind.attack, checks)


async def run(site: Site, name: str, before: str, attack: Attack, checks: Sequence[Any] = ()) -> Outcome:
    """One attack (or several at once, as one), measured and judged."""
    server = site.cluster.servers[0]
    first, cpu_before = memory_mb(server), cpu_s(server)
    log_before, printed_before = len(site.logs()), len(server.printed())
    async with watched(site) as seen:
        began = time.monotonic()
        try:
            note = await attack(site, began + site.seconds)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            note = f"ended by {type(error).__name__}"
        lasted_s = time.monotonic() - began
    broken = [found for check in checks for found in await check(site)]
    if server.alive:
        await _settled(server, first)
        last, cpu_after = memory_mb(server), cpu_s(server)
    else:
        broken.append("the server died")
        last = cpu_after = 0.0
    broken += _judged(site, seen, first, last, lasted_s)
    fresh = site.logs()[log_before:]
    if len(fresh) > 64 * 1024:
        often = Counter(re.findall(r"\w*event\W+(\w+)", fresh)).most_common(3)
        broken.append(f"{len(fresh) // 1024} KiB of log, most often {often}")
    steps = sorted(long_steps(server.printed()[printed_before:]), key=lambda step: -step.ms)
    most_ms = LONG_STEP_MS if site.is_full else LONG_STEP_SHORT_MS
    broken += [f"{step.ms:.0f} ms of the event loop at {step.at}" for step in steps[:1] if step.ms > most_ms]
    return Outcome(name, before, note, seen, cpu_after - cpu_before, (first, last), steps, broken)


async def _settled(server: Process, first: float) -> None:
    try:
        await eventually(lambda: memory_mb(server) <= first + MEMORY_MB, _MEMORY_BACK_S)
    except TimeoutError:
        return


def _judged(site: Site, seen: Seen, first: float, last: float, lasted_s: float) -> list[str]:
    broken = []
    p95 = percentile(seen.times, 0.95)
    has_lasted = lasted_s >= SHORT_S  # what is judged by `check` alone ends at once, and nothing is seen meanwhile
    # The short form shares its cores with the other tests: there only what never depends on speed is judged.
    if site.is_full and has_lasted and not p95 <= P95_MS:
        broken.append(f"others' p95 {p95:.0f} ms")
    if has_lasted and not seen.times:
        broken.append("others got nothing")
    if seen.unanswered:
        broken.append(f"{seen.unanswered} unanswered within 15 s")
    if seen.cut:
        broken.append(f"{seen.cut} connections of others ended")
    broken += [f"others got {code} {count} times" for code, count in seen.codes.items()]
    if last > first + MEMORY_MB:
        broken.append(f"memory {first:.0f} -> {last:.0f} MB")
    return broken


@asynccontextmanager
async def under_attack(running: Cluster, number: int, seconds: float) -> AsyncIterator[Site]:
    """A site whose attacker has an address of its own: what one kind uses up, another still has."""
    address = f"127.0.1.{number}"
    connector = aiohttp.TCPConnector(local_addr=(address, 0), limit=0, force_close=False)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
        yield Site(running, address, http, seconds)


@asynccontextmanager
async def production(folder: Path, servers: int = 1) -> AsyncIterator[Cluster]:
    """Servers, a worker, MongoDB, Redis and a scripted model, with the limits that are the default."""
    async with cluster(folder, servers, **DEFAULT_LIMITS) as running:
        await running.until_ready()
        async with under_attack(running, 200, 0) as site, watched(site):
            await asyncio.sleep(_WARM_UP_S)  # what a first load makes (caches, code, buffers) is no attack's doing
        yield running

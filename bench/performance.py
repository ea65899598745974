"""What a chunk, an event, a connection and a first token cost: ours beside others, interleaved in one run.

`make bench` writes the tables and the picture of docs/performance.md. Everything runs on one machine: read ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import uvloop
from rich.progress import Progress

from bench.fleet import NODE, Contestant, devices, python
from twin_sio.runtime.dev_engines.engines import start_mongod, start_redis

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
PICTURE, SIZES = PAGE.with_name("performance.svg"), (1, 3, 10)
BEGIN, END = "<!-- generated: performance -->\n", "<!-- end -->\n"
Table = list[list[str]]
Measured = dict[str, list[float]]


@dataclass(frozen=True)
class Scale:
    """How much is done; `quick` is for seeing that it works."""

    rounds: int
    repeats: int
    connects: int
    idle: int
    users: int
    tokens: int
    asks: int


FULL = Scale(rounds=300, repeats=5, connects=200, idle=5_000, users=200, tokens=200, asks=60)
QUICK = Scale(rounds=50, repeats=2, connects=40, idle=300, users=30, tokens=20, asks=8)


@asynccontextmanager
async def contestants(folder: Path) -> AsyncIterator[dict[str, Contestant]]:
    """All of them, running; stopped at the end with the engines they need."""
    async with AsyncExitStack() as stack:
        mongod = await asyncio.to_thread(start_mongod, folder / "mongod")
        stack.push_async_callback(asyncio.to_thread, mongod.stop)
        redis = await asyncio.to_thread(start_redis, folder / "redis")
        stack.push_async_callback(asyncio.to_thread, redis.stop)
        model = Contestant("model", [sys.executable, "-m", "tests.scripted_model", "--port", "0"], "")
        model_port = await model.start_printing_port()
        stack.push_async_callback(model.stop)
        ours = {
            "TWIN_ENV": "dev",
            "PORT": "0",
            "TWIN_MONGODB_URL": mongod.url,
            "TWIN_REDIS_URL": redis.url,
            "OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/v1",
            **{"OPENAI_API_KEY": "scripted", "TWIN_MODEL": "scripted", "TWIN_EXTRACTION": "model"},
            **dict.fromkeys(("TWIN_LIMIT_CONNECTS_PER_ADDRESS", "TWIN_LIMIT_CONNECTS_PER_MINUTE"), "0"),
            **dict.fromkeys(("TWIN_LIMIT_MESSAGES_PER_MINUTE", "TWIN_LIMIT_EVENTS_PER_SECOND"), "1000000"),
        }
        alone = {**ours, "TWIN_REDIS_URL": "redis://127.0.0.1:9/0", "TWIN_MONGODB_DATABASE": "alone"}
        node = ["node", str(NODE)]
        made = [
            Contestant("raw aiohttp WebSocket", python("raw_aiohttp"), "plain"),
            Contestant("FastAPI WebSocket", python("fastapi_ws"), "plain"),
            Contestant("twin_sio, Redis away", python("ours"), "ours", alone),
            Contestant("Node socket.io", node, "sio"),
            Contestant("python-socketio", python("stock"), "sio"),
            Contestant("twin_sio", python("ours"), "ours", ours),
            Contestant("Node socket.io + Redis", [*node, redis.url], "sio"),
            Contestant("python-socketio + Redis", python("stock", redis.url), "sio"),
        ]
        for one in made:
            await one.start()
            stack.push_async_callback(one.stop)
        yield {**{one.name: one for one in made}, "model": model}


class Run:
    """One run: each scene measures every contestant in turns, so that what the machine does meets all of them."""

    def __init__(self, servers: Mapping[str, Contestant], scale: Scale, progress: Progress) -> None:
        self.servers = {name: one for name, one in servers.items() if name != "model"}
        self.model = servers["model"]
        self.scale = scale
        self.progress = progress

    async def interleaved(self, what: str, measure: Callable[[Contestant, int], Awaitable[float]]) -> Measured:
        found: Measured = defaultdict(list)
        task = self.progress.add_task(what, total=self.scale.repeats * len(self.servers))
        for turn in range(self.scale.repeats):
            for name, server in self.servers.items():
                found[name].append(await measure(server, turn))
                self.progress.advance(task)
        return found

    async def chunks(self, size: int) -> Measured:
        """CPU us per chunk and device, in rooms of so many devices."""

        async def measure(server: Contestant, turn: int) -> float:
            users = [f"chunk-{size}-{turn}-{n}" for n in range(10)]
            async with devices(server) as fleet:
                for user in users:
                    for _ in range(size):
                        await fleet.connect(user)
                await settled(server)
                before = (await server.ask(do="cpu"))["cpu_us"]
                await server.ask(do="emit", users=users, rounds=self.scale.rounds)
                count = self.scale.rounds * len(users) * size
                await fleet.have(count)
                return float((await server.ask(do="cpu"))["cpu_us"] - before) / count

        return await self.interleaved(f"chunks to {size} devices", measure)

    async def connects(self) -> Measured:
        """CPU us per connection that is let in (ours: with a token, limits, a room, the log's head)."""

        async def measure(server: Contestant, turn: int) -> float:
            async with devices(server) as fleet:
                before = (await server.ask(do="cpu"))["cpu_us"]
                for n in range(self.scale.connects):
                    await fleet.connect(f"connect-{turn}-{n}")
                return float((await server.ask(do="cpu"))["cpu_us"] - before) / self.scale.connects

        return await self.interleaved("connections", measure)

    async def acks(self) -> Measured:
        """CPU us per event that is acknowledged; ours is parsed, checked, limited, handled in turn."""
        count = self.scale.rounds * 5

        async def measure(server: Contestant, turn: int) -> float:
            async with devices(server) as fleet:
                socket = await fleet.connect(f"ack-{turn}")
                await settled(server)
                before, seen = (await server.ask(do="cpu"))["cpu_us"], fleet.frames
                for n in range(count):
                    socket.send(ack_frame(server.kind, n))
                    while fleet.frames < seen + n - 49:  # noqa: ASYNC110 - at most 50 on their way
                        await asyncio.sleep(0)
                while fleet.frames < seen + count:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                return float((await server.ask(do="cpu"))["cpu_us"] - before) / count

        return await self.interleaved("acknowledged events", measure)

    async def idle(self) -> dict[str, float]:
        """KiB of memory per connection that does nothing."""
        found = {}
        task = self.progress.add_task(f"{self.scale.idle} idle connections", total=len(self.servers))
        for name, server in self.servers.items():
            async with devices(server) as fleet:
                before = (await server.ask(do="cpu"))["rss_kib"]
                for start in range(0, self.scale.idle, 50):
                    names = [f"idle-{start + n}" for n in range(50)]
                    await asyncio.gather(*(fleet.connect(user) for user in names))
                await settled(server)
                found[name] = ((await server.ask(do="cpu"))["rss_kib"] - before) / self.scale.idle
            self.progress.advance(task)
        return found

    async def streams(self, rate: int) -> dict[str, tuple[float, float, float]]:
        """Per contestant: the time over the ideal one, the 99th percentile of a chunk's delay in ms, the share of one
        core; with users x 3 devices streaming at once."""
        found = {}
        task = self.progress.add_task(f"{self.scale.users} x 3 at {rate} tokens/s", total=len(self.servers))
        for name, server in self.servers.items():
            users = [f"stream-{rate}-{n}" for n in range(self.scale.users)]
            async with devices(server) as fleet:
                for user in users:
                    await asyncio.gather(*(fleet.connect(user) for _ in range(3)))
                await settled(server)
                fleet.delays = []
                before, began = (await server.ask(do="cpu"))["cpu_us"], time.monotonic()
                await server.ask(do="stream", users=users, tokens=self.scale.tokens, rate=rate)
                await fleet.have(self.scale.users * 3 * self.scale.tokens)
                took = time.monotonic() - began
                cpu = ((await server.ask(do="cpu"))["cpu_us"] - before) / 1e6
                p99 = sorted(fleet.delays)[int(len(fleet.delays) * 0.99)] * 1000
                found[name] = (took / (self.scale.tokens / rate), p99, cpu / took)
            self.progress.advance(task)
        return found

    async def instances(self) -> dict[str, tuple[float, list[float]]]:
        """With Redis, per contestant: CPU us of two instances per chunk and device where the chunks of one go to a
        device of its own and to two of the other; and CPU us of one per chunk and device of its own while none, one,
        two others stream to users of their own."""
        found = {}
        of_one = ("twin_sio", "Node socket.io + Redis", "python-socketio + Redis")
        task = self.progress.add_task("several instances", total=4 * len(of_one))
        for name in of_one:
            here = self.servers[name]
            async with AsyncExitStack() as stack:
                others: list[Contestant] = []
                alone = [await self._beside(here, others)]
                self.progress.advance(task)
                for _ in range(2):
                    others.append(Contestant(name, here.argv, here.kind, here.env))
                    await others[-1].start()
                    stack.push_async_callback(others[-1].stop)
                    alone.append(await self._beside(here, others))
                    self.progress.advance(task)
                found[name] = (await self._across(here, others[0]), alone)
                self.progress.advance(task)
        return found

    async def _across(self, here: Contestant, there: Contestant) -> float:
        users = [f"across-{n}" for n in range(10)]
        async with devices(here) as near, devices(there) as far:
            for user in users:
                await near.connect(user)
                await far.connect(user)
                await far.connect(user)
            await settled(here)
            await settled(there)
            before = sum([(await one.ask(do="cpu"))["cpu_us"] for one in (here, there)])
            await here.ask(do="emit", users=users, rounds=self.scale.rounds)
            await near.have(self.scale.rounds * len(users))
            await far.have(self.scale.rounds * len(users) * 2)
            after = sum([(await one.ask(do="cpu"))["cpu_us"] for one in (here, there)])
        return float(after - before) / (self.scale.rounds * len(users) * 3)

    async def _beside(self, here: Contestant, others: Sequence[Contestant]) -> float:
        everybody = [here, *others]
        async with AsyncExitStack() as stack:
            fleets = [await stack.enter_async_context(devices(one)) for one in everybody]
            users = [[f"beside-{len(others)}-{number}-{n}" for n in range(10)] for number in range(len(everybody))]
            for fleet, names in zip(fleets, users, strict=True):
                for user in names * 3:
                    await fleet.connect(user)
            for one in everybody:
                await settled(one)
            before = (await here.ask(do="cpu"))["cpu_us"]
            await asyncio.gather(
                *(
                    one.ask(do="stream", users=names, tokens=self.scale.rounds, rate=100)
                    for one, names in zip(everybody, users, strict=True)
                )
            )
            for fleet in fleets:
                await fleet.have(self.scale.rounds * 30)
            return float((await here.ask(do="cpu"))["cpu_us"] - before) / (self.scale.rounds * 30)

    async def first_token(self) -> tuple[float, float]:
        """Median ms to the first token: of the bare model call, and of a message through the whole service."""
        bare, whole = [], []
        task = self.progress.add_task("first tokens", total=self.scale.asks)
        server = self.servers["twin_sio"]
        url = f"http://127.0.0.1:{self.model.port}/v1/chat/completions"
        async with devices(server) as fleet, aiohttp.ClientSession() as http:
            socket = await fleet.connect("first-token")
            for n in range(self.scale.asks):
                began = time.perf_counter()
                body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": f"hello {n}"}]}
                async with http.post(url, json=body) as answer:
                    await answer.content.readany()
                    bare.append(time.perf_counter() - began)
                    await answer.read()
                fleet.delays, fleet.chunks, began = [], 0, time.perf_counter()
                metadata = {"message_id": f"m-{n}", "conversation_id": f"c-{n}"}
                envelope = {"payload": {"text": f"hello {n}"}, "metadata": metadata}
                socket.send("42" + json.dumps(["user_message", envelope]))
                await fleet.have(1)
                whole.append(time.perf_counter() - began)
                await fleet.quiet()
                self.progress.advance(task)
        return statistics.median(bare) * 1000, statistics.median(whole) * 1000


def ack_frame(kind: str, number: int) -> str:
    """An event that asks to be acknowledged, and needs no store."""
    if kind == "plain":
        return json.dumps(["message", {"n": number}])
    if kind == "sio":
        return f'42{number}["message",{{"payload":{{"is_typing":true}}}}]'
    return f'42{number}["typing_indicator",{{"payload":{{"is_typing":true}}}}]'


async def settled(server: Contestant) -> None:
    """Wait until the server has next to nothing to do: thousands of idle connections are never nothing."""
    last = -1_000_000
    for _ in range(50):
        now = (await server.ask(do="cpu"))["cpu_us"]
        if now - last < 10_000:
            return
        last = now
        await asyncio.sleep(0.2)


def against(found: Measured, base: str) -> dict[str, tuple[float, float]]:
    """Medians, and the median of the ratios to `base` turn by turn."""
    return {
        name: (
            statistics.median(values),
            statistics.median(mine / other for mine, other in zip(values, found[base], strict=True)),
        )
        for name, values in found.items()
    }


def markdown(rows: Table) -> str:
    head, *body = rows
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]) + "\n"


def picture(sizes: Mapping[int, Mapping[str, tuple[float, float]]]) -> str:
    """Bars of what a chunk costs per device in rooms of three, as SVG."""
    shown = {name: values[0] for name, values in sizes[3].items()}
    widest = max(shown.values())
    bars = []
    for row, (name, value) in enumerate(sorted(shown.items(), key=lambda one: one[1])):
        y, width = 34 + 26 * row, 380 * value / widest
        colour = "#3b6ea8" if name.startswith("twin_sio") else "#b9c4d0"
        bars.append(f'<text x="196" y="{y + 13}" text-anchor="end">{name}</text>')
        bars.append(f'<rect x="204" y="{y}" width="{width:.0f}" height="18" rx="3" fill="{colour}"/>')
        bars.append(f'<text x="{210 + width:.0f}" y="{y + 13}">{value:.1f}</text>')
    height = 44 + 26 * len(shown)
    title = "CPU us per chunk and device, three devices of one user"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="660" height="{height}" fill="#fff"/><text x="204" y="20" font-weight="bold">{title}</text>'
        f"{''.join(bars)}</svg>\n"
    )


async def measured(run: Run) -> tuple[str, str]:
    """All scenes; the generated part of the page, and the picture."""
    raw = "raw aiohttp WebSocket"
    sizes = {size: against(await run.chunks(size), raw) for size in SIZES}
    acks, connects = against(await run.acks(), raw), against(await run.connects(), raw)
    idle = await run.idle()
    streams = {rate: await run.streams(rate) for rate in (20, 50)}
    together = await run.instances()
    bare, whole = await run.first_token()
    rows: Table = [["CPU us (x raw)", *(f"a chunk, per device, of {size}" for size in SIZES), "an acknowledged event"]]
    rows[0] += ["a connection", "KiB idle"]
    for name in run.servers:
        cells = [f"{one[0]:.1f} ({one[1]:.1f}x)" for one in (*(sizes[size][name] for size in SIZES), acks[name])]
        rows.append([name, *cells, f"{connects[name][0]:.0f} ({connects[name][1]:.1f}x)", f"{idle[name]:.1f}"])
    paced: Table = [[f"{run.scale.users} users x 3 devices, {run.scale.tokens} tokens each"]]
    for rate in streams:
        paced[0] += [f"{rate}/s: time over the ideal", "p99 delay", "of one core"]
    for name in run.servers:
        cells = []
        for rate in streams:
            over, p99, share = streams[rate][name]
            cells += [f"{over:.2f}x", f"{p99:.0f} ms", f"{share * 100:.0f} %"]
        paced.append([name, *cells])
    several: Table = [["CPU us with Redis", "a chunk to 3 devices, 2 of them elsewhere: both instances, per device"]]
    several[0] += [f"one's own chunks, {count} busy others" for count in ("no", "one", "two")]
    for name, (across, beside) in together.items():
        several.append([name, f"{across:.1f}", *(f"{one:.1f}" for one in beside)])
    first = (
        f"First token, median of {run.scale.asks}: bare model call {bare:.1f} ms, through the service {whole:.1f} ms"
    )
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    tables = f"{markdown(rows)}\n{markdown(paced)}\n{markdown(several)}"
    return f"{machine}.\n\n{tables}\n{first} (+{whole - bare:.1f} ms).\n\n", picture(sizes)


def write(generated: str, drawn: str) -> None:
    PICTURE.write_text(drawn)
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n" + generated + END + after)


async def main(scale: Scale, *, keep: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with contestants(Path(folder)) as servers:
            with Progress() as progress:
                generated, drawn = await measured(Run(servers, scale, progress))
    print(generated)
    if keep:
        write(generated, drawn)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works; writes nothing")
    chosen = parser.parse_args()
    try:
        uvloop.run(main(QUICK if chosen.quick else FULL, keep=not chosen.quick))
    except KeyboardInterrupt:
        sys.exit(130)

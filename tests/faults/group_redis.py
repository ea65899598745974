"""Redis hangs (F2), dies and comes back empty (F3), drops or blocks its listeners (F10)."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from redis.asyncio import Redis

from tests.faults.cluster import Cluster, Device, Fault, chooser
from tests.faults.figures import Figures, Scale
from tests.faults.record import Record, Sum
from tests.faults.stock_clients import StockClient
from tests.faults.tcp_proxy import Connection, TcpProxy
from tests.waiting import eventually

PACE_S = 0.1
PROBE_S = 1.0  # how often a server probes Redis


async def hung_redis(cluster: Cluster, scale: Scale) -> Figures:
    """Redis stands still. Who generates goes on without a hitch; the rest is there soon after Redis goes on."""
    away_s = scale.pick(3.0, 15.0)
    figures = Figures("F2")
    async with _audience(cluster, scale, "hung_redis") as audience:
        await audience.stream("long", tokens=int((away_s + 2) / PACE_S))
        await _lags(cluster)
        await asyncio.sleep(1.0)
        before_s = max(await _lags(cluster))
        stopped_at = time.monotonic()
        cluster.redis.pause()
        try:
            await asyncio.sleep(away_s / 3)
            await audience.stream("short", tokens=10, others=False)
            await asyncio.sleep(max(0.0, stopped_at + away_s - time.monotonic()))
        finally:
            cluster.redis.resume()
        back_at = time.monotonic()
        lag_s = max(await _lags(cluster))
        away_finals = audience.finals_at_home()
        whole_s = await audience.whole_after(back_at, away_finals)
        await audience.answered()
        await cluster.until_ready()
        total = await cluster.settle(audience.records)
        ghosts = await cluster.ghosts(audience.devices)
    figures.note(f"Redis stopped for {away_s:g} s, {audience.size}")
    figures.judge(total)
    figures.count("answers that seem to run on", ghosts)
    figures.time("worst loop lag", lag_s, at_most_s=scale.within(0.05))
    figures.time("(before)", before_s)
    figures.time("worst pause of a stream where it is generated", audience.worst_pause(stopped_at, back_at))
    figures.count("answers made meanwhile", len(away_finals), at_most=None)
    figures.time("elsewhere whole after", whole_s, at_most_s=scale.within(3.0))
    return figures


async def killed_redis(cluster: Cluster, scale: Scale) -> Figures:
    """Redis is killed and comes back empty: all devices whole soon after, nothing lost, all instances live."""
    away_s = scale.pick(2.0, 20.0)
    figures = Figures("F3")
    async with _audience(cluster, scale, "killed_redis") as audience:
        await audience.stream("long", tokens=int((away_s + 4) / PACE_S))
        cluster.redis.kill()
        shutil.rmtree(cluster.redis.folder / "appendonlydir")
        died_at = time.monotonic()
        await asyncio.sleep(away_s / 3)
        await audience.stream("short", tokens=10, others=False)
        await asyncio.sleep(max(0.0, died_at + away_s - time.monotonic()))
        await asyncio.to_thread(cluster.redis.restart)
        back_at = time.monotonic()
        away_finals = audience.finals_at_home()
        whole_s = await audience.whole_after(back_at, away_finals)
        silent = await audience.not_receiving()
        ready_s = await _until_all_ready(cluster, back_at)
        asked_at = time.monotonic()
        async with cluster.device(cluster.user("killed_redis-learns")) as pupil:
            await cluster.teach(pupil)
        learnt_s = time.monotonic() - asked_at
        await audience.answered()
        total = await cluster.settle(audience.records)
        ghosts = await cluster.ghosts(audience.devices)
    figures.note(f"Redis killed for {away_s:g} s, {audience.size}")
    figures.judge(total)
    figures.count("answers that seem to run on", ghosts)
    figures.count("answers made meanwhile", len(away_finals), at_most=None)
    figures.time("every device whole after", whole_s, at_most_s=scale.within(3.0))
    figures.count("instances that receive nothing", silent)
    figures.time("learnt from a message within", learnt_s, at_most_s=scale.within(10.0))
    figures.time("all ready after", ready_s, at_most_s=scale.within(3.0))
    return figures


async def lost_listeners(cluster: Cluster, scale: Scale) -> Figures:
    """Listeners are killed, or hear nothing over a connection that stays up: the instance says that it is not ready,
    listens anew, tells its clients, and nothing is lost."""
    choose = chooser(scale, "F10")
    figures = Figures("F10")
    cuts = scale.pick(1, 5)
    off: list[float] = []
    async with _audience(cluster, scale, "lost_listeners") as audience, _chatter(audience) as sent:
        for _ in range(cuts):
            await asyncio.sleep(choose.uniform(0.3, 1.3))
            off += await _interrupted(cluster, audience, range(len(cluster.servers)), lambda: _kill_listeners(cluster))
    total = sent.total
    figures.note(f"listeners killed {cuts} times, {sent.count} events, {audience.size}")
    figures.time("not ready within", max(off), at_most_s=scale.within(2 * PROBE_S))
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(TcpProxy(lambda: [cluster.redis.port]))
        mute = await stack.enter_async_context(cluster.one_more(TWIN_REDIS_URL=f"redis://127.0.0.1:{wire.port}/0"))
        audience = await stack.enter_async_context(_audience(cluster, scale, "f10b"))
        off = []
        async with _chatter(audience) as sent:
            for _ in range(scale.pick(1, 3)):
                await asyncio.sleep(choose.uniform(0.3, 1.3))
                off += await _interrupted(cluster, audience, [mute], lambda: wire.hold(_listens))
                wire.release()
    figures.note(f"one listener blocked {scale.pick(1, 3)} times, {sent.count} events, {audience.size}")
    figures.time("not ready within", max(off), at_most_s=scale.within(2.5 * PROBE_S + 0.3))
    figures.judge(total + sent.total)
    return figures


def _listens(connection: Connection) -> bool:
    return b"SUBSCRIBE" in connection.sent


async def _kill_listeners(cluster: Cluster) -> None:
    async with Redis.from_url(cluster.redis.url) as client:
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


async def _interrupted(
    cluster: Cluster, audience: Audience, servers: Sequence[int], strike: Callable[[], object]
) -> list[float]:
    """Strike, and wait until these servers were not ready, are ready again and have sent their devices a resync; the
    seconds that each took to say that it is not ready."""
    watches = [asyncio.create_task(_until_not_ready(cluster, index)) for index in servers]
    await asyncio.sleep(0.1)  # the watches look by now
    listeners = [one for devices in audience.devices.values() for one in devices if one.server in servers]
    had = [len(one.record.resyncs) for one in listeners]
    struck_at = time.monotonic()
    if asyncio.iscoroutine(waiting := strike()):
        await waiting
    off = [at - struck_at for at in await asyncio.gather(*watches)]
    await cluster.until_ready(*servers)
    for one, before in zip(listeners, had, strict=True):
        await eventually(lambda r=one.record, n=before: len(r.resyncs) > n, 10.0)
    return off


async def _until_not_ready(cluster: Cluster, server: int) -> float:
    async def says_so() -> bool:
        return not await cluster.is_ready(server)

    await eventually(says_so, 20.0)
    return time.monotonic()


@dataclass
class _Sent:
    count: int = 0
    is_over: bool = False
    total: Sum = field(default_factory=Sum)


@asynccontextmanager
async def _chatter(audience: Audience) -> AsyncIterator[_Sent]:
    """While inside, every device of the audience sends durable events all the time; then the devices are judged."""
    sent = _Sent()
    await audience.stream("chatter", tokens=5)
    await audience.answered()

    async def talk(device: Device, message_id: str) -> None:
        while not sent.is_over:
            sent.count += 1
            (answer,) = device.state.answers(message_id)
            await device.feedback(answer.message_id, "up" if sent.count % 2 else "down")
            await asyncio.sleep(PACE_S)

    async def is_stored() -> bool:
        logs = [await audience.cluster.log(user) for user in audience.devices]
        return sum(event["type"] == "feedback" for log in logs for event in log) == sent.count

    async with asyncio.TaskGroup() as tasks:
        for user, devices in audience.devices.items():
            for device in devices:
                tasks.create_task(talk(device, audience.asked[user][0]))
        try:
            yield sent
        finally:
            sent.is_over = True
    await eventually(is_stored, 20.0)
    sent.total = await audience.cluster.settle(audience.records)


async def _lags(cluster: Cluster) -> list[float]:
    """Each server's worst loop lag since the last call."""
    found = await asyncio.gather(*(cluster.metrics(index) for index in range(len(cluster.servers))))
    return [one["twin_loop_lag_seconds"] for one in found]


async def _until_all_ready(cluster: Cluster, since: float) -> float:
    await cluster.until_ready()
    return time.monotonic() - since


# -- users with a device on every server -------------------------------------------------------------------------------


class Audience:
    """Users with a device on each server (`devices[user][server]`), some with a stock client too; none heartbeats, so
    that nothing but the service itself tells them what they have missed."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.devices: dict[str, list[Device]] = {}
        self.stock: list[StockClient] = []
        self.asked: dict[str, list[str]] = {}
        self.home: dict[str, int] = {}

    @property
    def records(self) -> dict[str, list[Record]]:
        return {
            user: [*(one.record for one in devices), *(one.record for one in self.stock if one.user == user)]
            for user, devices in self.devices.items()
        }

    @property
    def size(self) -> str:
        count = sum(len(found) for found in self.records.values())
        return f"{count} devices of {len(self.devices)} users, {len(self.stock)} stock JS"

    async def stream(self, word: str, *, tokens: int, others: bool = True) -> None:
        """Every user asks at home; wait until the answer streams there (`others`: everywhere)."""
        text = f"{word} of {self.name}"
        await self.cluster.script(text, token_delay_s=PACE_S, count=tokens)
        for user, devices in self.devices.items():
            conversation = f"{word}-{len(self.asked[user])}"
            asked = await devices[self.home[user]].send(f"{text} {user}", conversation_id=conversation)
            self.asked[user].append(asked)
        for user, devices in self.devices.items():
            for device in devices if others else [devices[self.home[user]]]:
                await eventually(lambda r=device.record, m=self.asked[user][-1]: _has_question(r, m))

    def finals_at_home(self) -> list[tuple[str, str]]:
        """Answers that the devices where they were generated have."""
        return [
            (user, asked)
            for user, devices in self.devices.items()
            for asked in self.asked[user]
            if asked in devices[self.home[user]].record.answers
        ]

    async def whole_after(self, since: float, finals: Sequence[tuple[str, str]]) -> float:
        """Seconds from `since` until every device has these answers, and of the running ones as much as at home."""
        running = {
            (user, asked): _length(devices[self.home[user]].record, asked)
            for user, devices in self.devices.items()
            for asked in self.asked[user]
        }

        def is_whole() -> bool:
            every = self.records
            return all(asked in one.answers for user, asked in finals for one in every[user]) and all(
                asked in one.answers or _length(one, asked) >= length
                for (user, asked), length in running.items()
                for one in every[user]
            )

        await eventually(is_whole, 30.0)
        return time.monotonic() - since

    async def answered(self) -> None:
        """Wait until every device has every answer."""
        for user, records in self.records.items():
            for record in records:
                await eventually(lambda r=record, u=user: all(asked in r.answers for asked in self.asked[u]), 60.0)

    async def not_receiving(self) -> int:
        """How many servers do not hear, within 3 s, of what is said at another one."""
        count = len(self.cluster.servers)
        user, devices = next(iter(self.devices.items()))
        silent = set()
        for index in range(count):
            asked = await devices[(index + 1) % count].send(
                f"are you there, {index}?", conversation_id=f"silent-{index}"
            )
            self.asked[user].append(asked)
            try:
                await devices[index].until(lambda state, m=asked: m in state.messages, 3.0)
            except Exception:
                silent.add(index)
        return len(silent)

    def worst_pause(self, since: float, until: float) -> float:
        """The longest time between two chunks of a running answer, between two moments, on the devices at home."""
        pauses = [0.0]
        for user, devices in self.devices.items():
            for joined in devices[self.home[user]].record.generations.values():
                pauses += [b - a for a, b in itertools.pairwise(joined.at) if since <= a and b <= until]
        return max(pauses)


@asynccontextmanager
async def _audience(cluster: Cluster, scale: Scale, name: str) -> AsyncIterator[Audience]:
    audience = Audience(cluster, name)
    async with AsyncExitStack() as stack:
        js = await stack.enter_async_context(cluster.stock())
        for number in range(scale.pick(3, 9)):
            user = cluster.user(name)
            audience.asked[user], audience.home[user] = [], number % len(cluster.servers)
            audience.devices[user] = [
                await stack.enter_async_context(cluster.device(user, at, heartbeat=False))
                for at in range(len(cluster.servers))
            ]
            if number < scale.pick(1, 3):
                audience.stock.append(await js.open(user))
        yield audience


def _has_question(record: Record, asked: str) -> bool:
    return asked in record.answers or _length(record, asked) > 0


def _length(record: Record, asked: str) -> int:
    """How much of the newest attempt at an answer a device has."""
    found = [len(joined.text) for joined in record.generations.values() if joined.in_response_to == asked]
    return found[-1] if found else 0


FAULTS: dict[str, Fault] = {"F2": hung_redis, "F3": killed_redis, "F10": lost_listeners}

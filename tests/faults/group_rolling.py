"""An upgrade: three servers behind HAProxy are restarted one after another, under load (F13)."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from typing import Any

from tests.balancers import HAProxy
from tests.faults.cluster import Cluster, Fault, chooser
from tests.faults.figures import Figures, Scale
from tests.faults.group_clients import writer
from tests.faults.light_clients import Swarm
from tests.faults.record import Record
from tests.faults.stock_clients import StockClients
from tests.processes import Process, token_of
from tests.waiting import eventually
from twin_sio.client import Backoff, TwinClient
from twin_sio.runtime.dev_engines.engines import free_port


class Asking:
    """A user who asks again and again, on two devices."""

    def __init__(self, user: str, url: str) -> None:
        self.user = user
        self.records = [Record(f"{user}/{number}") for number in range(2)]
        self.asked: list[str] = []
        self._devices = [
            TwinClient(url, token_of(user), on_envelope=record.hook, backoff=Backoff(0.2, 1.0))
            for record in self.records
        ]

    async def run(self, stack: AsyncExitStack, done: asyncio.Event) -> None:
        """Ask until `done`, each time after the last answer; every question is answered in the end."""
        first, _ = [await stack.enter_async_context(one) for one in self._devices]
        while not done.is_set():
            self.asked.append(await first.send(f"question {len(self.asked)} of {self.user}"))
            await first.answer(self.asked[-1], 60)


async def rolling_restart(cluster: Cluster, scale: Scale) -> Figures:
    """SIGTERM, exit, start, ready; then the next. Nobody loses an event, an answer or a connection for long."""
    light, stock, asking, rounds = scale.pick((40, 1, 3, 1), (300, 5, 10, 2))
    figures = Figures("F13")
    choose = chooser(scale, "rolling_restart")
    async with AsyncExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        servers = await asyncio.gather(*(cluster.process("server", PORT=port, TWIN_DRAIN_S=10) for port in ports))
        stack.push_async_callback(_stop, servers)
        balancer = HAProxy("haproxy.cfg", cluster.folder / "haproxy", ports)
        await asyncio.to_thread(balancer.start)
        stack.push_async_callback(asyncio.to_thread, balancer.stop)
        log = await stack.enter_async_context(writer(cluster))
        swarm = await stack.enter_async_context(Swarm(lambda: [balancer.url]))
        users = [cluster.user("rolled") for _ in range(light // 2)]
        for user in users:
            swarm.add(user, 0)
            swarm.add(user, 0)
        scripts = await stack.enter_async_context(StockClients(balancer.url))
        javascript = [await scripts.open(cluster.user("js")) for _ in range(stock)]
        await swarm.until(lambda one: one.is_up, timeout=60)
        people = [Asking(cluster.user("asks"), balancer.url) for _ in range(asking)]
        for one in people:
            await cluster.script(one.user, token_delay_s=0.05, count=40)
        done = asyncio.Event()
        talking = [asyncio.create_task(one.run(stack, done)) for one in people]
        heads = {user: await log.write(user, "before") for user in users}
        began = time.monotonic()
        rolling = asyncio.create_task(_roll(list(servers) * rounds))
        while not rolling.done():
            user = choose.choice(users)
            heads[user] = await log.write(user, "meanwhile")
            await asyncio.sleep(0.01)
        codes = rolling.result()
        took_s = time.monotonic() - began
        done.set()
        await asyncio.gather(*talking)
        for user in users:
            heads[user] = await log.write(user, "after")
        try:
            await swarm.until(lambda one: one.last == heads[one.user], timeout=30)
        finally:
            lost = sum(heads[one.user] - (one.last or 0) for one in swarm.clients)
        await scripts.until(lambda: all(len(one.record.connected_at) > 1 for one in javascript))
        figures.note(f"{light} light, {stock} stock and {2 * asking} asking clients, {len(codes)} restarts")
        figures.count("events written meanwhile", sum(heads.values()), at_most=None)
        figures.count("lost by light clients", lost)
        figures.judge(await cluster.settle({one.user: one.records for one in people}))
        _judge_answers(figures, people)
        refused = [code for one in swarm.clients for code in one.refused]
        figures.count("refused for good", sum(code not in ("draining", "overloaded") for code in refused))
        figures.count("sent away for good", sum(one.sent_away for one in swarm.clients))
        figures.count("exit codes other than 0", sum(code != 0 for code in codes))
    figures.time("all restarted after", took_s)
    return figures


def _judge_answers(figures: Figures, people: list[Asking]) -> None:
    asked = sum(len(one.asked) for one in people)
    whole = [one.records[0].answers[name] for one in people for name in one.asked if name in one.records[0].answers]
    figures.count("asked", asked, at_most=None)
    figures.count("answers missing", asked - len(whole))
    figures.count("answers not complete", sum(one["status"] != "complete" for one in whole))


async def _roll(servers: list[Process]) -> list[Any]:
    """Restart one after another, each on its port, the next once it is ready; their exit codes."""
    codes = []
    for server in servers:
        server.send_signal(signal.SIGTERM)
        codes.append(await server.wait())
        server.start()
        await server.listening()
        await eventually(server.is_ready, 20)
        await asyncio.sleep(1.0)  # until HAProxy has asked, too
    return codes


async def _stop(servers: list[Process]) -> None:
    await asyncio.gather(*(asyncio.to_thread(one.stop, 1.0) for one in servers))


FAULTS: dict[str, Fault] = {"F13": rolling_restart}

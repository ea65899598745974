"""Clients that do not read (F4), are sent away (F5), come late (F8) or never say who they are (F9)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp

from tests.faults.cluster import DATABASE, Cluster, Fault, chooser
from tests.faults.figures import Figures, Scale, percentile
from tests.faults.light_clients import Swarm
from tests.faults.record import Json
from tests.faults.stock_clients import StockClients
from tests.faults.tcp_proxy import TcpProxy
from tests.processes import Process, token_of
from tests.raw import RawSocket
from tests.waiting import eventually
from twin_sio.clock import new_id, now
from twin_sio.delivery import Delivery
from twin_sio.domain import NewEvent
from twin_sio.store import mongo

MIB = 1024 * 1024
EVENT_BYTES = 16 * 1024


class Writer:
    """Writes durable events as the worker does: into the log, then to the devices by way of Redis."""

    def __init__(self, messages: mongo.MongoLog, delivery: Delivery) -> None:
        self._messages = messages
        self._delivery = delivery

    async def write(self, user: str, text: str) -> int:
        """One event; its seq."""
        payload = _answer(text, new_id(), usage={"sent": time.monotonic()})
        stored = await self._messages.append(
            NewEvent(user, "twin_message", new_id(), "main", now(), payload, None, None)
        )
        self._delivery.publish(stored.event)
        return stored.event.seq


@asynccontextmanager
async def writer(cluster: Cluster) -> AsyncIterator[Writer]:
    client, db = mongo.connect(cluster.mongod.url, DATABASE, 5_000)
    messages = mongo.MongoLog(db)
    delivery = Delivery(
        cluster.redis.url, clock=now, new_id=new_id, read=messages.read, heads=messages.heads, listen=False
    )
    await delivery.start()
    try:
        yield Writer(messages, delivery)
    finally:
        await delivery.stop()
        client.close()


def rss(process: Process) -> int:
    """Bytes of memory the process has in use."""
    with open(f"/proc/{process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def connect_without_reading(url: str, user: str) -> socket.socket:
    """A WebSocket that is let in and never reads, with a small buffer of its own."""
    host, port = re.fullmatch(r"http://(.+):(\d+)", url).groups()  # type: ignore[union-attr]
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.connect((host, int(port)))
    client.sendall(
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    hello = b'40{"token":"%s"}' % token_of(user).encode()
    client.sendall(b"\x81\xfe" + len(hello).to_bytes(2, "big") + b"\0\0\0\0" + hello)
    return client


# -- F4 --------------------------------------------------------------------------------------------------------------


async def slow_reader(cluster: Cluster, scale: Scale) -> Figures:
    """A client stops reading while 1 MB/s goes to it, again and again; the user's other device notices nothing."""
    rounds = scale.pick(1, 5)
    figures = Figures("F4")
    server, user = cluster.servers[0], cluster.user("unread")
    cut_after: list[float] = []
    held: list[float] = []
    late: list[float] = []
    memory: list[int] = []
    async with writer(cluster) as log, RawSocket(server.url, token_of(user)) as other:
        for _ in range(scale.pick(64, 320)):  # the process gets to the size that such traffic takes
            await log.write(user, "w" * EVENT_BYTES)
        calm = await _calm(cluster)
        for _ in range(rounds):
            client = connect_without_reading(server.url, user)
            await eventually(lambda: _connections(cluster, calm["twin_connections"] + 1))
            cuts = (await cluster.metrics(0))["twin_slow_consumers_closed_total"]
            began, due = time.monotonic(), time.monotonic()
            other.events.clear()
            taken = asyncio.create_task(_latencies(other, late))
            while (found := await cluster.metrics(0))["twin_slow_consumers_closed_total"] == cuts:
                held.append(found["twin_buffered_bytes"])
                if time.monotonic() - began > 15:
                    break
                for _ in range(6):  # 64 events of 16 KiB a second
                    await log.write(user, "x" * EVENT_BYTES)
                    due += EVENT_BYTES / MIB
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            cut_after.append(time.monotonic() - began)
            await asyncio.sleep(0.3)
            taken.cancel()
            client.close()
            after = await _calm(cluster, calm)
            memory.append(rss(server))
    figures.note(f"1 MB/s to a device that does not read, {rounds} times")
    figures.count("held at most KiB", round(max(held) / 1024), at_most=1024)
    figures.time("cut after at most", max(cut_after), at_most_s=scale.within(5.0))
    figures.count("tasks left over", int(after["twin_tasks"] - calm["twin_tasks"]))
    figures.count("connections left over", int(after["twin_connections"] - calm["twin_connections"]))
    figures.count("bytes left over", int(after["twin_buffered_bytes"]))
    if rounds > 1:
        figures.count("memory grown KiB from round 2 to the last", (memory[-1] - memory[1]) // 1024, at_most=3072)
    figures.time("other device p99", percentile(late, 0.99), at_most_s=scale.within(0.1))
    figures.count("of events", len(late), at_most=None)
    return figures


async def _connections(cluster: Cluster, wanted: float) -> bool:
    return (await cluster.metrics(0))["twin_connections"] == wanted


async def _calm(cluster: Cluster, like: dict[str, float] | None = None) -> dict[str, float]:
    """The gauges once nothing waits, and as many tasks and connections are there as before (or the time is up)."""
    until = time.monotonic() + (10 if like else 1)
    while True:
        found = await cluster.metrics(0)
        is_back = like is not None and found["twin_tasks"] <= like["twin_tasks"] and not found["twin_buffered_bytes"]
        if is_back or time.monotonic() > until:
            return found
        await asyncio.sleep(0.2)


async def _latencies(raw: RawSocket, into: list[float]) -> None:
    while True:
        await raw.until(lambda: raw.events, timeout=60)
        at = time.monotonic()
        into.extend(at - one["payload"]["usage"]["sent"] for one in raw.of("twin_message"))
        raw.events.clear()


# -- F5 --------------------------------------------------------------------------------------------------------------


async def drain_with_many_clients(cluster: Cluster, scale: Scale) -> Figures:
    """SIGTERM to a server with all the clients on it: every one comes back elsewhere by itself and misses nothing."""
    light, stock, asking = scale.pick((60, 1, 1), (1000, 5, 5))
    figures = Figures("F5")
    choose = chooser(scale, "drain_with_many_clients")
    server = cluster.servers[0]
    users = [cluster.user("drained") for _ in range(light // 2)]
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(writer(cluster))
        devices = [await stack.enter_async_context(cluster.device(cluster.user("asks"), 0)) for _ in range(asking)]
        swarm = await stack.enter_async_context(Swarm(lambda: [one.url for one in cluster.servers]))
        for user in users:
            swarm.add(user, 0)
            swarm.add(user, 0)
        await swarm.until(lambda one: one.is_up, timeout=60)
        behind = [server]  # a load balancer, which asks who is ready
        balancer = await stack.enter_async_context(TcpProxy(lambda: [one.port for one in behind]))
        scripts = await stack.enter_async_context(StockClients(balancer.url))
        javascript = [await scripts.open(cluster.user("js")) for _ in range(stock)]
        for device in devices:
            await cluster.script(device.user, token_delay_s=0.1, count=scale.pick(20, 60))
        asked = [await device.send(f"a long one for {device.user}") for device in devices]
        heads: dict[str, int] = {}
        for user in users:
            heads[user] = await log.write(user, "before")
        stack.push_async_callback(_started_again, cluster, server)
        server.send_signal(signal.SIGTERM)
        behind[:] = cluster.servers[1:]
        signalled_at = time.monotonic()
        gone = asyncio.create_task(server.wait())
        while not gone.done():
            user = choose.choice(users)
            heads[user] = await log.write(user, "meanwhile")
            await asyncio.sleep(0.01)
        code, exit_s = gone.result(), time.monotonic() - signalled_at
        await swarm.until(lambda one: one.is_up and one.connects > 1, timeout=60)
        back_s = time.monotonic() - signalled_at
        for user in users:
            heads[user] = await log.write(user, "after")
        try:
            await swarm.until(lambda one: one.last == heads[one.user], timeout=30)
        finally:
            lost = sum(heads[one.user] - (one.last or 0) for one in swarm.clients)
            back = sum(one.is_up and one.connects > 1 for one in swarm.clients)
        await scripts.until(lambda: all(one.record.connected_at[-1] > signalled_at for one in javascript))
        answers = [await device.answer(message_id, 60) for device, message_id in zip(devices, asked, strict=True)]
        refused = [code for one in swarm.clients for code in one.refused]
        gone = sum(one.sent_away for one in swarm.clients)
        whole = [await cluster.judge([device.record], device.user) for device in devices]
    figures.note(f"{light} light, {stock} stock and {asking} asking clients")
    figures.count("back", back + sum(len(one.record.connected_at) > 1 for one in javascript), exactly=light + stock)
    figures.time("all back after", back_s, at_most_s=scale.pick(20.0, 30.0))
    figures.count("lost", lost + sum(one.lost for one in whole))
    figures.count("refused otherwise than as draining", sum(code != "draining" for code in refused))
    figures.count("sent away for good", gone)
    figures.count("answers not completed", sum(one.status != "complete" for one in answers))
    figures.time("exit after", exit_s, at_most_s=30.0)
    figures.holds("exit code 0", code == 0)
    return figures


async def _started_again(cluster: Cluster, server: Process) -> None:
    if server.alive:
        await asyncio.to_thread(server.kill)
    await cluster.restart(cluster.servers.index(server))


# -- F8 --------------------------------------------------------------------------------------------------------------


async def long_absence(cluster: Cluster, scale: Scale) -> Figures:
    """A device that was away for thousands of events, and a new one in the middle of an answer."""
    missed = scale.pick(1000, 5000)
    figures = Figures("F8")
    user = cluster.user("away")
    await cluster._mongo[DATABASE]["events"].insert_many(
        [_event(user, seq, f"event {seq} " + "y" * 200) for seq in range(1, missed + 1)]
    )
    took = []
    for server in range(3):
        began = time.monotonic()
        async with RawSocket(cluster.servers[server].url, token_of(user), last_seq=0) as raw:
            await raw.until(lambda raw=raw: raw.of("resumed"), timeout=30)
            took.append(time.monotonic() - began)
            seqs = [one["metadata"]["seq"] for one in raw.events if "seq" in one["metadata"]]
            figures.holds("every event once and in order", seqs == list(range(1, missed + 1)))
            figures.holds("complete", raw.of("resumed")[0]["payload"]["complete"] is True)
    frames, behind_s = await _join(cluster, scale)
    figures.time(f"resume of {missed} events at most", max(took), at_most_s=scale.within(1.0))
    figures.time("(median)", sorted(took)[1])
    figures.count("frames at most per generation that a new device joins", max(frames), at_most=3)
    figures.count("joined at", len(frames), at_most=None)
    figures.time("abreast after at most", max(behind_s), at_most_s=scale.within(1.0))
    return figures


def _event(user: str, seq: int, text: str) -> Json:
    return {
        "user_id": user,
        "seq": seq,
        "type": "twin_message",
        "message_id": f"{user}-{seq}",
        "conversation_id": "main",
        "session_id": None,
        "in_response_to": None,
        "at": datetime.now(UTC),
        "payload": _answer(text, f"g-{seq}"),
    }


def _answer(text: str, generation_id: str, **more: Any) -> Json:
    """The payload of a `twin_message` that no twin has made."""
    return {"text": text, "generation_id": generation_id, "status": "complete", "model": "", "used_traits": [], **more}


async def _join(cluster: Cluster, scale: Scale) -> tuple[list[int], list[float]]:
    """How many frames a joining device gets until it has all the text there was when it joined, and how long it
    takes; on every server, several times in one answer."""
    user = cluster.user("joined")
    await cluster.script(user, token_delay_s=0.03, count=scale.pick(100, 300))
    frames, behind_s = [], []
    async with cluster.device(user, 0) as first:
        message_id = await first.send(f"at length for {user}")
        await first.until(lambda state: (g := state.generation_of(message_id)) and g.next_index > 20)
        for turn in range(scale.pick(3, 9)):
            generation = first.state.generation_of(message_id)
            if generation is None:
                break
            had, began = len(generation.text), time.monotonic()
            async with RawSocket(cluster.servers[turn % 3].url, token_of(user)) as joined:
                await joined.until(lambda joined=joined, had=had: _length(joined) >= had)
                behind_s.append(time.monotonic() - began)
                frames.append(len(joined.of("twin_message_chunk")))
        await first.answer(message_id)
    return frames, behind_s


def _length(raw: RawSocket) -> int:
    return sum(len(one["payload"]["text"]) for one in raw.of("twin_message_chunk"))


# -- F9 --------------------------------------------------------------------------------------------------------------


async def unauthenticated_sockets(cluster: Cluster, scale: Scale) -> Figures:
    """Sockets that never authenticate are gone in time; with MongoDB away a connect is refused by code, and soon."""
    figures = Figures("F9")
    number, handshake_s = scale.pick((60, 2.0), (500, 10.0))
    tuning = json.dumps({"turn_lease_s": 2, "handshake_s": handshake_s})
    server = await cluster.process("server", TWIN_TEST_TUNING=tuning)
    try:
        await _strangers(cluster, server, figures, scale, number, handshake_s)
        for word, fail, mend in (
            ("killed", cluster.mongod.kill, cluster.mongod.restart),
            ("hung", cluster.mongod.pause, cluster.mongod.resume),
        ):
            await asyncio.to_thread(fail)
            try:
                began = time.monotonic()
                async with RawSocket(server.url, token_of(cluster.user())) as raw:
                    refusal = (raw.refusal or {}).get("data", {})
                    figures.time(f"refusal with MongoDB {word}", time.monotonic() - began, at_most_s=scale.within(5.0))
                    figures.holds("refused as unavailable", refusal.get("code") == "unavailable")
                    figures.holds(
                        "retryable", refusal.get("retryable") is True and refusal.get("retry_after_ms", 0) > 0
                    )
            finally:
                await asyncio.to_thread(mend)
            await eventually(server.is_ready, 20)
    finally:
        await asyncio.to_thread(server.stop, 3.0)
    await cluster.until_ready()
    return figures


async def _strangers(
    cluster: Cluster, server: Process, figures: Figures, scale: Scale, number: int, handshake_s: float
) -> None:
    async with (
        aiohttp.ClientSession() as looks,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        await asyncio.sleep(0.5)
        before = await _gauges(looks, server)
        ends: list[float] = []
        sids: list[str] = []

        async def websocket(index: int) -> None:
            at = server.url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
            async with http.ws_connect(at, autoclose=index % 10 > 0) as ws:  # every tenth ignores the close
                began = time.monotonic()
                await ws.receive()  # the Engine.IO greeting
                while (said := await ws.receive()).type is aiohttp.WSMsgType.TEXT:
                    await ws.send_str("3" if said.data == "2" else "")
                if index % 10 == 0 and ws._reader is not None:
                    while not ws._reader.at_eof() and ws._reader.exception() is None:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                ends.append(time.monotonic() - began)

        async def polling(index: int) -> None:
            at = f"{server.url}/socket.io/?EIO=4&transport=polling"
            async with http.get(at) as response:
                found = re.search(r'"sid":"([^"]+)"', await response.text())
            began = time.monotonic()
            sids.append(found.group(1) if found else "")
            while index % 2:  # every other polls on
                async with http.get(f"{at}&sid={sids[-1]}") as response:
                    if response.status != 200:
                        break
                ends.append(time.monotonic() - began)
                return
            return

        tasks = [asyncio.create_task((polling if i % 5 == 0 else websocket)(i)) for i in range(number)]
        await eventually(lambda: _sockets(looks, server, before["twin_sockets"] + number), 30)
        opened_at = time.monotonic()
        await eventually(lambda: _sockets(looks, server, before["twin_sockets"]), handshake_s + 10)
        gone_s = time.monotonic() - opened_at
        await asyncio.wait(tasks, timeout=5)
        still = sum(not task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        known = 0
        for sid in sids[:20]:
            async with http.get(f"{server.url}/socket.io/?EIO=4&transport=polling&sid={sid}") as response:
                known += response.status == 200
        await http.close()  # a connection that is kept alive has a task
        until = time.monotonic() + 10
        while (after := await _gauges(looks, server))["twin_tasks"] > before["twin_tasks"] + 3:
            if time.monotonic() > until:
                break
            await asyncio.sleep(0.2)
    figures.note(f"{number} sockets, a fifth polling")
    figures.time("closed after at most", max(ends), at_most_s=handshake_s + scale.within(0.5))
    figures.time("no entry after", gone_s, at_most_s=handshake_s + scale.within(0.5))
    figures.count("still open", still)
    figures.count("polling ids still known", known)
    # Two are the library's own, from the first socket on; one is the scrape.
    figures.count("tasks left over", max(0, int(after["twin_tasks"] - before["twin_tasks"]) - 3))


async def _gauges(http: aiohttp.ClientSession, server: Process) -> dict[str, float]:
    async with http.get(f"{server.url}/metrics") as response:
        lines = [line.rpartition(" ") for line in (await response.text()).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def _sockets(http: aiohttp.ClientSession, server: Process, wanted: float) -> bool:
    return (await _gauges(http, server))["twin_sockets"] == wanted


FAULTS: dict[str, Fault] = {
    "F4": slow_reader,
    "F5": drain_with_many_clients,
    "F8": long_absence,
    "F9": unauthenticated_sockets,
}

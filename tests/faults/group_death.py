"""Servers die: F1 in the middle of many streams, F7 while one message is sent many times over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from tests.faults.cluster import Cluster, Device, Fault, chooser
from tests.faults.figures import Figures, Scale, percentile
from tests.scripted_model import made_answer

TOKENS = 20


async def killed_server(cluster: Cluster, scale: Scale) -> Figures:
    """kill -9 a server in the middle of streams, round robin; every device ends with everything, once, in order."""
    choose = chooser(scale, "F1")
    users = [cluster.user("killed_server") for _ in range(scale.pick(8, 46))]
    rounds = scale.pick(1, 10)
    await cluster.script("of killed_server-", token_delay_s=scale.pick(0.1, 0.2), count=TOKENS)
    figures = Figures("F1")
    times: list[float] = []
    texts: dict[str, dict[str, str]] = {user: {} for user in users}
    async with AsyncExitStack() as stack:
        js = await stack.enter_async_context(cluster.stock())
        stock = [await js.open(user) for user in users[: scale.pick(2, 8)]]
        first, second = [
            [await stack.enter_async_context(cluster.device(user, at, heartbeat=False)) for user in users]
            for at in (0, 1)
        ]
        records = {user: [one.record for one in (*first, *second, *stock) if one.user == user] for user in users}
        every = [record for devices in records.values() for record in devices]
        for number in range(rounds):
            victim = number % len(cluster.servers)
            await asyncio.gather(*(one.move(victim) for one in first if one.server != victim))
            asked = [await one.send(f"round {number} of {one.user}") for one in first]
            for one, message_id in zip(first, asked, strict=True):
                texts[one.user][message_id] = f"round {number} of {one.user}"
            await asyncio.gather(*(_streaming(*pair) for pair in zip(first, asked, strict=True)))
            await asyncio.sleep(choose.uniform(0, 1))
            connects = [len(record.connected_at) for record in every]
            killed_at = time.monotonic()
            cluster.servers[victim].kill()
            restarted = asyncio.create_task(cluster.restart(victim))
            await _meanwhile([pair for pair in zip(second, asked, strict=True) if pair[0].server != victim])
            for one, other, message_id in zip(first, second, asked, strict=True):
                await one.answer(message_id, 60)
                await other.answer(message_id, 60)
            for one in stock:
                message_id = asked[users.index(one.user)]
                await js.until(lambda record=one.record, sent=message_id: sent in record.answers)
            await restarted
            for record, had in zip(every, connects, strict=True):
                if len(record.connected_at) > had:
                    times.append(record.resumed_after(killed_at) or float("inf"))
        total = await cluster.settle(records)
        ghosts = await cluster.ghosts(users)
    figures.note(f"{len(every)} clients, {len(stock)} of them stock JS, {rounds} rounds, {len(times)} reconnects")
    figures.judge(total)
    figures.count("answers that seem to run on", ghosts)
    figures.count(
        "not answered once and in full", sum([await _violations(cluster, user, texts[user]) for user in users])
    )
    whole, finals = (sum(found) for found in zip(*((r.joined_whole(), len(r.finals)) for r in every), strict=True))
    figures.note(f"{whole} of {finals} answers joined from all their chunks")
    figures.time("p95 to resumed", percentile(times, 0.95), at_most_s=scale.within(3.0))
    return figures


async def _meanwhile(readers: Sequence[tuple[Device, str]]) -> None:
    """Things happen while others are away, so that they have something to resume."""
    for _ in range(4):
        for device, message_id in readers:
            await device.read(message_id)
        await asyncio.sleep(0.1)


async def _streaming(device: Device, message_id: str) -> None:
    await device.until(lambda state: bool((running := state.generation_of(message_id)) and running.text))


async def _violations(cluster: Cluster, user: str, texts: dict[str, str]) -> int:
    """Of these messages, how many are not stored once and answered once, completely."""
    log = await cluster.log(user)
    wrong = 0
    for message_id, text in texts.items():
        stored = [event for event in log if event["message_id"] == message_id]
        answers = [event["payload"] for event in log if event["in_response_to"] == message_id]
        said = [(payload.get("status"), payload.get("text")) for payload in answers]
        wrong += len(stored) != 1 or said != [("complete", "".join(made_answer(text, TOKENS)))]
    return wrong


async def repeats_past_a_death(cluster: Cluster, scale: Scale) -> Figures:
    """One message, sent by many devices over all servers at once; again after its server was killed; and again."""
    user, message_id = cluster.user("repeats_past_a_death"), "the-one"
    text = f"once for {user}"
    await cluster.script(text, token_delay_s=0.05, count=scale.pick(20, 60))
    senders = scale.pick(9, 20)
    figures = Figures("F7")
    async with AsyncExitStack() as stack:
        devices = [
            await stack.enter_async_context(cluster.device(user, index % len(cluster.servers), heartbeat=False))
            for index in range(senders)
        ]
        await _say(devices, text, message_id)
        await asyncio.gather(*(_streaming(device, message_id) for device in devices))
        victim = await _answering(cluster)
        cluster.servers[victim].kill()
        restarted = asyncio.create_task(cluster.restart(victim))
        await asyncio.gather(*(_connected(device) for device in devices))
        await _say(devices, text, message_id)
        answers = [await device.answer(message_id, 60) for device in devices]
        await restarted
        await _say(devices, text, message_id)
        records = [device.record for device in devices]
        total = await cluster.settle({user: records})
        receipts = [receipt for record in records for receipt in record.receipts.get(message_id, [])]
    log = await cluster.log(user)
    seen = await cluster.model_seen()
    figures.note(f"{senders} devices, sent {3 * senders} times")
    figures.judge(total)
    figures.count("stored", sum(event["type"] == "user_message" for event in log), exactly=1)
    figures.count("answers", sum(event["type"] == "twin_message" for event in log), exactly=1)
    figures.count("model calls at a time", seen["peak_by_text"].get(text, 0), exactly=1)
    figures.count("different answers seen", len({(a.message_id, a.text, a.status) for a in answers}), exactly=1)
    figures.count("receipts", len(receipts), at_most=None)
    figures.count("different seqs in receipts", len({one["metadata"]["seq"] for one in receipts}), exactly=1)
    figures.count("accepted", sum(one["payload"]["status"] == "accepted" for one in receipts), exactly=1)
    return figures


async def _say(devices: Sequence[Device], text: str, message_id: str) -> None:
    """All send it at once, and each has its receipt."""
    had = [len(device.record.receipts.get(message_id, [])) for device in devices]
    await asyncio.gather(*(device.send(text, message_id=message_id) for device in devices))
    for device, before in zip(devices, had, strict=True):
        record = device.record
        await device.until(lambda _, r=record, n=before: len(r.receipts.get(message_id, [])) > n, 20)


async def _answering(cluster: Cluster) -> int:
    """The server that generates now."""
    for index in range(len(cluster.servers)):
        if (await cluster.metrics(index))["twin_conversations_answering"]:
            return index
    raise LookupError("no server answers")


async def _connected(device: Device) -> None:
    await device.until(lambda _: device.is_connected, 20)


FAULTS: dict[str, Fault] = {"F1": killed_server, "F7": repeats_past_a_death}

"""MongoDB is killed in the middle of conversations (F11)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack

from tests.faults.cluster import Cluster, Device, Fault, chooser
from tests.faults.figures import Figures, Scale
from twin_sio.client import ClientError


async def killed_mongodb(cluster: Cluster, scale: Scale) -> Figures:
    """`kill -9` of MongoDB while people talk: what was acknowledged is there, nothing is answered twice."""
    number, kills = scale.pick((8, 1), (50, 3))
    figures = Figures("F11")
    choose = chooser(scale, "killed_mongodb")
    stopped = asyncio.Event()
    async with AsyncExitStack() as stack:
        devices = [
            await stack.enter_async_context(cluster.device(cluster.user("mongo"), index % 3)) for index in range(number)
        ]
        for device in devices:
            await cluster.script(device.user, token_delay_s=0.05, count=20)
        talking = [asyncio.create_task(_talk(device, stopped)) for device in devices]
        away_s = []
        for _ in range(kills):
            await asyncio.sleep(2 + choose.random())
            await asyncio.to_thread(cluster.mongod.kill)
            died_at = time.monotonic()
            await asyncio.sleep(1 + choose.random())
            await asyncio.to_thread(cluster.mongod.restart)
            away_s.append(time.monotonic() - died_at)
        back_at = time.monotonic()
        await cluster.until_ready()
        await asyncio.sleep(2)
        stopped.set()
        sent = [await task for task in talking]
        refused = vanished = 0
        for device, ids in zip(devices, sent, strict=True):
            for message_id in ids:
                try:
                    if device.failure(message_id) is None:
                        await device.answer(message_id, timeout=max(1.0, back_at + 60 - time.monotonic()))
                    else:
                        refused += 1
                except ClientError:
                    failure = device.failure(message_id)
                    is_refused = failure is not None and failure.code == "storage_unavailable" and failure.retryable
                    refused += is_refused
                    vanished += not is_refused
        whole_s = time.monotonic() - back_at
        missing = answers_missing = orphans = twice = doubled = lost = 0
        for device, ids in zip(devices, sent, strict=True):
            log = await cluster.log(device.user)
            stored = {event["message_id"] for event in log}
            missing += len(device.record.receipts.keys() - stored)
            answered = Counter(event["in_response_to"] for event in log if event["type"] == "twin_message")
            twice += sum(count > 1 for count in answered.values())
            acked = device.record.receipts.keys()
            answers_missing += sum(answered[one] == 0 for one in ids if one in acked)
            orphans += sum(answered[one] == 0 for one in ids if one in stored and one not in acked)
            doubled += len(log) - len({event["seq"] for event in log})
            lost += len(device.record.lost(log)) + device.record.doubled() + len(device.record.false(log))
        seen = await cluster.model_seen()
        peak = max(
            (seen["peak_by_text"].get(f"{one.user} says {n}", 0) for one in devices for n in range(99)), default=0
        )
        acknowledged = sum(len(device.record.receipts) for device in devices)
        errors = Counter(one["code"] for device in devices for one in device.record.errors)
    figures.note(f"{number} conversations, killed {kills} times, away for {max(away_s):.1f} s at most")
    figures.count("messages", sum(map(len, sent)), at_most=None)
    figures.count("acknowledged", acknowledged, at_most=None)
    figures.count("acknowledged and not there", missing)
    figures.count("refused by code", refused, at_most=None)
    figures.count("neither answered nor refused", vanished)
    figures.count("answered twice", twice)
    figures.count("acknowledged and not answered", answers_missing)
    # Its insert was done when its answer got lost: the sender is to send it again, and has not yet.
    figures.count("refused, yet stored, waiting for a repeat", orphans, at_most=None)
    figures.count("lost, doubled or false on a device", lost + doubled)
    figures.count("generated at once for one message", peak, at_most=1)
    figures.time("all answered after", whole_s, at_most_s=60)
    figures.note(f"errors sent: {dict(errors)}")
    return figures


async def _talk(device: Device, stopped: asyncio.Event) -> list[str]:
    """One message after the other, each as soon as the last was answered or the time for that is up."""
    ids = []
    while not stopped.is_set():
        ids.append(await device.send(f"{device.user} says {len(ids)}"))
        try:
            await device.answer(ids[-1], timeout=10)
        except ClientError:
            await asyncio.sleep(0.1)
    return ids


FAULTS: dict[str, Fault] = {"F11": killed_mongodb}

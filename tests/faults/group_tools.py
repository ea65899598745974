"""Tools and approvals in the middle of what F1, F3, F5, F7, F11 and F13 break: F14."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.faults import tool_agent
from tests.faults.cluster import Cluster, Device, Fault, cluster
from tests.faults.figures import Figures, Scale
from tests.waiting import eventually
from twin_sio.client import RequestFailed

Break = Callable[[Cluster], Awaitable[None]]


async def _kill_the_servers_that_answer(running: Cluster) -> None:
    """F1: `kill -9` of all that call tools now."""
    victims = [
        index for index in range(len(running.servers)) if (await running.metrics(index))["twin_conversations_answering"]
    ]
    for victim in victims:
        running.servers[victim].kill()
    await asyncio.gather(*(running.restart(victim) for victim in victims))


async def _kill_redis(running: Cluster) -> None:
    """F3: Redis dies and comes back empty."""
    running.redis.kill()
    await asyncio.to_thread(shutil.rmtree, running.redis.folder / "appendonlydir")
    await asyncio.sleep(1)
    await asyncio.to_thread(running.redis.restart)


async def _stop_a_server(running: Cluster) -> None:
    """F5: SIGTERM, in the middle of calls and with approvals pending."""
    await asyncio.to_thread(running.servers[0].stop, 30.0)
    await running.restart(0)


async def _kill_mongodb(running: Cluster) -> None:
    """F11: MongoDB in the middle of it."""
    await asyncio.to_thread(running.mongod.kill)
    await asyncio.to_thread(running.mongod.restart)
    await running.until_ready()


async def _roll(running: Cluster) -> None:
    """F13: every server, one after the other."""
    for index in range(len(running.servers)):
        await asyncio.to_thread(running.servers[index].stop, 30.0)
        await running.restart(index)


BREAKS: dict[str, Break] = {
    "F1": _kill_the_servers_that_answer,
    "F3": _kill_redis,
    "F5": _stop_a_server,
    "F11": _kill_mongodb,
    "F13": _roll,
}


async def tools_in_the_middle(_: Cluster | None, scale: Scale) -> Figures:
    """Half of the users have a tool running as it breaks, half wait for an approval, which they give afterwards from a
    device elsewhere, several times over (F7). Everybody gets one whole answer; no call is made twice."""
    figures = Figures("F14")
    with TemporaryDirectory(prefix="faults-tools-") as folder:
        called = Path(folder) / "called"
        called.touch()
        variables: dict[str, Any] = {
            "TWIN_AGENT": "tests.faults.tool_agent:agent",
            tool_agent.CALLED: str(called),
            "TWIN_EXTRACTION": "rules",
            # An answer is begun three times at most: on a slow machine two would lose a lease of 2 s to the outage.
            "TWIN_TEST_TUNING": json.dumps({"turn_lease_s": 5}),
        }
        async with cluster(Path(folder), **variables) as running:
            for name, breaks in BREAKS.items():
                for _ in range(scale.pick(1, 3)):
                    await _once(running, name, breaks, called, figures, scale.pick(3, 15))
    return figures


async def _once(running: Cluster, name: str, breaks: Break, called: Path, figures: Figures, count: int) -> None:
    async with AsyncExitStack() as stack:
        devices, asked = [], []
        for number in range(2 * count):
            user = running.user(f"tools-{name}")
            devices.append(await stack.enter_async_context(running.device(user, number % 3, heartbeat=False)))
            tool = "pay" if number < count else "order"
            text, call = f"please {tool} for {user}", {"name": tool, "arguments": {"what": user}}
            await running.script(text, streams=True, answered=0, tokens=["I ", "do."], calls=[call])
            await running.script(text, streams=True, answered=1, tokens=["It is ", "done."], token_delay_s=0.02)
        paying, ordering = devices[:count], devices[count:]
        for device in ordering:
            asked.append(await device.send(f"please order for {device.user}"))
        for device in ordering:
            await device.until(lambda _, d=device: bool(d.state.progress.approvals), 30)
        asked = [*[await device.send(f"please pay for {device.user}") for device in paying], *asked]
        await eventually(lambda: any(device.user in called.read_text() for device in paying), 30)
        await breaks(running)
        others = [
            await stack.enter_async_context(running.device(device.user, number % 3, last_seq=0, heartbeat=False))
            for number, device in enumerate(ordering)
        ]
        for device, other in zip(ordering, others, strict=True):
            await other.until(lambda _, o=other: bool(o.state.progress.approvals), 30)
            approval_id = next(iter(other.state.progress.approvals))
            await asyncio.gather(*(_approve(one, approval_id) for one in (device, other, other)))
        for device, message_id in zip(devices, asked, strict=True):
            await _answered(device, message_id)
        records = {device.user: [device.record] for device in devices}
        for other in others:
            records[other.user].append(other.record)
        figures.judge(await running.settle(records))
        await _judge(running, name, called, figures, [(d.user, m) for d, m in zip(devices, asked, strict=True)], count)


async def _answered(device: Device, message_id: str) -> None:
    """Wait for the answer; what was refused for now, as MongoDB was away, is sent again as a person would."""
    while True:
        try:
            await device.answer(message_id, 60)
        except RequestFailed as refusal:
            if not refusal.retryable:
                raise
            await asyncio.sleep((refusal.retry_after_ms or 500) / 1000)
            await device.send(device.state.messages[message_id].text, message_id=message_id)
        else:
            return


async def _approve(device: Device, approval_id: str) -> None:
    await eventually(lambda: device.is_connected, 30)
    await device.approve(approval_id, "approve")


async def _judge(
    running: Cluster, name: str, called: Path, figures: Figures, asked: list[tuple[str, str]], count: int
) -> None:
    lines = await asyncio.to_thread(called.read_text)
    made = Counter(line.split()[0] for line in lines.splitlines())
    doubled = sum(made[user] > 1 for user, _ in asked)
    untold = unanswered = lost = 0
    for user, _ in asked:
        log = await running.log(user)
        answers = [event["payload"] for event in log if event["type"] == "twin_message"]
        ended = [answer["status"] for answer in answers]
        if ended != ["complete"]:
            unanswered += 1
            why = [answer.get("error") for answer in answers]
            figures.note(f"{name}: the answers to {user} ended as {ended}, {why}")
        resolved = [event for event in log if event["type"] == "approval_resolved"]
        requested = [event for event in log if event["type"] == "approval_requested"]
        lost += len(resolved) != len(requested)
        steps = answers[0].get("steps", []) if answers else []
        # A call that was made and whose result is lost is unknown; one that was not made is not done.
        untold += any(step["state"] == "done" for step in steps) and made[user] != 1
    figures.count(f"{name}: calls made twice", doubled)
    figures.count(f"{name}: not answered once and whole", unanswered)
    figures.count(f"{name}: approvals without their one decision", lost)
    figures.count(f"{name}: said to be done, and not called once", untold)
    figures.note(f"{name}: {len(asked)} answers, half with a tool running, half waiting for an approval ({count} each)")


FAULTS: dict[str, Fault] = {"F14": tools_in_the_middle}

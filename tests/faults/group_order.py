"""Many events from everywhere: F6 one order for all, F12 whatever a network does to sends and connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from tests.faults.cluster import Cluster, Device, Fault, chooser
from tests.faults.figures import Figures, Scale
from tests.faults.record import WITHOUT_TOOLS, Json
from tests.waiting import eventually
from twin_sio.client import ClientError, RequestFailed
from twin_sio.client.envelopes import NEEDS_ANSWER
from twin_sio.clock import monotonic

IN_FLIGHT = 16


async def one_order_for_all(cluster: Cluster, scale: Scale) -> Figures:
    """Every server stores many events of one user at once; all devices see them in the same order."""
    choose = chooser(scale, "F6")
    each = scale.pick(40, 500)
    user = cluster.user("one_order_for_all")
    figures = Figures("F6")
    async with AsyncExitStack() as stack:
        devices = [
            await stack.enter_async_context(cluster.device(user, at, heartbeat=False))
            for at in range(len(cluster.servers))
        ]
        answer = await devices[0].ask(f"what is said of {user}?")
        room = [asyncio.Semaphore(IN_FLIGHT) for _ in devices]
        began = monotonic()

        async def say(at: int, kind: str) -> None:
            async with room[at]:
                await devices[at].feedback(answer.message_id, kind)

        plan = [(at, choose.choice(("up", "down", "none"))) for at in range(len(devices)) for _ in range(each)]
        await asyncio.gather(*(say(at, kind) for at, kind in plan))
        await eventually(lambda: _has(cluster, user, len(plan) + 2), 30.0)
        took_s = monotonic() - began
        records = [device.record for device in devices]
        total = await cluster.settle({user: records})
    orders = {tuple((seq, message_id) for seq, message_id, _ in record.applied) for record in records}
    figures.note(f"{len(devices)} servers x {each} events, {len(devices)} devices, {len(plan) / took_s:.0f} events/s")
    figures.judge(total)
    figures.count("different orders", len(orders), exactly=1)
    figures.count("refused", sum(len(record.errors) for record in records))
    return figures


async def _has(cluster: Cluster, user: str, count: int) -> bool:
    return len(await cluster.log(user)) >= count


# -- F12 ---------------------------------------------------------------------------------------------------------------


class Careless(Device):
    """A device whose network loses, repeats and delays what it sends."""

    def __init__(self, cluster: Cluster, user: str, server: int, choose: random.Random) -> None:
        self._choose = choose
        self._late: set[asyncio.Task[None]] = set()
        self.is_careless = True
        self.mishaps = 0
        super().__init__(cluster, user, server, ack_timeout=0.7)

    async def _transmit(self, envelope: Json) -> None:
        chance = self._choose.random() if self.is_careless else 1.0
        if chance >= 0.45 or envelope["type"] not in NEEDS_ANSWER:
            await super()._transmit(envelope)
            return
        self.mishaps += 1
        if chance >= 0.3:
            await super()._transmit(envelope)
            await super()._transmit(envelope)
        elif chance >= 0.15:
            late = asyncio.create_task(self._emit_later(envelope, self._choose.uniform(0.01, 0.3)))
            self._late.add(late)
            late.add_done_callback(self._late.discard)

    async def _emit_later(self, envelope: Json, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await super()._transmit(envelope)


async def bad_network(cluster: Cluster, scale: Scale) -> Figures:
    """Seeded schedules of lost, repeated and reordered sends, kills and reconnects over two servers: in the end every
    client knows what the server knows, of every kind of durable event but those of tools (F14)."""
    figures = Figures("F12")
    schedules, steps = scale.pick((1, 30), (12, 70))
    kinds: dict[str, int] = dict.fromkeys(sorted(WITHOUT_TOOLS), 0)
    done: dict[str, int] = {}
    different: list[str] = []
    events = 0
    for number in range(schedules):
        choose = random.Random(f"{scale.seed}:F12:{number}")
        schedule = Schedule(cluster, choose)
        async with AsyncExitStack() as stack:
            try:
                await schedule.prepare(stack)
                for _ in range(steps):
                    name = await schedule.step()
                    done[name] = done.get(name, 0) + 1
                log = await schedule.end()
                different += [f"schedule {number}: {one}" for one in await schedule.differences(log)]
            finally:
                await schedule.restore()
        for event in log:
            kinds[event["type"]] += 1
        events += len(log)
        done["mishaps"] = done.get("mishaps", 0) + sum(device.mishaps for device in schedule.devices)
    figures.note(f"{schedules} schedules of {steps} steps ({', '.join(f'{n} {k}' for k, n in sorted(done.items()))})")
    figures.note(f"{events} events ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})")
    figures.count("kinds that never came", sum(not n for n in kinds.values()))
    figures.count("differences", len(different))
    figures.broken += different[:5]
    return figures


class Schedule:
    """One user with devices on two servers, and what happens to them."""

    def __init__(self, cluster: Cluster, choose: random.Random) -> None:
        self.cluster = cluster
        self.choose = choose
        self.user = cluster.user("bad_network")
        self.devices: list[Careless] = []
        self.sent: list[tuple[str, str]] = []
        self.requests: set[asyncio.Task[None]] = set()
        self.answer_id = ""
        self.trait_id = ""
        self.down: int | None = None
        self.number = 0

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Four devices that have received a first answer and a first trait."""
        for number in range(4):
            device = Careless(self.cluster, self.user, number % 2, random.Random(self.choose.random()))
            self.devices.append(await stack.enter_async_context(device))
        self.answer_id = (await self.cluster.teach(self.devices[0])).message_id
        await self.cluster.script(self.user, token_delay_s=0.02)
        for device in self.devices:
            await device.until(lambda state: state.profile_version > 0, 60)
        self.trait_id = next(iter(self.devices[0].state.traits))

    async def step(self) -> str:
        """One thing happens; its name."""
        actions = {
            self.say: 4, self.say_again: 2, self.rate: 3, self.read: 3, self.correct: 2,
            self.drop: 3, self.move: 2, self.kill: 1, self.wait: 3,
        }  # fmt: skip
        action = self.choose.choices(list(actions), list(actions.values()))[0]
        device = self.choose.choice(self.devices)
        await action(device)
        await asyncio.sleep(self.choose.uniform(0, 0.1))
        return action.__name__

    async def say(self, device: Careless) -> None:
        self.number += 1
        text, conversation = f"number {self.number} of {self.user}", self.choose.choice(("main", "side"))
        message_id = await device.send(text, conversation_id=conversation)
        self.sent.append((message_id, text))

    async def say_again(self, _: Careless) -> None:
        """The same message from another device, as an app does that shares its outbox."""
        if self.sent:
            message_id, text = self.choose.choice(self.sent)
            device = self.choose.choice(self.devices)
            known = device.state.messages.get(message_id)
            conversation = known.conversation_id if known is not None else "main"
            await device.send(text, conversation_id=conversation, message_id=message_id)

    async def rate(self, device: Careless) -> None:
        rating = self.choose.choice(("up", "down", "none"))
        self._ask(device.feedback(self._answer(device), rating, comment=str(self.choose.random())))

    async def read(self, device: Careless) -> None:
        await device.read(self._answer(device))

    async def correct(self, device: Careless) -> None:
        value = self.choose.choice(("tea", "coffee", "water"))
        self._ask(device.correct(self.trait_id, "edit", value))

    async def drop(self, device: Careless) -> None:
        await device.drop()

    async def move(self, device: Careless) -> None:
        device.goes_to(self.choose.choice([index for index in (0, 1) if index != self.down]))
        await device.drop()

    async def kill(self, _: Careless) -> None:
        """One of the two dies; the one that died before is back."""
        await self.restore()
        self.down = self.choose.choice((0, 1))
        self.cluster.servers[self.down].kill()

    async def wait(self, _: Careless) -> None:
        await asyncio.sleep(self.choose.uniform(0.1, 0.6))

    def _answer(self, device: Careless) -> str:
        """Any answer that the device knows of."""
        known = [one.message_id for one in device.state.messages.values() if one.role == "twin"]
        return self.choose.choice(sorted(known) or [self.answer_id])

    def _ask(self, work: Any) -> None:
        async def asked() -> None:
            try:
                await work
            except RequestFailed as failed:
                if not failed.retryable:
                    raise
            except ClientError:
                pass  # its time was up: it was done or not, the log tells

        task = asyncio.create_task(asked())
        self.requests.add(task)

    async def restore(self) -> None:
        if self.down is not None:
            number, self.down = self.down, None
            await self.cluster.restart(number)

    async def end(self) -> list[Json]:
        """The network is good again; wait until all is sent, answered and received. The log, which grows no more."""
        await self.restore()
        for device in self.devices:
            device.is_careless = False
        await asyncio.gather(*self.requests)
        for device in self.devices:
            await device.until(lambda state: not state.outbox, 60)

        async def is_quiet() -> bool:
            return not [turn for turn in await self.cluster.turns(self.user) if turn["unfinished"] or turn["to_learn"]]

        await eventually(is_quiet, 90.0)
        log: list[Json] = []
        while len(log) < len(fresh := await self.cluster.log(self.user)):
            log = fresh
            await asyncio.sleep(1.0)  # nothing acknowledges a read receipt: one may be on its way
        return log

    async def differences(self, log: Sequence[Json]) -> list[str]:
        """What any client knows otherwise than the log, the history and the profile have it."""
        head, found = log[-1]["seq"], []
        truth = await self._truth(log)
        if [event["seq"] for event in log] != list(range(1, head + 1)):
            found.append("the log has a gap")
        for message_id, _ in self.sent:
            if sum(event["in_response_to"] == message_id and event["type"] == "twin_message" for event in log) != 1:
                found.append(f"{message_id} is not answered once")
        for index, device in enumerate(self.devices):
            try:
                await device.until(lambda state: state.last_seq == head and not state.resuming, 15)
            except ClientError:
                found.append(f"device {index} ends at {device.state.last_seq}, the log at {head}")
                continue
            for name, value in _known(device).items():
                if value != truth[name]:
                    found.append(f"device {index}, {name}: {_first_difference(value, truth[name])}")
        total = await self.cluster.judge([device.record for device in self.devices], self.user)
        wrong = {name: n for name, n in vars(total).items() if n}
        return [*found, *([f"on the wire: {wrong}"] if wrong else [])]

    async def _truth(self, log: Sequence[Json]) -> dict[str, Any]:
        """The server's state, from the log, and as it tells a new device."""
        messages: dict[str, tuple[Any, ...]] = {}
        ratings: dict[str, Json] = {}
        read: dict[str, str] = {}
        for event in log:
            payload = event["payload"]
            if event["type"] in ("user_message", "twin_message"):
                messages[event["message_id"]] = (event["seq"], event["conversation_id"], payload["text"])
            elif event["type"] == "feedback":
                ratings[payload["message_id"]] = {
                    key: value for key, value in payload.items() if key != "message_id" and value is not None
                }
            elif event["type"] == "read_receipt":
                read[event["conversation_id"]] = payload["message_id"]
        async with self.cluster.device(self.user, 0) as fresh:
            profile = await fresh.profile()
            shown: dict[str, Any] = {}
            for conversation in await fresh.conversations():
                page = await fresh.history(conversation_id=conversation["conversation_id"], limit=100)
                shown |= {one["message_id"]: one for one in page["messages"]}
        if {message_id: one["text"] for message_id, one in shown.items()} != {m: v[2] for m, v in messages.items()}:
            raise AssertionError("history and log differ")
        traits = {trait["trait_id"]: (trait["value"], trait["status"]) for trait in profile["traits"]}
        return {
            "messages": messages, "ratings": ratings, "read": read, "version": profile["version"], "traits": traits
        }  # fmt: skip


def _known(device: Careless) -> dict[str, Any]:
    state = device.state
    return {
        "messages": {one.message_id: (one.seq, one.conversation_id, one.text) for one in state.messages.values()},
        "ratings": {one.message_id: one.feedback for one in state.messages.values() if one.feedback},
        "read": state.read_up_to,
        "version": state.profile_version,
        "traits": {trait_id: (trait["value"], trait["status"]) for trait_id, trait in state.traits.items()},
    }


def _first_difference(known: Any, true: Any) -> str:
    if isinstance(known, dict) and isinstance(true, dict):
        for key in sorted(known.keys() | true.keys()):
            if known.get(key) != true.get(key):
                return f"{key}: {known.get(key)!r} instead of {true.get(key)!r}"
    return f"{known!r} instead of {true!r}"


FAULTS: dict[str, Fault] = {"F6": one_order_for_all, "F12": bad_network}

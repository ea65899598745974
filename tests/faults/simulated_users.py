"""Users as they are over a day: they talk, read, rate, ask back; their devices come and go. For the soak."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.cluster import Cluster, Device
from tests.faults.record import Json, Record
from twin_sio.client import ClientError, HandshakeRefused, RequestFailed
from twin_sio.clock import new_id

TASTES = ("tea", "coffee", "water", "juice")
WORDS = (
    "well",
    "then",
    "tell",
    "me",
    "more",
    "about",
    "the",
    "garden",
    "and",
    "a",
    "long",
    "way",
    "home",
    "in",
    "rain",
)
REPEATS = 60
PATIENCE_S = 60.0


@dataclass
class Tally:
    """What all of them have done and seen so far."""

    acknowledged: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    """Of everything that was refused or failed, by code."""
    gave_up: list[str] = field(default_factory=list)
    """What no client may meet: one that does not come back, a message refused for good."""


class SimulatedDevice:
    """One device over all its visits: whatever connection it has, its record goes on where it was."""

    def __init__(self, cluster: Cluster, user: str, home: int) -> None:
        self._cluster = cluster
        self._user = user
        self._home = home
        self.device: Device | None = None
        self.record = Record(f"{user}/{home}")
        self.visits = 0

    async def come(self) -> None:
        """Connect at home, or where there is room, with what was seen before; as another session than before."""
        device = self._cluster.device(self._user, self._home, last_seq=self.record.last, session_id=new_id())
        device.record, device.on_envelope = self.record, self.record.hook
        self.visits += 1
        await device.connect(PATIENCE_S)
        self.device = device

    async def leave(self) -> None:
        if self.device is not None:
            device, self.device = self.device, None
            await device.close()


class SimulatedUser:
    """One user; `asked` are the ids of what was sent."""

    def __init__(self, cluster: Cluster, choose: random.Random, tally: Tally, *, devices: int, pause_s: float) -> None:
        self._choose = choose
        self._tally = tally
        self._pause_s = pause_s
        self.user = cluster.user("soak")
        self.seats = [
            SimulatedDevice(cluster, self.user, choose.randrange(len(cluster.servers))) for _ in range(devices)
        ]
        self.asked: list[str] = []
        self._acts: list[tuple[float, Callable[[SimulatedDevice, Device], Awaitable[None]]]] = [
            (0.62, self._ask),
            (0.08, self._context),
            (0.08, self._history),
            (0.06, self._look),
            (0.16, self._wander),
        ]

    @property
    def records(self) -> list[Record]:
        return [seat.record for seat in self.seats]

    async def live(self, over: asyncio.Event) -> None:
        """One thing after the other until it is over; whatever fails by code is counted, and life goes on."""
        await asyncio.gather(*(self._return(seat) for seat in self.seats))
        while not await _passed(over, self._choose.expovariate(1 / self._pause_s)):
            seat = self._choose.choice(self.seats)
            if seat.device is None:
                await self._return(seat)
                continue
            weights, acts = zip(*self._acts, strict=True)
            act = self._choose.choices(acts, weights)[0]
            self._tally.actions[act.__name__.strip("_")] += 1
            try:
                await act(seat, seat.device)
            except RequestFailed as refusal:
                self._tally.codes[refusal.code] += 1
            except ClientError as failure:
                self._tally.codes[type(failure).__name__] += 1

    async def _return(self, seat: SimulatedDevice) -> None:
        try:
            await seat.come()
        except HandshakeRefused as refusal:
            self._tally.gave_up.append(f"connect: {refusal.code}")
        except ClientError as failure:
            self._tally.gave_up.append(f"connect: {type(failure).__name__}")

    async def come_home(self) -> None:
        """Every device is there again."""
        await asyncio.gather(*(self._return(seat) for seat in self.seats if seat.device is None))

    async def go(self) -> None:
        await asyncio.gather(*(seat.leave() for seat in self.seats))

    # -- what they do ------------------------------------------------------------------------------------------------

    async def _ask(self, _: SimulatedDevice, device: Device) -> None:
        """Type, ask until it is stored, see the answer; sometimes stop it, rate it, ask for another one."""
        choose = self._choose
        await device.typing(True)
        conversation = choose.choice(("main", "main", "main", "aside"))
        message_id = await self._say(device, self._words(), conversation)
        await device.typing(False)
        if message_id is None:
            return
        if choose.random() < 0.1:
            with suppress(ClientError):  # it may have ended meanwhile
                await device.until(lambda state: bool((g := state.generation_of(message_id)) and g.text), 3.0)
                await device.stop(message_id)
        answer = await device.answer(message_id, 45.0)
        if choose.random() < 0.6:
            await device.read(answer.message_id)
        if choose.random() < 0.2:
            await device.feedback(answer.message_id, choose.choice(("up", "down")))
        if choose.random() < 0.08:
            await device.regenerate(message_id, 45.0)

    async def _say(self, device: Device, text: str, conversation: str) -> str | None:
        """Send it, and again where the server says that it may be: an id once it is stored."""
        message_id = new_id()
        self.asked.append(message_id)
        for _ in range(REPEATS):
            await device.send(text, message_id=message_id, conversation_id=conversation)
            try:
                await device.receipt(message_id, PATIENCE_S)
            except RequestFailed as refusal:
                if message_id not in device.record.receipts:
                    self._tally.codes[refusal.code] += 1
                    if not refusal.retryable:
                        self._tally.gave_up.append(f"a message: {refusal.code}")
                        return None
                    await asyncio.sleep((refusal.retry_after_ms or 500) / 1000)
                    continue
            self._tally.acknowledged += 1
            return message_id
        self._tally.gave_up.append("a message: repeated in vain")
        return None

    def _words(self) -> str:
        said = " ".join(self._choose.choices(WORDS, k=self._choose.randint(3, 40)))
        taste = f"All in all I prefer {self._choose.choice(TASTES)}. " if self._choose.random() < 0.05 else ""
        return f"{taste}{self.user} says {len(self.asked)}: {said}"

    async def _context(self, _: SimulatedDevice, device: Device) -> None:
        await device.update_context({"screen": self._choose.choice(WORDS), "battery": self._choose.randint(1, 100)})

    async def _history(self, _: SimulatedDevice, device: Device) -> None:
        await device.history(limit=self._choose.choice((10, 50, 200)))

    async def _look(self, _: SimulatedDevice, device: Device) -> None:
        await device.conversations()
        await device.profile()

    async def _wander(self, seat: SimulatedDevice, device: Device) -> None:
        """The network is lost for a moment, or the device leaves and comes back later as another session."""
        if self._choose.random() < 0.3:
            await device.drop()
        else:
            await seat.leave()


async def _passed(over: asyncio.Event, seconds: float) -> bool:
    """Wait so long; true as soon as it is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await over.wait()
    return over.is_set()


def violations(person: SimulatedUser, log: list[Json], turns: list[Json]) -> Counter[str]:
    """What is wrong with what this user was promised: every acknowledged message is in the log once, and answered as
    often as an answer to it was asked for, each answer with a status."""
    wrong: Counter[str] = Counter()
    receipts = {message_id for record in person.records for message_id in record.receipts}
    stored = Counter(event["message_id"] for event in log if event["type"] == "user_message")
    answers = Counter(event["in_response_to"] for event in log if event["type"] == "twin_message")
    owed = Counter(turn["message_id"] for turn in turns)
    for message_id in person.asked:
        if message_id not in receipts:
            continue
        wrong["acknowledged and not stored once"] += stored[message_id] != 1
        wrong["acknowledged and never answered"] += not answers[message_id]
        wrong["answered otherwise than once for each request"] += answers[message_id] != max(1, owed[message_id])
    wrong["answers without an end"] += sum(turn.get("unfinished", False) for turn in turns)
    return wrong

"""What the agent is given of the store while it makes an answer: its saved state, steering, and the apps' tools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from twin_sio.agent import Run
from twin_sio.clock import Clock, NewId, monotonic
from twin_sio.domain import HostTool, Json, SavedRun, Step, Turn
from twin_sio.errors import StorageUnavailable
from twin_sio.protocol import Outgoing
from twin_sio.services.ports import Delivery
from twin_sio.store.ports import HostTools, Log, Presence, Runs

_RETRY_S = 0.2
_LOOK_S = 2.0  # between two looks for a result of which no instance has told
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunServices:
    """What every run needs. `host_tools` is None where apps may offer none."""

    messages: Log
    store: Runs
    host_tools: HostTools | None
    presence: Presence
    delivery: Delivery
    clock: Clock
    new_id: NewId

    async def begin(self, turn: Turn) -> StoredRun:
        """The run of an attempt that has begun. Raises `StorageUnavailable`."""
        return StoredRun(turn, await self.store.load(turn) if turn.has_run else SavedRun(), self)


class StoredRun(Run):
    """A run over the store. While that is away it waits: the attempt is cancelled where it loses its lease."""

    def __init__(self, turn: Turn, saved: SavedRun, services: RunServices) -> None:
        stored = saved.state or {}
        self.saved = replace(saved, state=stored.get("agent"))
        self._state = self.saved.state  # what the agent has saved last, in this attempt or an earlier one
        self.steps: dict[str, Step] = {one["step_id"]: Step(**one) for one in stored.get("steps", ())}
        """The steps of all attempts, by id; the service records them here."""
        self.loops = False
        """Whether messages are taken in between its steps."""
        self.asked: int = stored.get("asked", 0)
        """Characters that the model was sent in all steps, in earlier attempts as far as these were stored."""
        self.steered: tuple[str, ...] = tuple(message_id for message_id, _ in saved.steered)
        """The ids of the messages that it has taken in."""
        self._turn = turn
        self._services = services
        self._texts: dict[str, str] = {}  # of what was taken in, by id
        self._changed = asyncio.Event()  # set where a result may have come

    def wake(self) -> None:
        """Something was stored for this turn: look at once."""
        self._changed.set()

    def begin_loop(self) -> None:
        self.loops = True

    def count_asked(self, characters: int) -> None:
        self.asked += characters

    async def save(self, state: Json) -> None:
        self._state = state
        await self.save_steps()

    async def save_steps(self) -> None:
        """Store the steps as they are now: an agent may save before what it has shown has come here."""
        steps = [asdict(step) for step in self.steps.values()]
        whole = {"agent": self._state, "steps": steps, "asked": self.asked}
        if not await _persistently(lambda: self._services.store.save(self._turn, whole)):
            raise StorageUnavailable

    async def steering(self) -> Sequence[tuple[str, str]]:
        ids = await _persistently(lambda: self._services.store.absorb(self._turn))
        for message_id in ids:
            if message_id not in self._texts:
                asked = await self._services.messages.get(self._turn.user_id, message_id)
                self._texts[message_id] = str(asked.payload["text"]) if asked is not None else ""
        self.steered = tuple(ids)
        return [(message_id, self._texts[message_id]) for message_id in ids if self._texts[message_id]]

    async def host_tools(self) -> Sequence[HostTool]:
        if self._services.host_tools is None:
            return ()
        user_id = self._turn.user_id
        offered, live = await asyncio.gather(
            self._services.host_tools.all(user_id), self._services.presence.sessions(user_id)
        )
        here = {session.session_id for session in live}
        first: dict[str, HostTool] = {}
        for tool in offered:
            if tool.session_id in here:
                first.setdefault(tool.name, tool)
        return tuple(first.values())

    async def call_host(self, call_id: str, tool: HostTool, arguments: Json, timeout_s: float) -> Json:
        turn, runs, until = self._turn, self._services.store, monotonic() + timeout_s
        session_id = await _persistently(lambda: runs.lease_call(turn, call_id, tool.session_id))
        is_sent = False
        while True:
            self._changed.clear()
            if (result := await _persistently(lambda: runs.result(turn.user_id, call_id))) is not None:
                return result
            if not is_sent:
                self._send_call(session_id, call_id, tool.name, arguments, timeout_s)
                is_sent = True
            left_s = until - monotonic()
            if left_s <= 0:
                raise TimeoutError
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, _LOOK_S)):
                    await self._changed.wait()

    def _send_call(self, session_id: str, call_id: str, name: str, arguments: Json, timeout_s: float) -> None:
        turn, services = self._turn, self._services
        payload = {"call_id": call_id, "name": name, "arguments": dict(arguments), "timeout_ms": int(timeout_s * 1000)}
        call = Outgoing(
            "tool_call",
            payload,
            services.new_id(),
            services.clock(),
            turn.session_id,
            turn.message_id,
            turn.conversation_id,
        )
        services.delivery.to_session_anywhere(turn.user_id, session_id, call)


async def _persistently(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` gives, once the store can be reached."""
    while True:
        try:
            return await work()
        except StorageUnavailable:
            await asyncio.sleep(_RETRY_S)

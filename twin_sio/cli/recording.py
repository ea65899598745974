"""Records a session to a file (a tape), and replays it against another server.

A tape is JSON Lines: `{tape: 1, protocol, started, session_id}`, then `{at_ms, direction: "in" | "out", envelope}` for
everything that went over the connection, but for tokens. It holds what was said: nobody but its user may read it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from twin_sio.cli.batch import Failure
from twin_sio.cli.printable import Output
from twin_sio.client import Hook, ResponseTimeout, TwinClient
from twin_sio.clock import iso, monotonic, new_id, now
from twin_sio.domain import DEFAULT_CONVERSATION, Json
from twin_sio.protocol import CLIENT_EVENTS, PROTOCOL_VERSION

_HOLDS_TOKEN = frozenset({"auth_refresh"})
# A client does this by itself, and says nothing with it; calls and approvals have other ids when they come again.
_UPKEEP = frozenset({"resume", "heartbeat", "auth_refresh", "host_tools", "tool_result", "approval"})
# How many of them come is no promise.
_BY_CHANCE = frozenset({"twin_thinking", "twin_message_chunk", "twin_reasoning_chunk", "twin_activity"})


# -- recording ---------------------------------------------------------------------------------------------------------


@contextmanager
def recording(path: Path) -> Iterator[Hook]:
    """A hook that writes every envelope to a new file; raises `Failure` if it exists or cannot be made."""
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)
    except FileExistsError:
        raise Failure(f"There is a file {path} already: a tape is never written over.") from None
    except OSError as fault:
        raise Failure(f"{path} cannot be written: {fault.strerror}.") from None
    with file:
        began = monotonic()
        file.write(_line({"tape": 1, "protocol": PROTOCOL_VERSION, "started": iso(now())}))

        def on_envelope(direction: Literal["in", "out"], envelope: Json) -> None:
            if envelope.get("type") not in _HOLDS_TOKEN:
                at_ms = round((monotonic() - began) * 1000)
                file.write(_line({"at_ms": at_ms, "direction": direction, "envelope": envelope}))

        yield on_envelope


def _line(value: Json) -> bytes:
    return orjson.dumps(value) + b"\n"


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RecordedEvent:
    """What the client said, when (ms), and in kind what came back: `type`, or `type:status`, each once."""

    at_ms: int
    type: str
    payload: Json
    message_id: str
    conversation_id: str
    answers: list[str] = field(default_factory=list)
    twin_messages: list[str] = field(default_factory=list)


def read_recording(path: Path) -> list[RecordedEvent]:
    """What is to be sent again, oldest first; raises `Failure` where the file is no recording."""
    try:
        with path.open("rb") as file:
            head, *lines = [orjson.loads(line) for line in file if line.strip()]
        if head["tape"] != 1:
            raise Failure(f"{path} is a tape of a kind that this version cannot read.")
        return _steps(lines)
    except OSError as fault:
        raise Failure(f"{path} cannot be read: {fault.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Failure(f"{path} is no tape: record one with twin-sio record.") from None


def _steps(lines: list[Json]) -> list[RecordedEvent]:
    steps: dict[str, RecordedEvent] = {}
    for line in lines:
        envelope = line["envelope"]
        if line["direction"] == "in":
            _note(envelope, steps)
        elif envelope["type"] in CLIENT_EVENTS.keys() - _UPKEEP:
            meta = envelope["metadata"]
            conversation_id = meta.get("conversation_id", DEFAULT_CONVERSATION)
            step = RecordedEvent(
                line["at_ms"], envelope["type"], envelope["payload"], meta["message_id"], conversation_id
            )
            steps.setdefault(step.message_id, step)  # what was sent again is said once
    return list(steps.values())


def _note(envelope: Json, steps: dict[str, RecordedEvent]) -> None:
    """Add what came to the step that it answers."""
    step = steps.get(envelope["metadata"].get("in_response_to", ""))
    if step is None or envelope["type"] in _BY_CHANCE:
        return
    outcome = envelope["payload"].get("status") or envelope["payload"].get("code")
    kind = f"{envelope['type']}:{outcome}" if outcome else envelope["type"]
    if kind not in step.answers:
        step.answers.append(kind)
    if envelope["type"] == "twin_message" and envelope["metadata"]["message_id"] not in step.twin_messages:
        step.twin_messages.append(envelope["metadata"]["message_id"])


# -- replaying ---------------------------------------------------------------------------------------------------------


class Replay:
    """Sends the recorded events again, with their pace times `speed`, and waits `timeout_s` for what came back then.

    Ids are fresh, and what refers to a message refers to its counterpart; with `same_ids` they are the recorded ones.
    """

    def __init__(
        self, client: TwinClient, steps: list[RecordedEvent], *, speed: float, same_ids: bool, timeout_s: float
    ) -> None:
        self._client = client
        self._steps = steps
        self._speed = speed
        self._timeout_s = timeout_s
        self._again = {
            step.message_id: RecordedEvent(
                step.at_ms,
                step.type,
                step.payload,
                step.message_id if same_ids else new_id(),
                step.conversation_id,
            )
            for step in steps
        }
        self._by_new_id = {step.message_id: step for step in self._again.values()}
        client.on_envelope = self._receive

    def _receive(self, direction: Literal["in", "out"], envelope: Json) -> None:
        if direction == "in":
            _note(envelope, self._by_new_id)

    async def run(self) -> list[tuple[RecordedEvent, RecordedEvent]]:
        """Each recorded step with what it is now."""
        began = monotonic()
        for step in self._steps:
            due = began + (step.at_ms - self._steps[0].at_ms) / 1000 / self._speed
            await asyncio.sleep(max(0.0, due - monotonic()))
            now_step = self._again[step.message_id]
            payload = await self._translated(step.payload)
            await self._client.submit(
                step.type, payload, conversation_id=step.conversation_id, message_id=now_step.message_id
            )
        pairs = [(step, self._again[step.message_id]) for step in self._steps]
        await self._wait(lambda: all(len(new.answers) >= len(old.answers) for old, new in pairs) or None)
        return pairs

    async def _wait(self, check: Callable[[], Any]) -> Any:
        try:
            return await self._client.until(lambda _: check(), self._timeout_s)
        except ResponseTimeout:
            return None

    async def _translated(self, payload: Json) -> Json:
        """The payload with the id of the message that it refers to as it is now, once that is known."""
        about = payload.get("message_id")
        if about is None:
            return payload
        if about in self._again:
            return {**payload, "message_id": self._again[about].message_id}
        for step in self._steps:
            if about in step.twin_messages:
                counterpart = await self._answer(self._again[step.message_id], step.twin_messages.index(about))
                return {**payload, "message_id": counterpart or about}
        return payload

    async def _answer(self, step: RecordedEvent, number: int) -> str | None:
        """The id of a step's nth answer, once it is there."""
        await self._wait(lambda: len(step.twin_messages) > number)
        return step.twin_messages[number] if len(step.twin_messages) > number else None


async def replay(
    client: TwinClient,
    steps: list[RecordedEvent],
    speed: float,
    same_ids: bool,
    timeout_s: float,
    as_json: bool,
    out: Output,
) -> bool:
    """Replay, print a line for each step, and say whether everything was answered in kind as it was then."""
    pairs = await Replay(client, steps, speed=speed, same_ids=same_ids, timeout_s=timeout_s).run()
    different = 0
    for old, new in pairs:
        same = old.answers == new.answers
        different += not same
        step = {"type": "step", "event": old.type, "message_id": new.message_id, "same": same}
        line = {**step, "recorded": old.answers, "now": new.answers}
        print(orjson.dumps(line).decode() if as_json else _plain(old, new), file=out, flush=True)
    end = {"type": "end", "steps": len(pairs), "different": different}
    plain = f"{len(pairs)} steps, {different} answered otherwise"
    print(orjson.dumps(end).decode() if as_json else plain, file=out, flush=True)
    return different == 0


def _plain(old: RecordedEvent, new: RecordedEvent) -> str:
    then, now_said = (" ".join(step.answers) or "nothing" for step in (old, new))
    if then == now_said:
        return f"same    {old.type}: {then}"
    return f"DIFFERS {old.type}: {then} then, {now_said} now"

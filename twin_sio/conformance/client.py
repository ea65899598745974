"""The client under test, as the script sees it: waits for what it does, and asks it what it shows and has run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from twin_sio.conformance.rules import RuleViolation, T
from twin_sio.conformance.server import ConnectAttempt, ReceivedEvent, ScriptedServer, in_main

REPORT = "report"
COUNT_TOOL = "count"


def first(items: list[T]) -> T | None:
    """The first of the items; None where there is none."""
    return items[0] if items else None


def short(shown: object) -> str:
    """As JSON, and no longer than a verdict can show."""
    return orjson.dumps(shown).decode()[:300]


class ClientUnderTest:
    """`limit_s` is what it has for whatever is waited for; every method raises `RuleViolation` when the time is up."""

    def __init__(self, server: ScriptedServer, limit_s: float) -> None:
        self._server = server
        self._limit_s = limit_s

    async def wait_for(self, check: Callable[[], T | None], otherwise: str) -> T:
        """The first result of `check` that is neither None nor False; `otherwise` says what did not happen."""
        return await self._server.wait_for(check, self._limit_s, otherwise)

    async def wait_connected(self) -> None:
        """Wait until it is connected, as it mostly is."""
        await self.wait_for(lambda: self._server.sid, "not reached: it is not connected, and did not connect")

    async def wait_accepted(self, before: int, otherwise: str, more_s: float = 0.0) -> ConnectAttempt:
        """Its first accepted handshake after the first `before` ones."""
        server = self._server
        return await server.wait_for(
            lambda: first([attempt for attempt in server.attempts[before:] if attempt.accepted]),
            self._limit_s + more_s,
            otherwise,
        )

    async def report(self) -> object:
        """What it shows, by its own report."""
        server = self._server
        await self.wait_connected()
        since = len(server.received)
        server.send(server.append_from_other_device("What do you show?", REPORT))

        def reported() -> ReceivedEvent | None:
            return first([sent for sent in server.of("user_message", since) if sent.event.conversation_id == REPORT])

        report = (await self.wait_for(reported, f"no report came (a user_message in {REPORT!r})")).event.payload.text
        try:
            return orjson.loads(report)
        except orjson.JSONDecodeError:
            raise RuleViolation("the report is no JSON list") from None

    def send_call(self, call_id: str) -> None:
        """Call its tool `COUNT_TOOL`."""
        call = {"call_id": call_id, "name": COUNT_TOOL, "arguments": {}, "timeout_ms": 5_000}
        self._server.send_new("tool_call", call, **in_main({}))

    def results(self, call_id: str) -> list[Any]:
        """The outputs that came to a call."""
        sent = [one.event.payload for one in self._server.of("tool_result")]
        return [result.output for result in sent if result.call_id == call_id]

    async def call(self, call_id: str) -> int:
        """Call its tool `COUNT_TOOL`: how often it was run, as it says."""
        self.send_call(call_id)
        results = await self.wait_for(
            lambda: self.results(call_id) or None, f"no tool_result came to a call of {COUNT_TOOL}"
        )
        output = results[0]
        if type(output) is not int:
            raise RuleViolation(f"{COUNT_TOOL} gave {short(output)}, not how often it was run")
        return output

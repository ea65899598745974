"""The conformance kit: our client keeps every rule, and each fault breaks the rule that is about it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from tests.conformant import naive, ours
from tests.raw import held_to_protocol
from tests.test_cli import run
from twin_sio.client import TwinClient
from twin_sio.clock import new_id
from twin_sio.conformance import RULES, UNKNOWN_EVENT, conformance_server

ALL = [rule.name for rule in RULES]


async def broken_by(client: Callable[[str, str], Awaitable[None]], limit_s: float = 3.0) -> list[str]:
    """The rules that a client breaks."""
    async with conformance_server(0, limit_s, arrival_s=10) as (url, script):
        running = asyncio.ensure_future(client(url, "a token"))
        try:
            verdicts = [verdict async for verdict in script.play()]
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
    assert [verdict.rule.name for verdict in verdicts] == ALL
    assert all(verdict.passed or verdict.observed for verdict in verdicts)
    return [verdict.rule.name for verdict in verdicts if not verdict.passed]


class Deaf(TwinClient):
    """Ours, but it does not hear events of one type."""

    def __init__(self, *args: Any, to: str, **named: Any) -> None:
        self._dropped = to
        super().__init__(*args, **named)

    def _on_envelope(self, envelope: dict[str, Any]) -> None:
        if envelope["type"] != self._dropped:
            super()._on_envelope(envelope)


class Forgetful(TwinClient):
    """Ours, but it makes a session id for every connection."""

    async def _auth(self) -> dict[str, Any]:
        return {**await super()._auth(), "session_id": new_id()}


class Older(TwinClient):
    """Ours, of before there were approvals: it says of no feature that it knows it, and drops their events."""

    async def _auth(self) -> dict[str, Any]:
        return {**await super()._auth(), "features": []}

    def _on_envelope(self, envelope: dict[str, Any]) -> None:
        if not envelope["type"].startswith("approval_"):
            super()._on_envelope(envelope)


class Plain(TwinClient):
    """Ours, but it knows of no merged chunks."""

    def _on_envelope(self, envelope: dict[str, Any]) -> None:
        envelope["payload"].pop("first_chunk_index", None)
        super()._on_envelope(envelope)


class Twice(TwinClient):
    """Ours, but it runs every call that comes."""

    def _on_envelope(self, envelope: dict[str, Any]) -> None:
        self._host_tools._results.clear()
        super()._on_envelope(envelope)


class NoBackoff:
    """Ours, but it ignores retry_after_ms."""

    def delay(self, *_: object) -> float:
        return 0.01


def faulty(kind: type[TwinClient] = TwinClient, **options: Any) -> Callable[[str, str], Awaitable[None]]:
    return lambda url, token: ours(url, token, kind, **options)


SAID: list[tuple[str, dict[str, Any]]] = []
FAULTS: dict[str, tuple[Callable[[str, str], Awaitable[None]], list[str]]] = {
    "none": (faulty(on_envelope=lambda way, envelope: SAID.append((way, envelope))), []),
    "over polling": (faulty(transports=("polling",)), []),
    "deaf to auth_expiring": (faulty(Deaf, to="auth_expiring"), ["refreshes_its_token"]),
    "deaf to resync": (faulty(Deaf, to="resync"), ["resumes_on_resync"]),
    "without heartbeats": (faulty(heartbeat=False), ["sends_heartbeats", "resumes_when_behind"]),
    "a session for each connection": (faulty(Forgetful), ["reconnects_with_the_same_session"]),
    "without merged chunks": (faulty(Plain), ["applies_a_merged_chunk"]),
    "deaf to the unknown": (faulty(Deaf, to=UNKNOWN_EVENT), ["counts_unknown_events"]),
    "deaf to approvals": (faulty(Deaf, to="approval_requested"), ["counts_approvals"]),
    "without approvals": (faulty(Older), []),
    "runs a call twice": (faulty(Twice), ["runs_a_tool_once"]),
    "impatient": (faulty(backoff=NoBackoff()), ["retries_a_refused_handshake"]),
}
NAIVE_KEEPS = {
    "sends_a_message",
    "leaves_a_draining_server",
    "counts_unknown_events",
    "counts_approvals",
    "runs_a_tool_once",
    "stays_disconnected",
    "follows_the_protocol",
}


async def test_each_fault_breaks_its_own_rule() -> None:
    """Our client keeps every rule each fault breaks its own and a naive client most."""
    clients = [client for client, _ in FAULTS.values()]
    found: list[list[str]] = []
    for start in range(0, len(clients), 6):  # more at once would hold each other up, and some rules are about times
        found += await asyncio.gather(*map(broken_by, clients[start : start + 6]))
    by_naive = await broken_by(naive, 0.7)
    assert dict(zip(FAULTS, found, strict=True)) == {name: broken for name, (_, broken) in FAULTS.items()}
    assert set(ALL) - set(by_naive) == NAIVE_KEEPS
    for envelope in [envelope for way, envelope in SAID if way == "in"]:
        if envelope["type"] != UNKNOWN_EVENT:
            held_to_protocol(envelope["type"], envelope)  # the kit itself says nothing that a server would not say


async def test_an_absent_client_breaks_every_rule_in_time() -> None:
    """A client that never comes breaks every rule but in bounded time."""

    async def nobody(url: str, token: str) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        async with conformance_server(0, 0.05, arrival_s=0.05) as (_, script):
            broken = [verdict.rule.name async for verdict in script.play() if not verdict.passed]
    assert set(ALL) - set(broken) == {"runs_a_tool_once", "follows_the_protocol"}


async def test_a_program_is_run_and_judged_as_json() -> None:
    """A program is run as the client and judged for scripts."""
    client = [sys.executable, "-m", "tests.conformant", "ours", "{url}", "{token}"]
    result = await run("conformance", "--json", "--limit", "5", "--", *client)
    listening, *rules, end = map(orjson.loads, result.stdout.splitlines())
    assert listening["url"].startswith("http://127.0.0.1:")
    assert [(rule["rule"], rule["passed"]) for rule in rules] == [(name, True) for name in ALL]
    assert end == {"type": "end", "passed": len(ALL), "failed": 0}
    assert result.exit_code == 0


async def test_a_program_that_is_not_there_is_named() -> None:
    result = await run("conformance", "--", "no-such-program-anywhere")
    assert result.exit_code == 1
    assert "no-such-program-anywhere cannot be started" in result.stderr


@pytest.mark.parametrize("rule", RULES, ids=ALL)
def test_every_rule_says_what_must_be_and_what_to_mend(rule: Any) -> None:
    assert rule.must.endswith(".")
    assert rule.fix.endswith(".")

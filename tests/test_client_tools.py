"""What the client does for the twin's tools, over real sockets: offers, runs each call once, decides approvals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.waiting import eventually
from twin_sio.client import Backoff, RequestFailed, TwinClient
from twin_sio.clock import new_id
from twin_sio.conformance import ScriptedServer, conformance_server
from twin_sio.domain import Json
from twin_sio.errors import AlreadyDecided, InvalidMessage, ServiceError, StorageUnavailable
from twin_sio.protocol import Incoming, Outgoing, error_payload

OPEN = {"name": "open", "description": "Opens a page.", "parameters": {"type": "object"}}


class Server(ScriptedServer):
    """The conformance kit's, which can leave events without an answer, or refuse them."""

    def __init__(self, connections: Any) -> None:
        super().__init__(connections, refuses_next=False, ignores_messages=False)
        self.silent: set[str] = set()  # types that get no answer
        self.refused: dict[str, list[ServiceError]] = {}  # by type: what the next ones are answered with

    def _answer(self, event: Incoming[Any]) -> Outgoing | None:
        if event.type in self.silent:
            return None
        if errors := self.refused.get(event.type):
            return self.send_new("error", error_payload(errors.pop(0)), in_response_to=event.message_id)
        return super()._answer(event)

    def call(self, call_id: str, name: str = "open", timeout_ms: int = 5_000, **arguments: Any) -> None:
        payload = {"call_id": call_id, "name": name, "arguments": arguments, "timeout_ms": timeout_ms}
        self.send_new("tool_call", payload, conversation_id="main")

    def results(self, call_id: str) -> list[Any]:
        return [one.event for one in self.of("tool_result") if one.event.payload.call_id == call_id]

    async def result(self, call_id: str, count: int = 1) -> Any:
        found: list[Any] = await self.holds(lambda: len(self.results(call_id)) >= count and self.results(call_id))
        return found[count - 1].payload

    async def holds(self, check: Callable[[], Any]) -> Any:
        return await self.wait_for(lambda: check() or None, 10, "not so")


@asynccontextmanager
async def client_of(server: Server, url: str, **more: Any) -> AsyncIterator[TwinClient]:
    async with TwinClient(url, "a token", backoff=Backoff(0.01, 0.05), ack_timeout=0.2, **more) as client:
        yield client


@pytest.fixture
async def at() -> AsyncIterator[tuple[Server, str]]:
    async with conformance_server(0, 10, 10, Server) as (url, script):
        assert isinstance(script.server, Server)
        yield script.server, url


class App:
    """Counts what it was asked to do."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, Json]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, name: str, arguments: Json) -> Any:
        self.runs.append((name, arguments))
        await self.go_on.wait()
        match arguments.get("do"):
            case "fail":
                raise ValueError("there is no such page")
            case "bytes":
                return b"no JSON"
            case "long":
                return "x" * 100_000
        return {"opened": arguments}


def offers(server: Server) -> list[list[str]]:
    return [[tool.name for tool in one.event.payload.tools] for one in server.of("host_tools")]


async def test_tools_are_offered_after_every_reconnect(at: tuple[Server, str]) -> None:
    """The newest offer, until it is taken back."""
    server, url = at
    async with client_of(server, url) as client:
        await client.offer_tools([OPEN], App())
        await client.offer_tools([OPEN, {**OPEN, "name": "close"}], App())
        server.close()
        await server.holds(lambda: len(offers(server)) == 3)
        await client.offer_tools([], App())
        server.close()
        await server.holds(lambda: len([one for one in server.attempts if one.accepted]) == 3 and server.sid)
        await client.send("still here")
        await server.holds(lambda: server.of("user_message"))
        assert offers(server) == [["open"], ["open", "close"], ["open", "close"], []]


async def test_an_offer_is_made_again_until_it_is_taken(at: tuple[Server, str]) -> None:
    server, url = at
    async with client_of(server, url) as client:
        await client.offer_tools([OPEN], App())
        server.refused["host_tools"] = [StorageUnavailable(retry_after_ms=10)]
        server.close()
        await server.holds(lambda: len(offers(server)) == 3)


async def test_an_offer_that_is_refused_says_why(at: tuple[Server, str]) -> None:
    server, url = at
    async with client_of(server, url) as client:
        server.refused["host_tools"] = [InvalidMessage()]
        with pytest.raises(RequestFailed, match="invalid_message"):
            await client.offer_tools([OPEN], App())


async def test_a_call_is_run_once_and_its_result_sent_again(at: tuple[Server, str]) -> None:
    """Also where it comes again while it runs."""
    server, url = at
    app = App()
    async with client_of(server, url) as client:
        await client.offer_tools([OPEN], app)
        app.go_on.clear()
        server.call("c-1", page=1)
        await server.holds(lambda: server.of("host_tools"))
        server.call("c-1", page=1)
        server.call("c-2", page=2)
        await eventually(lambda: len(app.runs) == 2)
        app.go_on.set()
        assert (await server.result("c-1")).output == {"opened": {"page": 1}}
        assert (await server.result("c-2")).output == {"opened": {"page": 2}}
        assert len(server.results("c-1")) == 1
        server.call("c-1", page=1)
        assert (await server.result("c-1", 2)).output == {"opened": {"page": 1}}
        assert app.runs == [("open", {"page": 1}), ("open", {"page": 2})]


async def test_a_result_is_sent_until_it_is_received(at: tuple[Server, str]) -> None:
    """Over a reconnect, under one id, and after a refusal that passes."""
    server, url = at
    async with client_of(server, url) as client:
        await client.offer_tools([OPEN], App())
        server.silent.add("tool_result")
        server.call("c-1")
        await server.result("c-1", 2)
        server.close()
        await server.holds(lambda: server.sid)
        server.refused["tool_result"] = [StorageUnavailable(retry_after_ms=10)]
        server.silent.clear()
        await server.holds(lambda: not server.refused["tool_result"])
        since = len(server.received)
        await server.holds(lambda: server.of("tool_result", since))
        assert len({one.message_id for one in server.results("c-1")}) == 1
        await client.until(lambda state: not state.outbox or None)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"do": "fail"}, "ValueError: there is no such page"),
        ({"name": "unknown"}, "This session does not offer the tool."),
        ({"do": "bytes"}, "The result could not be sent: invalid_message."),
        ({"do": "long"}, "The result could not be sent: too_large."),
    ],
)
async def test_what_goes_wrong_is_the_calls_error(at: tuple[Server, str], call: Json, error: str) -> None:
    """The twin is told of it, and the session goes on."""
    server, url = at
    async with client_of(server, url) as client:
        await client.offer_tools([OPEN], App())
        server.call("c-1", **call)
        assert (await server.result("c-1")).error == error
        server.call("c-2")
        assert (await server.result("c-2")).error is None


async def test_a_call_that_takes_too_long_is_ended(at: tuple[Server, str]) -> None:
    server, url = at
    app = App()
    app.go_on.clear()
    async with client_of(server, url) as client:
        await client.offer_tools([OPEN], app)
        server.call("c-1", timeout_ms=20)
        assert (await server.result("c-1")).error.startswith("TimeoutError")


async def test_a_decision_is_sent_until_it_counts(at: tuple[Server, str]) -> None:
    server, url = at
    async with client_of(server, url) as client:
        server.silent.add("approval")
        deciding = asyncio.create_task(client.approve("a-1", "edit", arguments={"people": 3}))
        await server.holds(lambda: len(server.of("approval")) >= 2)
        server.close()
        server.silent.clear()
        await deciding
        assert len({one.event.message_id for one in server.of("approval")}) == 1
        sent = server.of("approval")[0].event.payload
        assert (sent.approval_id, sent.decision, sent.arguments) == ("a-1", "edit", {"people": 3})
        server.refused["approval"] = [AlreadyDecided()]
        with pytest.raises(RequestFailed, match="already_decided"):
            await client.approve("a-1", "reject", comment="too late")


async def test_an_answer_that_took_the_message_in_is_its_answer(at: tuple[Server, str]) -> None:
    server, url = at
    async with client_of(server, url) as client:
        first = await client.send("a table for two")
        asking = asyncio.create_task(client.ask("for three, please", mode="steer"))
        said = await server.holds(
            lambda: [one.event for one in server.of("user_message") if one.event.payload.mode != "queue"]
        )
        assert [one.event.raw.get("mode") for one in server.of("user_message")] == [None, "steer"]
        fields = {"text": "Done.", "generation_id": new_id(), "status": "complete", "model": "m", "used_traits": []}
        answer = server.append("twin_message", {**fields, "steered_by": [said[0].message_id]}, in_response_to=first)
        server.send(answer)
        assert (await asking).message_id == answer.message_id == (await client.answer(first)).message_id

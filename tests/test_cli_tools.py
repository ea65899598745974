"""What the command line shows of the twin's work: steps, reasoning, approvals; and how its user decides and steers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.test_cli import run
from tests.test_client_tools import Server
from tests.test_service_cli import Terminal, a_terminal
from tests.waiting import eventually
from twin_sio.clock import iso, new_id, now
from twin_sio.conformance import conformance_server
from twin_sio.protocol import Incoming, Outgoing

STEP = {"step_id": "s-1", "kind": "tool", "name": "book", "title": "Book a table"}
ANSWER = {"text": "It is booked.", "generation_id": "g-1", "status": "complete", "model": "m", "used_traits": []}
LINE = "  [done] Book a table: Luigi's, at eight"
DONE = {**STEP, "state": "done", "summary": "Luigi's, at eight"}


class Booking(Server):
    """A server whose twin books a table for every message, at once where `by_itself`."""

    by_itself = False

    def _answer(self, event: Incoming[Any]) -> Outgoing | None:
        if event.type == "history":
            line = {"message_id": "t-1", "role": "twin", "text": "It was booked.", "timestamp": iso(now()), "seq": 0}
            page = {"messages": [{**line, "steps": [DONE]}], "has_more": False, "conversation_id": "main"}
            return self.send_new("history", page, in_response_to=event.message_id)
        reply = super()._answer(event)
        if event.type == "user_message" and self.by_itself:
            self.work(event.required_id)
        return reply

    def about(self, message_id: str) -> dict[str, str]:
        return {"in_response_to": message_id, "conversation_id": "main"}

    def step(self, message_id: str, **fields: Any) -> None:
        self.send_new("twin_activity", {**STEP, **fields}, **self.about(message_id))

    def think(self, message_id: str, index: int, text: str) -> None:
        payload = {"text": text, "generation_id": "g-1", "chunk_index": index}
        self.send_new("twin_reasoning_chunk", payload, **self.about(message_id))

    def ask(self, message_id: str, approval_id: str) -> None:
        fields = {"approval_id": approval_id, "call_id": new_id(), "tool": "book", "title": "Book a table"}
        payload = {**fields, "arguments": {"people": 2}, "expires_at": iso(now())}
        self.send(self.append("approval_requested", payload, **self.about(message_id)))

    def resolve(self, message_id: str, approval_id: str, decision: str, **more: Any) -> None:
        payload = {"approval_id": approval_id, "decision": decision, **more}
        self.send(self.append("approval_resolved", payload, **self.about(message_id)))

    def finish(self, message_id: str, **more: Any) -> None:
        self.send(self.append("twin_message", {**ANSWER, **more}, **self.about(message_id)))

    def work(self, message_id: str) -> None:
        """All of it in one go."""
        self.step(message_id, state="started")
        self.ask(message_id, "a-1")
        self.resolve(message_id, "a-1", "approve")
        self.step(message_id, **DONE)
        self.finish(message_id, steps=[DONE], reasoning="let me see")

    async def said(self) -> str:
        message_id: str = (await self.holds(lambda: self.of("user_message")))[-1].event.message_id
        return message_id

    async def decided(self) -> Any:
        return (await self.holds(lambda: self.of("approval")))[-1].event.payload


@pytest.fixture
async def at() -> AsyncIterator[tuple[Booking, str]]:
    async with conformance_server(0, 10, 10, Booking) as (url, script):
        assert isinstance(script.server, Booking)
        yield script.server, url


@pytest.fixture
async def terminal(at: tuple[Booking, str]) -> AsyncIterator[Terminal]:
    async with a_terminal(at[1], "ada", "laptop") as terminal:
        yield terminal


@pytest.fixture
def server(at: tuple[Booking, str]) -> Booking:
    return at[0]


async def test_steps_and_reasoning_are_shown_as_they_come(server: Booking, terminal: Terminal) -> None:
    """What runs stands above the prompt, what is over scrolls, reasoning before the answer."""
    terminal.enter("a table for two")
    asked = await server.said()
    server.think(asked, 0, "let me ")
    server.think(asked, 1, "see\nwhether")
    await terminal.shows("thinks> let me see\n")
    await terminal.region_shows("whether")
    server.step(asked, state="started")
    await terminal.region_shows("Book a table…")
    server.step(asked, state="progress", summary="calling Luigi's")
    await terminal.region_shows("Book a table: calling Luigi's…")
    server.step(asked, **DONE)
    await eventually(lambda: terminal.screen.getvalue().count(f"{LINE}\n") == 2)  # once of the history
    server.think(asked, 2, " to write it down")
    await terminal.region_shows("thinks>  to write it down")
    missed = {**STEP, "step_id": "s-2", "title": "Write it down", "state": "failed"}
    server.finish(asked, steps=[DONE, missed])
    await terminal.shows("twin> It is booked.\n")
    lines = terminal.screen.getvalue().splitlines()
    assert lines[lines.index("thinks> let me see") :] == [
        "thinks> let me see",
        "        whether",
        LINE,
        "thinks>  to write it down",
        "  [failed] Write it down",
        "twin> It is booked.",
    ]
    assert "Book a table" not in "".join(part[1] for part in terminal.chat._region())


async def test_approvals_are_asked_for_and_decided(server: Booking, terminal: Terminal) -> None:
    terminal.enter("/approve")
    await terminal.shows("Nothing in this conversation waits")
    terminal.enter("a table for two")
    asked = await server.said()
    for approval_id in ("a-1", "a-2", "a-3"):
        server.ask(asked, approval_id)
    await terminal.shows("The twin asks: Book a table")
    await terminal.shows('book {"people":2}')
    await terminal.shows("its id is a-3")
    terminal.enter("/approve a-9")
    await terminal.shows("No approval of this id")
    terminal.enter("/reject a-2 it is too late")
    decided = await server.decided()
    assert (decided.approval_id, decided.decision, decided.comment) == ("a-2", "reject", "it is too late")
    await terminal.shows("Book a table: rejected")
    terminal.enter("/edit [1]")
    await terminal.shows('/edit {"people":2}')
    terminal.enter('/edit {"people": 3}')
    await terminal.shows("Book a table: approved with other arguments")
    assert ((await server.decided()).approval_id, (await server.decided()).arguments) == ("a-1", {"people": 3})
    server.resolve(asked, "a-3", "expired")
    await terminal.shows("Book a table: not decided in time")
    assert len(server.of("approval")) == 2


async def test_what_waits_in_another_conversation_is_said_and_shown_there(server: Booking, terminal: Terminal) -> None:
    terminal.enter("/conversation trip")
    await terminal.shows("You talk in trip now.")
    server.ask("m-1", "a-1")
    await terminal.shows("main waits for your approval: Book a table")
    assert "its id is a-1" not in terminal.screen.getvalue()
    terminal.enter("/conversation main")
    await terminal.shows("its id is a-1")


async def test_a_running_answer_is_steered_interrupted_and_stopped(server: Booking, terminal: Terminal) -> None:
    terminal.enter("a table for two")
    asked = await server.said()
    server.ask(asked, "a-1")
    await terminal.shows("The twin asks")
    for command, mode in (("/steer", "steer"), ("/interrupt", "interrupt")):
        terminal.enter(f"{command} for three")
        await server.holds(lambda mode=mode: server.of("user_message")[-1].event.payload.mode == mode)
    terminal.enter("/stop")
    (stopped,) = await server.holds(lambda: server.of("stop_generation"))
    assert stopped.event.payload.message_id == asked
    terminal.enter("/steer")
    await terminal.shows("What should it mind?")


async def test_scripts_get_every_event_as_a_line(at: tuple[Booking, str]) -> None:
    """In their order, before the answer, which has the steps and the reasoning whole."""
    server, url = at
    server.by_itself = True
    result = await run("chat", "--json", "--url", url, stdin="a table for two\n")
    started, approval, resolved, done, answer = map(orjson.loads, result.stdout.splitlines())
    assert [one["type"] for one in (started, approval, resolved, done, answer)] == [
        "step",
        "approval",
        "approval_resolved",
        "step",
        "answer",
    ]
    assert (started["state"], done["state"], done["summary"]) == ("started", "done", "Luigi's, at eight")
    assert (approval["approval_id"], approval["arguments"]) == ("a-1", {"people": 2})
    assert (resolved["approval_id"], resolved["decision"]) == ("a-1", "approve")
    assert (answer["text"], answer["steps"], answer["reasoning"]) == ("It is booked.", [DONE], "let me see")


async def test_a_transcript_has_the_steps_that_are_over(at: tuple[Booking, str]) -> None:
    """Who has to decide is told on stderr."""
    server, url = at
    server.by_itself = True
    lines = await run("chat", "--url", url, stdin="a table for two\n")
    assert lines.stdout == "you: a table for two\n  [done] Book a table: Luigi's, at eight\ntwin: It is booked.\n"
    assert "waits for an approval on another of your devices: Book a table" in lines.stderr


@pytest.mark.parametrize("as_json", [False, True])
async def test_one_message_does_not_wait_for_an_approval(at: tuple[Booking, str], as_json: bool) -> None:
    """Nobody is there to decide."""
    server, url = at
    options = ["--json"] if as_json else []
    asking = asyncio.create_task(run("chat", "--once", "--url", url, *options, stdin="a table for two\n"))
    server.ask(await server.said(), "a-1")
    async with asyncio.timeout(20):
        result = await asking
    assert result.exit_code == 3
    if as_json:
        approval, failure = map(orjson.loads, result.stdout.splitlines())
        assert (approval["type"], failure["type"], failure["code"]) == ("approval", "error", "approval_needed")
    else:
        assert result.stdout == ""
        assert "waits for an approval: Book a table" in result.stderr


async def test_the_history_has_the_steps(at: tuple[Booking, str]) -> None:
    _, url = at
    plain = await run("history", "--url", url)
    assert plain.stdout.endswith("twin: It was booked.\n  [done] Book a table: Luigi's, at eight\n")
    as_json = await run("history", "--json", "--url", url)
    assert orjson.loads(as_json.stdout)["steps"] == [DONE]

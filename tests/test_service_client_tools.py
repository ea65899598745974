"""The Python client and the terminal against the twin's real tools: approvals, an app's tools, steering."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conftest import token_of, url_of
from tests.scripted_model import ScriptedModel
from tests.test_cli import run
from tests.test_service_cli import a_terminal
from tests.test_service_tools import HOLD, OPEN_BOARD, Opened, booking, calls, made, opened, town, words
from tests.waiting import eventually
from twin_sio.client import ApprovalRequested, ApprovalResolved, Backoff, TwinClient
from twin_sio.domain import Json
from twin_sio.runtime.serve import Service

__all__ = ["opened", "town"]  # fixtures of the tests of tools


def client(instance: Service, user: str, **more: Any) -> TwinClient:
    return TwinClient(url_of(instance), token_of(user), backoff=Backoff(0.01, 0.05), **more)


async def test_an_approval_is_given_on_another_device(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    """One that came later finds it in the history; both are told, and both have the answer with its steps."""
    said = words()
    booking(model, said, town)
    instance = await opened()
    async with client(instance, user) as laptop:
        changes = laptop.changes()
        message_id = await laptop.send(said)
        await laptop.until(lambda state: state.progress.waiting() or None)
        async with client(await opened(), user) as phone:
            await phone.history()
            (approval,) = phone.state.progress.waiting()
            assert (approval.title, approval.in_response_to) == ("Book a hotel", message_id)
            await phone.approve(approval.approval_id)
            answers = [await one.answer(message_id) for one in (phone, laptop)]
            assert not phone.state.progress.approvals
        assert answers[0] == answers[1]
        assert [(step["name"], step["state"]) for step in answers[0].steps] == [("book", "done")]
        kinds = []
        while not kinds or kinds[-1] is not ApprovalResolved:
            change = await anext(changes)
            if isinstance(change, ApprovalRequested | ApprovalResolved):
                kinds.append(type(change))
        assert kinds == [ApprovalRequested, ApprovalResolved]
        assert not laptop.state.progress.approvals
        assert not laptop.state.progress.steps
    assert made(f"{town} 2") == 1


async def test_an_apps_tool_is_run_once_over_a_reconnect(opened: Opened, model: ScriptedModel, user: str) -> None:
    """The call is made before the connection is lost, its result is sent after, and the offer stands again."""
    said, again = words(), words()
    for one in (said, again):
        model.script(contains=one, streams=True, answered=0, calls=calls("open_board", board=one))
        model.script(contains=one, streams=True, answered=1, tokens=("It is open.",))
    go_on = asyncio.Event()
    runs: list[Json] = []

    async def open_board(_: str, arguments: Json) -> Json:
        runs.append(arguments)
        await go_on.wait()
        return {"opened": True}

    async with client(await opened(agent__host_tools=True), user, ack_timeout=0.5) as app:
        await app.offer_tools([OPEN_BOARD], open_board)
        asking = asyncio.create_task(app.ask(said))
        await eventually(lambda: runs)
        await app.drop()
        await app.until(lambda _: app.is_connected or None)
        go_on.set()
        assert (await asking).text == "It is open."
        assert (await app.ask(again)).text == "It is open."
    assert runs == [{"board": said}, {"board": again}]


@pytest.mark.parametrize("mode", ["steer", "interrupt"])
async def test_a_question_into_a_running_answer_is_answered(
    opened: Opened, model: ScriptedModel, user: str, town: str, mode: Any
) -> None:
    said, more = words(), words()
    HOLD[town] = asyncio.Event()
    model.script(contains=said, streams=True, answered=0, calls=calls("weather", city=town))
    model.script(contains=more, streams=True, tokens=("As you wish.",))
    async with client(await opened(), user) as one:
        message_id = await one.send(said)
        await eventually(lambda: made(town) == 1)
        steering = await one.send(more, mode=mode)
        await one.receipt(steering)
        HOLD[town].set()
        answer, first = await one.answer(steering), await one.answer(message_id)
    assert answer.text == "As you wish."
    if mode == "steer":
        assert (answer.message_id, first.steered_by) == (first.message_id, (steering,))
    else:
        assert (first.status, first.stopped_by, answer.in_response_to) == ("stopped", steering, steering)


async def test_a_terminal_approves_and_the_history_shows_it(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    said = words()
    booking(model, said, town)
    url = url_of(await opened())
    async with AsyncExitStack() as stack:
        terminal = await stack.enter_async_context(a_terminal(url, user, "laptop"))
        terminal.enter(said)
        await terminal.shows("The twin asks: Book a hotel")
        terminal.enter("/approve")
        await terminal.shows("Book a hotel: approved")
        await terminal.shows("[done] Book a hotel")
        await terminal.shows("Done.")
    listed = await run("history", "--url", url, "--sub", user)
    assert "\n  [done] Book a hotel" in listed.stdout
    assert made(f"{town} 2") == 1


async def test_a_script_is_told_of_each_step(opened: Opened, model: ScriptedModel, user: str, town: str) -> None:
    said = words()
    model.script(contains=said, streams=True, answered=0, calls=calls("weather", city=town))
    model.script(contains=said, streams=True, answered=1, tokens=("It rains.",))
    result = await run("chat", "--url", url_of(await opened()), "--sub", user, stdin=f"{said}\n")
    assert result.stdout == f"you: {said}\n  [done] weather: looking at {town}\ntwin: It rains.\n"

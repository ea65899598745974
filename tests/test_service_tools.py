"""The twin's tools through the whole service: called once, shown, approved on any device, steered, stopped."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conftest import settings_for, token_of, url_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.agent.factory import AgentServices, tool_of, twin
from twin_sio.agent.tools import tool_context
from twin_sio.clock import new_id
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service

MADE: list[tuple[str, str]] = []
"""What the tools of this module were called with, and the key of each call."""
HOLD: dict[str, asyncio.Event] = {}


async def weather(city: str) -> str:
    """The weather in a city."""
    MADE.append((city, tool_context().call_id))
    tool_context().progress(f"looking at {city}")
    if city in HOLD:
        await HOLD[city].wait()
    if city == "Atlantis":
        raise LookupError("the secret of the deep")
    return "x" * 10_000_000 if city == "Big" else f"It rains in {city}."


def book(city: str, nights: int) -> str:
    """Books a hotel."""
    MADE.append((f"{city} {nights}", tool_context().call_id))
    return f"Booked: {nights} nights in {city}."


def agent(services: AgentServices) -> Any:
    return twin(
        services, tools=[tool_of(weather, timeout_s=1.5), tool_of(book, needs_approval=True, title="Book a hotel")]
    )


def rob(bank: str) -> str:
    """Robs a bank."""
    raise RuntimeError(f"the secret of {bank}")


def failing(services: AgentServices) -> Any:
    return twin(services, tools=[weather, rob])


Opened = Callable[..., Any]


@pytest.fixture
async def opened(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel) -> AsyncIterator[Opened]:
    """Makes instances over one database; the model is shared, so each test speaks words of its own."""
    async with AsyncExitStack() as stack:
        database = f"tools-{new_id()[:12]}"

        async def opened(**more: Any) -> Service:
            fields = {"agent__factory": "tests.test_service_tools:agent", "model__extraction": "rules", **more}
            settings = settings_for(
                mongod.url, redis_server.url, model.base_url, storage__mongodb_database=database, **fields
            )
            return await stack.enter_async_context(service(settings))

        yield opened


class Device(RawSocket):
    """A device that speaks of approvals, in words of the tests."""

    async def say(self, text: str, message_id: str = "", **more: Any) -> str:
        message_id = message_id or new_id()
        sent = {"payload": {"text": text, **more}, "metadata": {"message_id": message_id}}
        receipt = await self.ask("user_message", sent)
        assert receipt["type"] == "message_received", receipt
        return message_id

    async def answered(self, message_id: str) -> dict[str, Any]:
        """The payload of the answer to a message."""
        found = await self.until(lambda: self.about("twin_message", message_id))
        return found[-1]["payload"]

    def about(self, type: str, message_id: str) -> list[dict[str, Any]]:
        return [one for one in self.of(type) if one["metadata"].get("in_response_to") == message_id]

    async def asked(self, message_id: str) -> dict[str, Any]:
        """The payload of the request for an approval that the answer waits for."""
        found = await self.until(lambda: self.about("approval_requested", message_id))
        return found[-1]["payload"]

    async def decide(self, approval_id: str, decision: str, **more: Any) -> dict[str, Any]:
        payload = {"approval_id": approval_id, "decision": decision, **more}
        return await self.ask("approval", {"payload": payload, "metadata": {"message_id": new_id()}})


def device(instance: Service, user: str, **more: Any) -> Device:
    return Device(
        url_of(instance), token_of(user), features=["approvals"], session_id=more.pop("session_id", new_id()), **more
    )


async def has_used_up(instance: Service, user: str) -> bool:
    """Whether the user's tokens of the day are used up; they are counted a moment after the answer."""
    limits = instance.services.limits
    return await limits._quotas.retry_after_ms(limits._tokens, user) is not None


def words() -> str:
    return f"words {new_id()[:10]}"


def calls(name: str, **arguments: Any) -> list[dict[str, Any]]:
    return [{"name": name, "arguments": arguments}]


def made(city: str) -> int:
    """How often a tool was called for this city."""
    return [one for one, _ in MADE].count(city)


@pytest.fixture
def town() -> str:
    """A city of this test alone."""
    return f"Town{new_id()[:8]}"


def results(model: ScriptedModel, said: str) -> list[str]:
    """What the model was told of its calls, in the last prompt about these words."""
    bodies = [body for body in model.requests if body.get("stream") and said in json.dumps(body)]
    return [one["content"] for one in bodies[-1]["messages"] if one["role"] == "tool"]


async def test_a_tool_is_called_once_and_shown(opened: Opened, model: ScriptedModel, user: str, town: str) -> None:
    said = words()
    model.script(contains=said, streams=True, answered=0, tokens=("Let me look.",), calls=calls("weather", city=town))
    model.script(contains=said, streams=True, answered=1, tokens=("It ", "rains."))
    async with device(await opened(), user) as one:
        message_id = await one.say(said)
        answer = await one.answered(message_id)
        states = [activity["payload"]["state"] for activity in one.about("twin_activity", message_id)]
        page = await one.ask("history", {"payload": {}})
    assert (answer["text"], answer["status"]) == ("Let me look.\n\nIt rains.", "complete")
    assert states == ["started", "progress", "done"]
    assert [(step["name"], step["state"], step["summary"]) for step in answer["steps"]] == [
        ("weather", "done", f"looking at {town}")
    ]
    assert page["payload"]["messages"][-1]["steps"] == answer["steps"]
    assert results(model, said) == [f"It rains in {town}."]
    assert made(town) == 1


@pytest.mark.parametrize(
    ("call", "told", "state"),
    [
        (("fly", {"to": "Mars"}), "There is no tool of this name", "failed"),
        (("weather", {"town": "Oslo"}), "do not fit the schema", "failed"),
        (("weather", "{not json"), "no JSON", "failed"),
        (("weather", '{"city": "a\\u0000b"}'), "cannot be used", "failed"),
        (("weather", '{"city": ' + "[" * 40 + "]" * 40 + "}"), "cannot be used", "failed"),
        (("weather", {"city": "Atlantis"}), "It failed (LookupError).", "failed"),
        (("weather", {"city": "Hang"}), "longer than 1.5 s", "failed"),
        (("weather", {"city": "Big"}), "(The first 8000 characters of 10000000.)", "done"),
    ],
    ids=["unknown", "arguments", "rubbish", "nul", "deep", "raises", "hangs", "10 MB"],
)
async def test_what_goes_wrong_is_told_to_the_model(
    opened: Opened, model: ScriptedModel, user: str, call: tuple[str, Any], told: str, state: str
) -> None:
    """The answer goes on, and nothing of the failure reaches a client."""
    said = words()
    HOLD["Hang"] = asyncio.Event()
    model.script(contains=said, streams=True, answered=0, calls=[{"name": call[0], "arguments": call[1]}])
    model.script(contains=said, streams=True, answered=1, tokens=("All the same.",))
    async with device(await opened(), user) as one:
        answer = await one.answered(await one.say(said))
        seen = json.dumps(one.events)
    assert (answer["text"], answer["status"]) == ("All the same.", "complete")
    assert answer["steps"][0]["state"] == state
    assert told in results(model, said)[0]
    assert len(results(model, said)[0]) < 9_000
    assert "secret of the deep" not in json.dumps(model.requests[-1]) + seen


async def test_a_failed_tool_leaves_its_place_in_the_log(
    opened: Opened, model: ScriptedModel, user: str, logged: list[dict[str, Any]]
) -> None:
    """The kind and the line in which it was raised, and no word of it; also of a tool in a thread."""
    said = words()
    both = [*calls("weather", city="Atlantis"), *calls("rob", bank="x")]
    model.script(contains=said, streams=True, answered=0, calls=both)
    model.script(contains=said, streams=True, answered=2, tokens=("All the same.",))
    async with device(await opened(agent__factory="tests.test_service_tools:failing"), user) as one:
        await one.answered(await one.say(said))
    failed = {line["tool"]: line for line in logged if line["event"] == "tool_failed"}
    for tool, function, kind in (("weather", weather, "LookupError"), ("rob", rob, "RuntimeError")):
        lines, first = inspect.getsourcelines(function)
        raised = first + next(n for n, line in enumerate(lines) if "raise" in line)
        assert (failed[tool]["error"], failed[tool]["at"]) == (kind, f"test_service_tools.py:{raised}")
    assert "secret" not in json.dumps(failed)


async def test_what_is_said_in_steps_stands_in_paragraphs(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    """Also behind a step that says nothing."""
    said = words()
    for answered, tokens in enumerate((("Let me look.",), (), ("Once more.",))):
        model.script(
            contains=said,
            streams=True,
            answered=answered,
            tokens=tokens,
            calls=calls("weather", city=f"{town}{answered}"),
        )
    model.script(contains=said, streams=True, answered=3, tokens=("It rains.",))
    async with device(await opened(), user) as one:
        answer = await one.answered(await one.say(said))
    assert answer["text"] == "Let me look.\n\nOnce more.\n\nIt rains."


async def test_calls_of_one_step_run_side_by_side(opened: Opened, model: ScriptedModel, user: str, town: str) -> None:
    said, first, second = words(), f"{town}a", f"{town}b"
    HOLD[first], HOLD[second] = asyncio.Event(), asyncio.Event()
    both = [*calls("weather", city=first), *calls("weather", city=second)]
    model.script(contains=said, streams=True, answered=0, calls=both)
    model.script(contains=said, streams=True, answered=2, tokens=("Both.",))
    async with device(await opened(), user) as one:
        message_id = await one.say(said)
        await eventually(lambda: made(first) == made(second) == 1)
        HOLD[second].set()
        HOLD[first].set()
        assert (await one.answered(message_id))["text"] == "Both."
    assert results(model, said) == [f"It rains in {first}.", f"It rains in {second}."]


async def test_a_model_that_only_calls_tools_is_ended(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    said = words()
    model.script(contains=said, streams=True, tokens=("Again.",), calls=calls("weather", city=town))
    async with device(await opened(), user) as one:
        answer = await one.answered(await one.say(said))
    assert (answer["status"], answer["finish"]) == ("complete", "length")
    assert made(town) == 12


async def test_a_stop_reaches_a_running_tool(opened: Opened, model: ScriptedModel, user: str, town: str) -> None:
    said = words()
    HOLD[town] = asyncio.Event()
    model.script(contains=said, streams=True, answered=0, tokens=("Let me look.",), calls=calls("weather", city=town))
    async with device(await opened(), user) as one:
        message_id = await one.say(said)
        await eventually(lambda: made(town) == 1)
        await one.ask("stop_generation", {"payload": {"message_id": message_id}})
        answer = await one.answered(message_id)
    assert (answer["status"], answer["text"]) == ("stopped", "Let me look.")
    assert [(step["state"], step["summary"]) for step in answer["steps"]] == [("failed", "stopped")]


# -- approvals -------------------------------------------------------------------------------------------------------


def booking(model: ScriptedModel, said: str, town: str, then: str = "Done.") -> None:
    """The model wants to book, and says `then` afterwards."""
    model.script(contains=said, streams=True, answered=0, tokens=("I book.",), calls=calls("book", city=town, nights=2))
    model.script(contains=said, streams=True, answered=1, tokens=(then,))


@pytest.mark.parametrize(
    ("decision", "more", "told", "times"),
    [
        ("approve", {}, "Booked: 2 nights in ", 1),
        ("edit", {"arguments": {"city": "Bergen", "nights": 3}}, "Booked: 3 nights in Bergen.", 0),
        ("reject", {"comment": "Too dear."}, "did not allow this call. It was not made. They say: Too dear.", 0),
    ],
    ids=["approve", "edit", "reject"],
)
async def test_a_decision_on_another_device_and_instance_counts_once(
    opened: Opened, model: ScriptedModel, user: str, town: str, decision: str, more: Any, told: str, times: int
) -> None:
    said = words()
    booking(model, said, town)
    first, second = await opened(), await opened()
    async with device(first, user) as laptop:
        message_id = await laptop.say(said)
        request = await laptop.asked(message_id)
        assert (request["tool"], request["title"], request["arguments"]) == (
            "book",
            "Book a hotel",
            {"city": town, "nights": 2},
        )
        assert made(f"{town} 2") == 0
        async with device(second, user) as phone:
            page = await phone.ask("history", {"payload": {}})
            assert [one["approval_id"] for one in page["payload"]["approvals"]] == [request["approval_id"]]
            receipt = await phone.decide(request["approval_id"], decision, **more)
            assert receipt["payload"]["status"] == "accepted"
            assert (await phone.decide(request["approval_id"], decision, **more))["payload"]["status"] == "duplicate"
            other = "reject" if decision != "reject" else "approve"
            refused = await phone.decide(request["approval_id"], other)
            assert refused["payload"]["code"] == "already_decided"
            answers = [await one.answered(message_id) for one in (laptop, phone)]
            late = await phone.decide(request["approval_id"], other)
            assert late["payload"]["code"] == "already_decided"
            assert "approvals" not in (await phone.ask("history", {"payload": {}}))["payload"]
        resolved = laptop.about("approval_resolved", message_id)
    assert [one["payload"]["decision"] for one in resolved] == [decision]
    assert answers[0] == answers[1]
    assert (answers[0]["text"], answers[0]["status"]) == ("I book.\n\nDone.", "complete")
    assert told in results(model, said)[0]
    assert made(f"{town} 2") == times


@pytest.mark.parametrize(
    ("edited", "told"),
    [
        ({"city": "Oslo", "nights": "x"}, "The argument nights must be a whole number."),
        ({"nights": 2}, "The arguments lack: city."),
        ({"city": ["Oslo"], "nights": 2}, "The argument city must be a text."),
    ],
)
async def test_an_edit_that_does_not_fit_is_refused_and_the_approval_waits(
    opened: Opened, model: ScriptedModel, user: str, town: str, edited: dict[str, Any], told: str
) -> None:
    """Also on another instance than the one that asked; the user decides again, and that counts."""
    said = words()
    booking(model, said, town)
    async with device(await opened(), user) as one, device(await opened(), user) as other:
        message_id = await one.say(said)
        request = await one.asked(message_id)
        for decider in (one, other):
            refused = (await decider.decide(request["approval_id"], "edit", arguments=edited))["payload"]
            assert (refused["code"], refused["field"]) == ("invalid_message", "payload.arguments")
            assert refused["message"] == told
        page = await one.ask("history", {"payload": {}})
        assert [waits["approval_id"] for waits in page["payload"]["approvals"]] == [request["approval_id"]]
        receipt = await one.decide(request["approval_id"], "edit", arguments={"city": town, "nights": 5})
        assert receipt["payload"]["status"] == "accepted"
        assert (await one.answered(message_id))["status"] == "complete"
    assert made(f"{town} 5") == 1


async def test_an_approval_outlasts_every_server(
    opened: Opened, model: ScriptedModel, user: str, town: str, mongod: Mongod, redis_server: RedisServer
) -> None:
    """Asked for before a restart, given after it by a device that was offline meanwhile."""
    said = words()
    booking(model, said, town)
    fields = {"agent__factory": "tests.test_service_tools:agent", "model__extraction": "rules"}
    database = f"tools-{new_id()[:12]}"
    settings = settings_for(mongod.url, redis_server.url, model.base_url, storage__mongodb_database=database, **fields)
    async with service(settings) as before, device(before, user, session_id="phone") as phone:
        await phone.until(lambda: phone.of("session_ready"))
        seq = phone.of("session_ready")[0]["payload"]["seq"]
        message_id = await phone.say(said)
        request = await phone.asked(message_id)
        await before.drain(1.0)
    async with service(settings) as after, device(after, user, session_id="phone", last_seq=seq) as phone:
        assert (await phone.asked(message_id)) == request
        assert (await phone.decide(request["approval_id"], "approve"))["payload"]["status"] == "accepted"
        assert (await phone.answered(message_id))["text"] == "I book.\n\nDone."
    assert made(f"{town} 2") == 1


async def test_messages_behind_an_approval_wait_for_it(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    said, next_one = words(), words()
    booking(model, said, town)
    async with device(await opened(), user) as one:
        message_id = await one.say(said)
        request = await one.asked(message_id)
        waiting = await one.say(next_one)
        await one.decide(request["approval_id"], "reject")
        await one.answered(message_id)
        await one.answered(waiting)
        order = [event["metadata"]["in_response_to"] for event in one.of("twin_message")]
    assert order == [message_id, waiting]


async def test_an_approval_that_nobody_gives_expires(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    said = words()
    booking(model, said, town)
    instance = await opened(agent__approval_s=0.3, tuning__turn_lease_s=0.5)
    async with device(instance, user) as one:
        message_id = await one.say(said)
        request = await one.asked(message_id)
        answer = await one.answered(message_id)
        late = await one.decide(request["approval_id"], "approve")
    assert answer["text"] == "I book.\n\nDone."
    assert "Nobody allowed this call in time" in results(model, said)[0]
    assert late["payload"]["code"] == "already_decided"
    assert made(f"{town} 2") == 0


async def test_a_stop_ends_what_waits_for_an_approval(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    said = words()
    booking(model, said, town)
    async with device(await opened(), user) as one:
        message_id = await one.say(said)
        request = await one.asked(message_id)
        await one.ask("stop_generation", {"payload": {"message_id": message_id}})
        answer = await one.answered(message_id)
        assert [event["payload"]["decision"] for event in one.about("approval_resolved", message_id)] == ["cancelled"]
        assert (await one.decide(request["approval_id"], "approve"))["payload"]["code"] == "already_decided"
    assert (answer["status"], answer["text"]) == ("stopped", "I book.")
    assert [(step["title"], step["state"], step["summary"]) for step in answer["steps"]] == [
        ("Book a hotel", "failed", "stopped")
    ]
    assert made(f"{town} 2") == 0


async def test_nobody_decides_for_another_user(opened: Opened, model: ScriptedModel, user: str, town: str) -> None:
    said = words()
    booking(model, said, town)
    instance = await opened()
    async with device(instance, user) as one, device(instance, f"{user}-other") as other:
        request = await one.asked(await one.say(said))
        assert (await other.decide(request["approval_id"], "approve"))["payload"]["code"] == "not_found"
        assert (await one.decide("twin-approval-0", "approve"))["payload"]["code"] == "not_found"
        assert (await one.decide(request["approval_id"], "edit"))["payload"]["code"] == "invalid_message"


# -- steering --------------------------------------------------------------------------------------------------------


async def test_a_message_steers_the_running_loop(opened: Opened, model: ScriptedModel, user: str, town: str) -> None:
    """From another device on another instance; it is taken in once and changes the outcome."""
    said, turn_to = words(), words()
    HOLD[town] = asyncio.Event()
    model.script(contains=said, streams=True, answered=0, calls=calls("weather", city=town))
    model.script(contains=turn_to, streams=True, answered=1, tokens=("As you wish.",))
    first, second = await opened(), await opened()
    async with device(first, user) as laptop, device(second, user) as phone:
        message_id = await laptop.say(said)
        await eventually(lambda: made(town) == 1)
        steering = await phone.say(turn_to, mode="steer")
        await phone.say(turn_to, steering, mode="steer")
        HOLD[town].set()
        answer = await laptop.answered(message_id)
        after = await phone.say(words())
        await phone.answered(after)
        assert not phone.about("twin_message", steering)
    assert (answer["text"], answer["steered_by"]) == ("As you wish.", [steering])
    asked = [body for body in model.requests if body.get("stream") and body["messages"][-1]["content"] == turn_to]
    assert len(asked) == 1


async def test_steering_a_plain_answer_interrupts_it(opened: Opened, model: ScriptedModel, user: str) -> None:
    said, turn_to = words(), words()
    model.script(contains=said, streams=True, tokens=("Once ", "upon ", "a time"), hold_after=1)
    first, second = await opened(agent__factory=""), await opened(agent__factory="")
    async with device(first, user) as laptop, device(second, user) as phone:
        message_id = await laptop.say(said)
        await laptop.until(lambda: laptop.about("twin_message_chunk", message_id))
        steering = await phone.say(turn_to, mode="steer")
        answer = await laptop.answered(message_id)
        await laptop.answered(steering)
    assert (answer["status"], answer["text"], answer["stopped_by"]) == ("stopped", "Once ", steering)


async def test_an_interrupt_keeps_the_part_and_the_next_prompt_knows(
    opened: Opened, model: ScriptedModel, user: str
) -> None:
    said, instead = words(), words()
    model.script(contains=said, streams=True, tokens=("Once ", "upon ", "a time"), hold_after=1)
    first, second = await opened(), await opened()
    async with device(first, user) as laptop, device(second, user) as phone:
        message_id = await laptop.say(said)
        await laptop.until(lambda: laptop.about("twin_message_chunk", message_id))
        interrupting = await phone.say(instead, mode="interrupt")
        cut = await phone.answered(message_id)
        await phone.answered(interrupting)
    assert (cut["status"], cut["text"], cut["stopped_by"]) == ("stopped", "Once ", interrupting)
    prompt = next(body for body in model.requests if body.get("stream") and body["messages"][-1]["content"] == instead)
    assert "They interrupted it with what they say now" in prompt["messages"][0]["content"]
    assert "Once " in json.dumps(prompt["messages"][1:])


async def test_an_interrupt_ends_what_waits_for_an_approval(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    said, instead = words(), words()
    booking(model, said, town)
    async with device(await opened(), user) as one:
        message_id = await one.say(said)
        await one.asked(message_id)
        interrupting = await one.say(instead, mode="interrupt")
        assert (await one.answered(message_id))["stopped_by"] == interrupting
        await one.answered(interrupting)
    assert made(f"{town} 2") == 0


async def test_a_mode_is_an_ordinary_message_where_nothing_runs(
    opened: Opened, model: ScriptedModel, user: str
) -> None:
    async with device(await opened(), user) as one:
        for mode in ("steer", "interrupt", "queue"):
            said = words()
            assert (await one.answered(await one.say(said, mode=mode)))["text"] == model.answer_to(said)


# -- tools of apps ---------------------------------------------------------------------------------------------------


OPEN_BOARD = {
    "name": "open_board",
    "description": "Opens a board in the app.",
    "parameters": {"type": "object", "properties": {"board": {"type": "string"}}},
}


async def offer(one: Device, *tools: dict[str, Any]) -> dict[str, Any]:
    return await one.ask("host_tools", {"payload": {"tools": list(tools)}, "metadata": {"message_id": new_id()}})


async def test_an_app_runs_its_tool_once(opened: Opened, model: ScriptedModel, user: str) -> None:
    """One of two sessions that offer it; the answer is made on another instance."""
    said = words()
    model.script(contains=said, streams=True, answered=0, calls=calls("open_board", board="sprint"))
    model.script(contains=said, streams=True, answered=1, tokens=("It is open.",))
    first, second = await opened(agent__host_tools=True), await opened(agent__host_tools=True)
    async with device(first, user) as laptop, device(second, user) as app, device(second, user) as other:
        assert (await offer(other, OPEN_BOARD))["payload"]["status"] == "accepted"
        assert (await offer(app, OPEN_BOARD))["payload"]["status"] == "accepted"
        message_id = await laptop.say(said)
        call = (await app.until(lambda: app.of("tool_call")))[0]["payload"]
        assert (call["name"], call["arguments"]) == ("open_board", {"board": "sprint"})
        output = {"call_id": call["call_id"], "output": {"opened": True}}
        result = {"payload": output, "metadata": {"message_id": new_id()}}
        refused = await other.ask("tool_result", result)
        assert refused["payload"]["code"] == "not_found"
        assert (await app.ask("tool_result", result))["payload"]["status"] == "accepted"
        assert (await app.ask("tool_result", result))["payload"]["status"] == "duplicate"
        answer = await laptop.answered(message_id)
        assert len(app.of("tool_call")) == 1
        assert not other.of("tool_call")
    assert answer["text"] == "It is open."
    assert results(model, said) == ['{"opened": true}']


async def test_an_apps_tool_may_need_an_approval(opened: Opened, model: ScriptedModel, user: str) -> None:
    """It is given on one device, and the tool runs on the other, where its app checks what was edited."""
    said = words()
    model.script(contains=said, streams=True, answered=0, calls=calls("open_board", board="sprint"))
    model.script(contains=said, streams=True, answered=1, tokens=("It is open.",))
    instance = await opened(agent__host_tools=True, agent__factory="")
    async with device(instance, user) as phone, device(instance, user) as app:
        await offer(app, {**OPEN_BOARD, "needs_approval": True})
        message_id = await phone.say(said)
        request = await phone.asked(message_id)
        assert (request["tool"], request["arguments"]) == ("open_board", {"board": "sprint"})
        assert not app.of("tool_call")
        await phone.decide(request["approval_id"], "edit", arguments={"board": 5})
        call = (await app.until(lambda: app.of("tool_call")))[0]["payload"]
        assert call["arguments"] == {"board": 5}
        result = {"call_id": call["call_id"], "error": "no such board"}
        await app.ask("tool_result", {"payload": result, "metadata": {"message_id": new_id()}})
        assert (await phone.answered(message_id))["text"] == "It is open."
    assert results(model, said) == ["It failed: no such board"]


async def test_the_tokens_of_an_answer_stopped_before_its_approval_count(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    said = words()
    booking(model, said, town)
    instance = await opened(limits__tokens_per_day=500)
    async with device(instance, user) as one:
        message_id = await one.say(said + " please" * 300)
        await one.asked(message_id)
        await one.ask("stop_generation", {"payload": {"message_id": message_id}})
        assert (await one.answered(message_id))["status"] == "stopped"
        await eventually(lambda: has_used_up(instance, user))


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        ("approve", "It was allowed, and what offers this tool is not there now. It was not made."),
        ("reject", "The person did not allow this call. It was not made."),
    ],
)
async def test_an_answer_goes_on_though_the_app_of_its_tool_is_away(
    opened: Opened, model: ScriptedModel, user: str, decision: str, told: str
) -> None:
    """What was said before stands, and the model is told what became of the call."""
    said = words()
    model.script(contains=said, streams=True, answered=0, tokens=("Let me see.",), calls=calls("open_board", board="x"))
    model.script(contains=said, streams=True, answered=1, tokens=("It is away.",))
    instance = await opened(agent__host_tools=True, agent__factory="")
    async with device(instance, user) as phone:
        async with device(instance, user) as app:
            await offer(app, {**OPEN_BOARD, "needs_approval": True})
            message_id = await phone.say(said)
            request = await phone.asked(message_id)
        await phone.until(lambda: any(one["payload"]["state"] == "left" for one in phone.of("presence")))
        await phone.decide(request["approval_id"], decision)
        answer = await phone.answered(message_id)
    assert answer["text"] == "Let me see.\n\nIt is away."
    assert [step["state"] for step in answer["steps"]] == ["failed"]
    assert results(model, said) == [told]


async def test_what_an_app_offers_goes_with_its_connection(opened: Opened, model: ScriptedModel, user: str) -> None:
    instance = await opened(agent__host_tools=True, agent__factory="")
    async with device(instance, user) as laptop:
        async with device(instance, user) as app:
            await offer(app, OPEN_BOARD)
        await laptop.until(lambda: any(one["payload"]["state"] == "left" for one in laptop.of("presence")))
        said = words()
        await laptop.answered(await laptop.say(said))
    asked = next(body for body in model.requests if body.get("stream") and said in json.dumps(body))
    assert "tools" not in asked


async def test_offers_are_refused_where_they_are_not_allowed(opened: Opened, user: str) -> None:
    async with device(await opened(), user) as one:
        assert (await offer(one, OPEN_BOARD))["payload"]["code"] == "forbidden"


async def test_reasoning_is_shown_and_never_comes_back(opened: Opened, model: ScriptedModel, user: str) -> None:
    said = words()
    model.script(contains=said, streams=True, reasoning=("Let me ", "think."), tokens=("So.",))
    async with device(await opened(agent__shows_reasoning=True), user) as one:
        message_id = await one.say(said)
        answer = await one.answered(message_id)
        chunks = [chunk["payload"] for chunk in one.about("twin_reasoning_chunk", message_id)]
        await one.answered(await one.say(words()))
    assert "".join(chunk["text"] for chunk in chunks) == "Let me think."
    assert [chunk["chunk_index"] for chunk in chunks] == [0, 1]
    assert (answer["text"], answer["reasoning"]) == ("So.", "Let me think.")
    assert "Let me think." not in json.dumps(model.requests[-1]["messages"])

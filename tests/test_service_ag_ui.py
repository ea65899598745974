"""AG-UI over `POST /ag-ui`: the same turns, told as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from ag_ui.core import Event
from pydantic import TypeAdapter

from tests.conftest import Connect, settings_for, token_of, url_of
from tests.scripted_model import ScriptedModel
from tests.test_service_tools import HOLD, Opened, booking, calls, device, made, opened, town, words
from tests.waiting import eventually
from twin_sio.clock import new_id
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service
from twin_sio.transport.ag_ui import BODY_MAX_BYTES

__all__ = ["opened", "town"]  # fixtures of the tests of tools

EVENT: TypeAdapter[Any] = TypeAdapter(Event)


class Run:
    """The events of one run, as they come; each is held against AG-UI's own models."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.events: list[dict[str, Any]] = []

    async def read(self, until: str = "") -> None:
        """Up to an event of this type, or to the end."""
        async for line in self.response.content:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                EVENT.validate_python(event)
                self.events.append(event)
                if event["type"] == until:
                    return

    @property
    def types(self) -> list[str]:
        """Without the repeats of text."""
        types = [event["type"] for event in self.events]
        return [one for n, one in enumerate(types) if n == 0 or one != types[n - 1]]

    @property
    def text(self) -> str:
        return "".join(one["delta"] for one in self.events if one["type"] == "TEXT_MESSAGE_CONTENT")

    def of(self, type: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type]


def asked(text: str, message_id: str = "", thread: str = "kitchen", **more: Any) -> dict[str, Any]:
    message = {"id": message_id or new_id(), "role": "user", "content": text}
    body = {"threadId": thread, "runId": new_id(), "messages": [message], "tools": [], "context": [], "state": None}
    return {**body, "forwardedProps": {}, **more}


@asynccontextmanager
async def running(url: str, user: str, body: Any, **headers: str) -> AsyncIterator[Run]:
    given = {"Authorization": f"Bearer {token_of(user)}", **headers}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/ag-ui", json=body, headers=given) as response:
        yield Run(response)


async def run_of(url: str, user: str, body: Any, **headers: str) -> Run:
    async with running(url, user, body, **headers) as one:
        assert one.response.status == 200, await one.response.text()
        await one.read()
        return one


async def test_a_run_is_the_answer_to_its_message(
    instance: Service, url: str, user: str, connect: Connect, model: ScriptedModel
) -> None:
    """Stored under the message's id, in the thread's conversation, and seen by the user's other devices."""
    model.script(contains=user, count=20)
    other = await connect()
    body = asked(f"hello {user}", "m-1")
    one = await run_of(url, user, body)
    types = ["RUN_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "RUN_FINISHED"]
    assert one.types == types
    assert len(one.of("TEXT_MESSAGE_CONTENT")) > 1
    answer = await other.answer("m-1")
    assert (answer.text, answer.conversation_id) == (one.text, "kitchen")
    (started,), (finished,) = one.of("RUN_STARTED"), one.of("RUN_FINISHED")
    assert (started["threadId"], started["runId"]) == ("kitchen", body["runId"])
    assert finished["outcome"] == {"type": "success"}
    assert finished["result"] == {"messageId": answer.message_id, "status": "complete"}
    await eventually(lambda: instance.ag_ui.open_sockets == 0)


async def test_a_run_that_is_sent_again_tells_the_stored_answer(url: str, user: str, model: ScriptedModel) -> None:
    """The same message is answered once; a client that has the text already is told the end only."""
    model.script(contains=user, count=5)
    first = await run_of(url, user, asked(f"hello {user}", "m-1"))
    again = await run_of(url, user, asked(f"hello {user}", "m-1"))
    assert (again.text, again.of("RUN_FINISHED")[0]["result"]) == (first.text, first.of("RUN_FINISHED")[0]["result"])
    assert again.of("TEXT_MESSAGE_START") == first.of("TEXT_MESSAGE_START")
    body = asked(f"hello {user}", "m-1")
    body["messages"] += [{"id": "a-1", "role": "assistant", "content": first.text[:3]}]
    assert (await run_of(url, user, body)).text == first.text[3:]
    body["messages"] += [{"id": "a-2", "role": "assistant", "content": first.text[3:]}]
    assert (await run_of(url, user, body)).types == ["RUN_STARTED", "RUN_FINISHED"]
    assert sum(user in json.dumps(one["messages"][-1]) for one in model.requests if one.get("stream")) == 1


async def test_a_long_conversation_is_taken(url: str, user: str, model: ScriptedModel) -> None:
    """A client sends all of it; only its last message is used."""
    model.script(contains=user, tokens=("Yes.",))
    body = asked(f"hello {user}")
    before = [{"id": f"b-{n}", "role": ("user", "assistant")[n % 2], "content": "x" * 10_000} for n in range(90)]
    body["messages"] = [*before, *body["messages"]]
    assert (await run_of(url, user, body)).text == "Yes."


async def test_odd_calls_of_earlier_messages_are_passed_over(url: str, user: str, model: ScriptedModel) -> None:
    model.script(contains=user, tokens=("Yes.",))
    odd = ({"toolCalls": [1]}, {"toolCalls": 5}, {"toolCalls": [{"id": {}}]}, {"role": "tool", "toolCallId": []})
    body = asked(f"hello {user}")
    body["messages"] = [*({"id": f"o-{n}", "role": "assistant", **one} for n, one in enumerate(odd)), *body["messages"]]
    assert (await run_of(url, user, body)).text == "Yes."


async def test_a_client_that_leaves_does_not_stop_the_answer(
    instance: Service, url: str, user: str, connect: Connect, model: ScriptedModel
) -> None:
    """The connection is forgotten at once, and the run that comes again goes on with what is being made."""
    text = f"slowly {user}"
    model.script(contains=text, tokens=("one ", "two ", "three"), hold_after=2)
    other = await connect()
    async with running(url, user, asked(text, "m-1")) as one:
        while one.text != "one two ":  # then nothing is written to it that would fail
            await one.read("TEXT_MESSAGE_CONTENT")
    await eventually(lambda: len(other.state.devices) == 1 and other.state.devices)
    async with running(url, user, asked(text, "m-1")) as again:
        await again.read("TEXT_MESSAGE_CONTENT")
        model.release(text)
        await again.read()
    assert again.text == "one two three"
    assert (await other.answer("m-1")).text == "one two three"


async def test_the_events_come_from_another_instance(opened: Opened, model: ScriptedModel, user: str) -> None:
    """A run that comes again to another instance than the one that answers."""
    said = words()
    model.script(contains=said, tokens=("one ", "two ", "three"), hold_after=1)
    first, second = await opened(), await opened()
    async with (
        running(url_of(first), user, asked(said, "m-1")) as one,
        running(url_of(second), user, asked(said, "m-1")) as other,
    ):
        await one.read("TEXT_MESSAGE_CONTENT")
        await other.read("TEXT_MESSAGE_CONTENT")
        model.release(said)
        await asyncio.gather(one.read(), other.read())
    assert one.text == other.text == "one two three"
    assert other.types[-1] == "RUN_FINISHED"


async def test_tools_and_reasoning_are_told_in_their_place(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    said = words()
    model.script(
        contains=said,
        streams=True,
        answered=0,
        reasoning=("let me ", "look"),
        token_delay_s=0.2,  # longer than the agent gathers what it thinks
        tokens=("Let me look.",),
        calls=calls("weather", city=town),
    )
    model.script(contains=said, streams=True, answered=1, tokens=("It ", "rains."))
    url = url_of(await opened(agent__shows_reasoning=True))
    one = await run_of(url, user, asked(said, "m-1"))
    text = ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"]
    call = ["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT"]
    thought = ["REASONING_START", *(f"REASONING_MESSAGE_{one}" for one in ("START", "CONTENT", "END")), "REASONING_END"]
    assert one.types == ["RUN_STARTED", *thought, *text, *call, *text, "RUN_FINISHED"]
    assert "".join(each["delta"] for each in one.of("REASONING_MESSAGE_CONTENT")) == "let me look"
    assert one.text == "Let me look.\n\nIt rains."
    (start,), (result,) = one.of("TOOL_CALL_START"), one.of("TOOL_CALL_RESULT")
    assert (start["toolCallName"], result["content"]) == ("weather", f"looking at {town}")
    again = await run_of(url, user, asked(said, "m-1"))
    assert again.types == ["RUN_STARTED", *thought, *call, *text, "RUN_FINISHED"]
    assert again.text == one.text
    assert made(town) == 1


def follow_up(body: dict[str, Any], run: Run, resume: list[dict[str, Any]]) -> dict[str, Any]:
    """The next run of a client that has what this one told."""
    said = [{"id": "a-1", "role": "assistant", "content": run.text}] if run.text else []
    calls = [
        {"id": one["toolCallId"], "type": "function", "function": {"name": one["toolCallName"], "arguments": "{}"}}
        for one in run.of("TOOL_CALL_START")
    ]
    called = [{"id": f"c-{n}", "role": "assistant", "toolCalls": [call]} for n, call in enumerate(calls)]
    messages = [*body["messages"], *said, *called]
    return {**body, "runId": new_id(), "messages": messages, "resume": resume}


@pytest.mark.parametrize(
    ("answer", "booked"),
    [
        ({"status": "resolved", "payload": {"decision": "approve"}}, 1),
        ({"status": "resolved", "payload": {"approved": True}}, 1),
        ({"status": "resolved", "payload": {"decision": "reject", "comment": "Too dear."}}, 0),
        ({"status": "cancelled"}, 0),
    ],
)
async def test_an_approval_is_an_interrupt(
    opened: Opened, model: ScriptedModel, user: str, town: str, answer: dict[str, Any], booked: int
) -> None:
    """The run ends with it; the next one decides it on another instance, and is told the rest of the answer."""
    said = words()
    booking(model, said, town)
    body = asked(said, "m-1", "main")
    first, second = await opened(), await opened()
    one = await run_of(url_of(first), user, body)
    assert one.text == "I book."
    (finished,) = one.of("RUN_FINISHED")
    (interrupt,) = finished["outcome"]["interrupts"]
    assert (interrupt["message"], interrupt["metadata"]["arguments"]) == ("Book a hotel", {"city": town, "nights": 2})
    assert interrupt["toolCallId"] == one.of("TOOL_CALL_START")[0]["toolCallId"]
    assert json.loads(one.of("TOOL_CALL_ARGS")[0]["delta"]) == {"city": town, "nights": 2}
    again = await run_of(url_of(second), user, body)  # without a decision it waits still
    assert again.of("RUN_FINISHED")[0]["outcome"] == finished["outcome"]
    resumed = follow_up(body, one, [{"interruptId": interrupt["id"], **answer}])
    rest = await run_of(url_of(second), user, resumed)
    assert rest.text == "\n\nDone."
    assert not rest.of("TOOL_CALL_START")
    assert [each["toolCallId"] for each in rest.of("TOOL_CALL_RESULT")] == [interrupt["toolCallId"]]
    assert made(f"{town} 2") == booked
    repeated = await run_of(url_of(first), user, resumed)  # a resume whose answer was lost on its way
    assert (repeated.text, repeated.of("RUN_FINISHED")[0]["outcome"]) == (rest.text, {"type": "success"})
    assert made(f"{town} 2") == booked


async def test_what_was_decided_elsewhere_goes_on(opened: Opened, model: ScriptedModel, user: str, town: str) -> None:
    """A resume that comes too late is told the answer."""
    said = words()
    booking(model, said, town)
    instance = await opened()
    body = asked(said, "m-1", "main")
    one = await run_of(url_of(instance), user, body)
    (interrupt,) = one.of("RUN_FINISHED")[0]["outcome"]["interrupts"]
    async with device(instance, user) as phone:
        await phone.decide(interrupt["id"], "reject")
        await phone.answered("m-1")
    resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"decision": "approve"}}]
    rest = await run_of(url_of(instance), user, follow_up(body, one, resume))
    assert (rest.text, rest.types[-1]) == ("\n\nDone.", "RUN_FINISHED")
    assert made(f"{town} 2") == 0


async def test_a_stopped_answer_is_a_cancelled_run(opened: Opened, model: ScriptedModel, user: str, town: str) -> None:
    said = words()
    HOLD[town] = asyncio.Event()
    model.script(contains=said, streams=True, answered=0, tokens=("Let me look.",), calls=calls("weather", city=town))
    instance = await opened()
    async with running(url_of(instance), user, asked(said, "m-1", "main")) as one, device(instance, user) as phone:
        await one.read("TOOL_CALL_START")
        await phone.ask("stop_generation", {"payload": {"message_id": "m-1"}})
        await one.read()
    assert one.of("RUN_FINISHED")[0]["outcome"] == {"type": "cancelled"}
    assert one.of("TOOL_CALL_RESULT")[0]["content"] == "stopped"


async def test_a_steering_message_ends_with_the_answer_that_took_it_in(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    said, more = words(), words()
    HOLD[town] = asyncio.Event()
    model.script(contains=said, streams=True, answered=0, calls=calls("weather", city=town))
    model.script(contains=more, streams=True, answered=1, tokens=("As you wish.",))
    instance = await opened()
    url, steering = url_of(instance), asked(more, "m-2", forwardedProps={"mode": "steer"})
    async with device(instance, user) as phone, running(url, user, asked(said, "m-1")) as one:
        await one.read("TOOL_CALL_START")
        async with running(url, user, steering) as other:
            await phone.until(lambda: len(phone.of("user_message")) == 2)
            HOLD[town].set()
            await asyncio.gather(one.read(), other.read())
    assert one.text == other.text == "As you wish."
    assert one.of("RUN_FINISHED")[0]["result"] == other.of("RUN_FINISHED")[0]["result"]


async def test_a_failed_answer_is_a_run_error(url: str, user: str, model: ScriptedModel) -> None:
    model.script(contains=user, status=401, error={"code": "invalid_api_key"})
    one = await run_of(url, user, asked(f"hello {user}"))
    (error,) = one.of("RUN_ERROR")
    assert error["code"] == "model_key_refused"
    assert error["message"]
    assert one.types[-1] == "RUN_ERROR"


DEEP = (
    b'{"threadId":"t","runId":"r","messages":[{"id":"m","role":"user","content":"x"}],"forwardedProps":'
    + b"[" * 300
    + b"]" * 300
    + b"}"
)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (b"{no json", 400, "invalid_message"),
        (b"[]", 400, "invalid_message"),
        ({"messages": []}, 400, "invalid_message"),
        ({"messages": [{"id": "a", "role": "assistant", "content": "hi"}]}, 400, "invalid_message"),
        ({"messages": [{"id": "a", "role": "user", "content": 1}]}, 400, "invalid_message"),
        ({"messages": "no"}, 400, "invalid_message"),
        ({"messages": [{"id": "no id!", "role": "user", "content": "hi"}]}, 400, "invalid_message"),
        ({"messages": [{"id": "a", "role": "user", "content": "x" * BODY_MAX_BYTES}]}, 413, "too_large"),
        ({"context": [{}] * 200_000}, 400, "invalid_message"),
        ({"messages": [1] * 200_000}, 400, "invalid_message"),
        ({"messages": [{}] * 20_000}, 400, "invalid_message"),
        ({"resume": [{"interruptId": "a", "status": "resolved"}] * 65}, 400, "invalid_message"),
        pytest.param(DEEP, 400, "invalid_message", id="deep"),
    ],
)
async def test_what_is_no_input_is_refused(url: str, user: str, change: Any, status: int, code: str) -> None:
    body = change if isinstance(change, bytes) else json.dumps({**asked("x"), **change}).encode()
    headers = {"Authorization": f"Bearer {token_of(user)}"}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/ag-ui", data=body, headers=headers) as got:
        assert (got.status, (await got.json())["code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (asked("hello", thread="no thread!"), "invalid_message"),
        (asked("x" * 20_000), "invalid_message"),
        (asked("hello", forwardedProps={"mode": "shout"}), "invalid_message"),
        (asked("hello", resume=[{"interruptId": "a-9", "status": "cancelled"}]), "not_found"),
        (asked("hello", resume=[{"interruptId": "a-9", "status": "resolved", "payload": 1}]), "invalid_message"),
    ],
)
async def test_what_the_service_refuses_is_the_runs_error(url: str, user: str, body: Any, code: str) -> None:
    one = await run_of(url, user, body)
    assert [event["code"] for event in one.of("RUN_ERROR")] == [code]
    assert one.types == ["RUN_STARTED", "RUN_ERROR"]


async def test_a_run_takes_a_token_with_the_scope_of_chat(url: str, user: str) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{url}/ag-ui", json=asked("x")) as got:
            assert (got.status, (await got.json())["code"]) == (401, "auth_missing")
        headers = {"Authorization": f"Bearer {token_of(user, scope='twin:data')}"}
        async with http.post(f"{url}/ag-ui", json=asked("x"), headers=headers) as got:
            assert (got.status, (await got.json())["code"]) == (403, "auth_forbidden")
    token = {"Authorization": f"Bearer {token_of(user, scope='twin:profile')}"}
    one = await run_of(url, user, asked("x"), **token)
    assert [event["code"] for event in one.of("RUN_ERROR")] == ["forbidden"]


async def test_limits_are_those_of_sockets(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str
) -> None:
    """The rate of messages, the sessions of a user, and the connects of an address."""
    database = f"agui-{new_id()[:12]}"
    fields = {"storage__mongodb_database": database, "model__extraction": "rules"}
    settings = settings_for(
        mongod.url, redis_server.url, model.base_url, limits__messages_per_minute=1, limits__sessions=1, **fields
    )
    async with service(settings) as running_one:
        url = url_of(running_one)
        model.script(contains=user, tokens=("one ", "two"), hold_after=1)
        async with running(url, user, asked(f"hello {user}")) as one:
            await one.read("TEXT_MESSAGE_CONTENT")
            async with running(url, user, asked("again")) as other:
                assert other.response.status == 429
                assert json.loads(await other.response.text())["code"] == "too_many_sessions"
            model.release(user)
            await one.read()
        await eventually(lambda: not running_one.gateway.connections)
        limited = await run_of(url, user, asked("again"))
        assert [event["code"] for event in limited.of("RUN_ERROR")] == ["rate_limited"]


async def test_an_address_can_begin_so_many_runs(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str
) -> None:
    """Also without a token: as many as it can open sockets."""
    settings = settings_for(mongod.url, redis_server.url, model.base_url, limits__connects_per_address=3)
    of_its_own = aiohttp.TCPConnector(local_addr=("127.0.0.83", 0))  # other tests come from the usual address
    async with service(settings) as running_one, aiohttp.ClientSession(connector=of_its_own) as http:
        statuses = []
        for _ in range(6):
            async with http.post(f"{url_of(running_one)}/ag-ui", json=asked("x")) as got:
                statuses.append(got.status)
        assert statuses[0] == 401
        assert statuses[-1] == 429


async def test_pages_of_other_origins_are_let_in_by_the_rule_of_sockets(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str
) -> None:
    settings = settings_for(
        mongod.url, redis_server.url, model.base_url, server__cors_origins=("https://app.example.com",)
    )
    token = {"Authorization": f"Bearer {token_of(user)}"}
    async with service(settings) as running_one, aiohttp.ClientSession() as http:
        at = f"{url_of(running_one)}/ag-ui"
        for origin, status in (("https://app.example.com", 204), ("https://evil.example.com", 403)):
            async with http.options(at, headers={"Origin": origin}) as got:
                assert got.status == status
                assert got.headers.get("Access-Control-Allow-Origin") == (origin if status == 204 else None)
                assert status == 403 or "Authorization" in got.headers["Access-Control-Allow-Headers"]
        async with http.post(at, json=asked("x"), headers={"Origin": "https://app.example.com"}) as got:
            assert got.status == 401
            assert got.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        async with http.post(at, json=asked("x"), headers={**token, "Origin": "https://evil.example.com"}) as got:
            assert got.status == 403
        async with http.post(at, json=asked("x"), headers={**token, "Origin": "https://app.example.com"}) as got:
            assert got.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
            assert "RUN_FINISHED" in await got.text()


async def test_a_draining_server_sends_the_run_elsewhere(opened: Opened, model: ScriptedModel, user: str) -> None:
    """Its client sends it again, to another instance, which has the answer."""
    said = words()
    model.script(contains=said, tokens=("one ", "two"), hold_after=1)
    first, second = await opened(), await opened()
    async with running(url_of(first), user, asked(said, "m-1")) as one:
        await one.read("TEXT_MESSAGE_CONTENT")
        draining = asyncio.create_task(first.drain(1.0))
        await one.read()
        assert [event["code"] for event in one.of("RUN_ERROR")] == ["draining"]
        async with running(url_of(second), user, asked(said, "m-1")) as again:
            model.release(said)
            await again.read()
        await draining
    assert again.text == "one two"


def raw_request(user: str, body: bytes, length: int) -> bytes:
    head = (
        f"POST /ag-ui HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token_of(user)}\r\nContent-Length: {length}\r\n\r\n"
    )
    return head.encode() + body


async def test_a_client_that_leaves_in_its_body_leaves_nothing(
    instance: Service, user: str, connect: Connect, logged: list[Any]
) -> None:
    other = await connect()
    _, writer = await asyncio.open_connection("127.0.0.1", instance.port)
    writer.write(raw_request(user, b'{"threadId": ', 1_000))
    connected = lambda: [one for one in instance.gateway.sessions.all() if one.caller.user_id == user]  # noqa: E731
    await eventually(lambda: len(connected()) == 2)
    writer.close()
    await eventually(lambda: len(connected()) == 1)
    assert (await other.ask("still here")).status == "complete"
    assert not [line for line in logged if line["log_level"] == "error"]


async def test_a_client_that_does_not_read_is_cut(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str
) -> None:
    """What waits for it is bounded, and the answer is stored all the same."""
    model.script(contains=user, tokens=("x" * 10_000,) * 600)
    settings = settings_for(
        mongod.url,
        redis_server.url,
        model.base_url,
        tuning__slow_soft_bytes=16_384,
        server__slow_hard_bytes=65_536,
        tuning__slow_stuck_s=0.5,
    )
    async with service(settings) as running_one:
        reader, writer = await asyncio.open_connection("127.0.0.1", running_one.port, limit=1024)
        body = json.dumps(asked(f"at length {user}", "m-1")).encode()
        writer.write(raw_request(user, body, len(body)))
        await reader.readuntil(b"RUN_STARTED")
        await eventually(lambda: running_one.services.delivery.slow_aborts, 30)
        await eventually(lambda: not running_one.ag_ui.open_sockets)
        writer.close()
        answer = await eventually(lambda: answer_of(running_one, user), 30)
        assert len(answer.payload["text"]) > 4 * 65_536 - 10_000


async def answer_of(instance: Service, user: str) -> Any:
    """The user's first answer, as it is stored."""
    events = await instance.services.messages.read(user, 0, 10)
    return next((event for event in events if event.type == "twin_message"), None)

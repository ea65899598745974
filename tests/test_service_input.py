"""Every input is hostile: a coded error, the connection alive, nothing stored."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import token_of
from tests.raw import RawSocket
from tests.waiting import eventually
from twin_sio.protocol import CLIENT_EVENTS, Auth, parse, parse_auth
from twin_sio.runtime.serve import Service

# What is no JSON at all (NaN, Infinity) is a malformed frame, and has a test of its own.
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
GOOD: dict[str, dict[str, Any]] = {
    "user_message": {"text": "hello"},
    "context_update": {"context": {"page": "/"}},
    "feedback": {"message_id": "m", "rating": "up"},
    "typing_indicator": {"is_typing": True},
    "read_receipt": {"message_id": "m"},
    "heartbeat": {},
    "resume": {"last_seq": 0},
    "stop_generation": {"message_id": "m"},
    "regenerate": {"message_id": "m"},
    "history": {"limit": 5},
    "conversations": {},
    "search": {"text": "hello"},
    "host_tools": {"tools": [{"name": "t", "description": "d"}]},
    "tool_result": {"call_id": "c"},
    "approval": {"approval_id": "a", "decision": "approve"},
    "auth_refresh": {"token": "t"},
    "profile_get": {},
    "profile_correct": {"trait_id": "t", "action": "confirm"},
}
CODES = {"invalid_message", "unknown_type", "too_large", "not_found", "forbidden"}
NEEDY = [name for name in CLIENT_EVENTS if GOOD[name]]


def envelope(name: str, **more: Any) -> dict[str, Any]:
    return {"payload": {**GOOD[name], **more}, "metadata": {"message_id": "m-1"}}


async def _alive_and_empty(raw: RawSocket) -> None:
    ack = await raw.ask("heartbeat", {"payload": {}})
    assert ack["type"] == "heartbeat_ack"
    assert ack["payload"]["head_seq"] == 0


def _is_coded(answer: dict[str, Any]) -> None:
    assert answer["type"] == "error"
    assert answer["payload"]["code"] in CODES
    assert answer["payload"]["message"]
    assert isinstance(answer["payload"]["retryable"], bool)


def test_every_client_event_is_tried() -> None:
    assert GOOD.keys() == CLIENT_EVENTS.keys()


async def test_the_depth_bound_is_constant(url: str, user: str) -> None:
    """How deep values may nest does not depend on what else is in the envelope."""
    context: Any = 1
    for _ in range(13):
        context = {"deeper": context}
    async with RawSocket(url, token_of(user)) as raw:
        for metadata in ({}, {"metadata": {}}):
            received = await raw.ask("context_update", {"payload": {"context": context}, **metadata})
            assert received["type"] == "message_received"
            received = await raw.ask("context_update", {"payload": {"context": {"deeper": context}}, **metadata})
            _is_coded(received)


@pytest.mark.parametrize("name", CLIENT_EVENTS)
async def test_an_envelope_of_the_wrong_shape_is_refused(name: str, url: str, user: str) -> None:
    deep: Any = "x"
    for _ in range(50):
        deep = {"deeper": deep}
    ident = {"message_id": "m-1"}
    cases: list[tuple[Any, ...]] = [
        (),
        (envelope(name), envelope(name)),
        ("text",),
        (7,),
        ([envelope(name)],),
        (None,),
        ({**envelope(name), "payload": "text"},),
        ({**envelope(name), "payload": [1]},),
        ({**envelope(name), "metadata": "text"},),
        ({**envelope(name), "metadata": {"message_id": 7}},),
        ({**envelope(name), "metadata": {"message_id": "not an id"}},),
        ({**envelope(name), "metadata": {"message_id": "x" * 129}},),
        ({**envelope(name), "metadata": {**ident, "conversation_id": ""}},),
        ({**envelope(name), "metadata": {**ident, "timestamp": "yesterday"}},),
        ({**envelope(name), "metadata": {**ident, "timestamp": "2026-06-12T14:22:31"}},),
        ({**envelope(name), "metadata": {**ident, "session_id": "somebody-else"}},),
        ({**envelope(name), "type": "something_else"},),
        (envelope(name, extra=deep),),
        (envelope(name, extra="a\x00b"),),
        (envelope(name, extra={"a\x00b": 1}),),
        (envelope(name, extra=2**60),),
        (envelope(name, extra="x" * 70_000),),
    ]
    if CLIENT_EVENTS[name].needs_id:
        cases += [({"payload": GOOD[name]},), ({"payload": GOOD[name], "metadata": {}},)]
    async with RawSocket(url, token_of(user)) as raw:
        for case in cases:
            _is_coded(await raw.ask(name, *case))
        await _alive_and_empty(raw)


@pytest.mark.parametrize("name", NEEDY)
async def test_a_wrong_type_is_named_by_its_path(name: str, url: str, user: str) -> None:
    """Each field of the wrong type is refused by its path."""
    async with RawSocket(url, token_of(user)) as raw:
        for field in GOOD[name]:
            nothing = [] if field != "tools" else {}  # which is a list
            for wrong in (nothing, {"a": []} if field != "context" else "text", 1.5, None):
                answer = await raw.ask(name, envelope(name, **{field: wrong}))
                _is_coded(answer)
                if wrong is not None or name not in ("history",):
                    assert answer["payload"].get("field", "").startswith(f"payload.{field}")
                    break
        await _alive_and_empty(raw)


@pytest.mark.parametrize("name", CLIENT_EVENTS)
def test_null_is_absent(name: str) -> None:
    """Null in every optional field of an event, in all of them at once, and around it."""
    model = CLIENT_EVENTS[name].payload
    nulls = {field: None for field, known in model.model_fields.items() if not known.is_required()}
    ident = {"message_id": "m-1", "session_id": None, "conversation_id": None, "timestamp": None}
    given = {"type": None, "payload": {**GOOD.get(name, {}), **nulls}, "metadata": ident}
    read = parse(name, [given])
    assert read.conversation_id == "main"
    assert all(getattr(read.payload, field) == model.model_fields[field].get_default() for field in nulls)
    for optional in ("token", "session_id", "user_id", "last_seq", "context", "device", "features"):
        assert parse_auth({optional: None}) == Auth()
    if not GOOD.get(name) and not CLIENT_EVENTS[name].needs_id:
        assert parse(name, [{"payload": None, "metadata": None}]).message_id is None


@pytest.mark.parametrize("text", ["", "x" * 9000, "a\x00b"])
async def test_a_text_out_of_bounds_is_refused(text: str, url: str, user: str) -> None:
    async with RawSocket(url, token_of(user)) as raw:
        answer = await raw.ask("user_message", envelope("user_message", text=text))
        assert answer["payload"]["code"] == "invalid_message"
        assert answer["payload"]["field"] == "payload.text"
        await _alive_and_empty(raw)


@pytest.mark.parametrize(
    "frame",
    [
        '42["user_message",{"payload":{"text":"\\ud800"},"metadata":{"message_id":"m"}}]',
        '42["user_message",{"payload":{"text":NaN},"metadata":{"message_id":"m"}}]',
        '42["user_message",{"payload":{"text":"x"},"metadata":{"message_id":"m"}}',
        '42{"not":"a list"}',
        "42[]",
        "42[7]",
        '42[null,{"a":1}]',
        "42",
        "4",
        "4[[[[",
        "4" + "[" * 5000,
        "42" + "[" * 5000,
        '42٣["user_message",{}]',
        '42/other,["user_message",{}]',
        '4299999999999999999999["heartbeat",{}]',
        '451-["user_message",{"_placeholder":true,"num":0}]',
        '450-["user_message"]',
        "4510000000-[]",
        '461-0["x",{"_placeholder":true,"num":0}]',
        '44{"message":"x"}',
        "47",
    ],
)
async def test_a_malformed_frame_gets_one_coded_error(frame: str, url: str, user: str) -> None:
    async with RawSocket(url, token_of(user)) as raw:
        await raw.send(frame)
        await raw.until(lambda: raw.of("error"))
        _is_coded(raw.of("error")[0])
        await _alive_and_empty(raw)
        assert len(raw.of("error")) == 1


async def test_session_ready_is_first_whatever_is_sent_at_once(url: str, user: str) -> None:
    """Errors of what is no event have their place in the connection's order, behind the greeting."""
    token, count = token_of(user), 300  # more than one connection's queue holds
    raw = RawSocket(url, token)
    await raw.open()
    async with AsyncExitStack() as stack:
        stack.push_async_exit(raw)
        await raw.send("40" + json.dumps({"token": token}))
        for _ in range(count):
            await raw.send("42[7]")
        await raw.until(lambda: len(raw.of("error")) == count)
        assert raw.events[0]["type"] == "session_ready"


@pytest.mark.parametrize(
    "name", ["connect", "disconnect", "connect_error", "*", "message", "no_such_event", "__ack", ""]
)
async def test_an_unknown_event_runs_nothing(name: str, url: str, user: str) -> None:
    """A name that is no event is unknown and runs nothing."""
    async with RawSocket(url, token_of(user)) as raw:
        answer = await raw.ask(name, {"payload": {}, "aiohttp.request": None}, {"token": "forged"})
        assert answer["payload"]["code"] == "unknown_type"
        await _alive_and_empty(raw)


async def test_a_second_connect_and_other_namespaces_change_nothing(url: str, user: str, instance: Service) -> None:
    async with RawSocket(url, token_of(user)) as raw:
        before = instance.gateway.connections
        await raw.send("40" + json.dumps({"token": token_of("somebody-else")}))
        await raw.until(lambda: raw.refusal)
        for index in range(10):
            await raw.send(f"40/namespace-{index},{{}}")
        await _alive_and_empty(raw)
        assert instance.gateway.connections == before
        assert len(instance.sockets.manager.rooms) == 1


async def test_whoever_asks_for_ten_thousand_namespaces_is_closed(url: str, user: str, instance: Service) -> None:
    async with RawSocket(url, token_of(user)) as raw:
        for index in range(10_000):
            if raw.closed.is_set():
                break
            await raw.send(f"40/namespace-{index},{{}}")
        async with asyncio.timeout(10):
            await raw.closed.wait()
    await eventually(lambda: all(one.caller.user_id != user for one in instance.gateway.sessions.all()))
    assert set(instance.sockets.manager.rooms) <= {"/"}


async def test_events_are_handled_in_order(url: str, user: str) -> None:
    """The events of one connection are handled in the order sent."""
    async with RawSocket(url, token_of(user)) as raw:
        for index in range(40):
            metadata = {"message_id": f"m-{index}", "conversation_id": f"c-{index}"}
            await raw.emit("user_message", {"payload": {"text": f"{index}"}, "metadata": metadata})
        await raw.until(lambda: len(raw.of("message_received")) == 40)
        assert [one["metadata"]["seq"] for one in raw.of("message_received")] == sorted(
            one["metadata"]["seq"] for one in raw.of("message_received")
        )
        assert [one["payload"]["message_id"] for one in raw.of("message_received")] == [f"m-{n}" for n in range(40)]


HALVES = ["cut \\ud83d", "\\uDE00 begun", "\\ud83d\\ud83d", "a\\udfff"]


@pytest.mark.parametrize("half", HALVES)
async def test_half_an_emoji_is_refused_by_its_id(half: str, url: str, user: str) -> None:
    """In the text, in a context's key or value: the refusal names the message, and the connection lives."""
    metadata = '"metadata":{"message_id":"m-1"}'
    payloads = [
        f'{{"text":"{half}"}}',
        f'{{"text":"a","context":{{"{half}":1}}}}',
        f'{{"text":"a","context":["{half}"]}}',
    ]
    async with RawSocket(url, token_of(user)) as raw:
        for number, payload in enumerate(payloads):
            await raw.send(f'42{number}["user_message",{{"payload":{payload},{metadata}}}]')
            await raw.until(lambda number=number: number in raw.acks)
            refusal = raw.acks[number][0]
            assert refusal["payload"]["code"] == "invalid_message"
            assert refusal["metadata"]["in_response_to"] == "m-1"
        await raw.send(f'42["{half}",{{"payload":{{}},{metadata}}}]')
        await raw.until(lambda: len(raw.of("error")) == 4)
        raw._next_ack = 10
        await _alive_and_empty(raw)


async def test_half_an_emoji_in_a_handshake_is_refused(url: str, user: str) -> None:
    half = '"\\ud83d"'
    for auth in (f'{{"token":"{token_of(user)}","device":{{"name":{half}}}}}', f'{{"token":{half}}}'):
        raw = RawSocket(url, None)
        await raw.open()
        await raw.send("40" + auth)
        await raw.until(lambda raw=raw: raw.refusal)
        assert raw.refusal is not None
        assert raw.refusal["data"]["retryable"] is False
        await raw.__aexit__(None, None, None)


async def test_a_binary_argument_gets_an_error(url: str, user: str) -> None:
    """As stock clients send one: the event with a placeholder, then the bytes. The connection lives."""
    async with RawSocket(url, token_of(user)) as raw:
        argument = '{"payload":{"text":{"_placeholder":true,"num":0}},"metadata":{"message_id":"m-1"}}'
        await raw.send(f'451-7["user_message",{argument}]')
        await raw.send(b"\x00" * 90_000)
        await raw.until(lambda: 7 in raw.acks)
        assert raw.acks[7][0]["payload"]["code"] == "invalid_message"
        assert raw.acks[7][0]["metadata"]["in_response_to"] == "m-1"
        await _alive_and_empty(raw)
        assert len(raw.of("error")) == 1


async def test_a_frame_too_long_is_told_before_the_close(url: str, user: str) -> None:
    async with RawSocket(url, token_of(user)) as raw:
        await raw.emit("user_message", envelope("user_message", text="x" * 150_000))
        async with asyncio.timeout(5):
            await raw.closed.wait()
        assert [one["payload"]["code"] for one in raw.of("error")] == ["too_large"]
        assert raw._ws.close_code == 1009


BLANKS = [" ", "\n\t \u3000", "\u200b\u200d\ufeff", "\u00a0\u2060", "\u3164\u2800", "\u202e"]


@pytest.mark.parametrize("blanks", BLANKS)
async def test_a_text_of_blanks_is_refused(blanks: str, url: str, user: str) -> None:
    async with RawSocket(url, token_of(user)) as raw:
        refusal = await raw.ask("user_message", envelope("user_message", text=blanks))
        assert (refusal["payload"]["code"], refusal["payload"]["field"]) == ("invalid_message", "payload.text")
        await _alive_and_empty(raw)
        seen = {"text": f"{blanks}\u2764\ufe0f{blanks}"}
        said = {"payload": seen, "metadata": {"message_id": "m-2"}}
        assert (await raw.ask("user_message", said))["type"] == "message_received"


async def test_an_event_before_connect_closes_the_socket(url: str) -> None:
    raw = RawSocket(url, None)
    await raw.open()
    await raw.send('42["heartbeat",{"payload":{}}]')
    async with asyncio.timeout(5):
        await raw.closed.wait()
    assert raw.events == []
    await raw.__aexit__(None, None, None)


@pytest.mark.parametrize("frame", ["", "x", "9"])
async def test_an_invalid_engine_packet_closes_the_socket(frame: str, url: str, user: str, instance: Service) -> None:
    """What is no engine packet closes the socket and leaves no entry."""
    before = set(instance.sockets.eio.sockets)
    async with RawSocket(url, token_of(user)) as raw:
        mine = set(instance.sockets.eio.sockets) - before
        await raw.send(frame)
        async with asyncio.timeout(5):
            await raw.closed.wait()
    await eventually(lambda: all(one.caller.user_id != user for one in instance.gateway.sessions.all()))
    assert len(mine) == 1
    await eventually(lambda: not mine & set(instance.sockets.eio.sockets))


@pytest.mark.parametrize(
    "auth", ['"text"', "[1,2]", "7", "{}", '{"token":7}', "true", "{bad", '{"token":"x","last_seq":-1}']
)
async def test_an_auth_of_the_wrong_shape_is_refused_or_closed(auth: str, url: str) -> None:
    raw = RawSocket(url, None)
    await raw.open()
    await raw.send("40" + auth)
    await raw.until(lambda: raw.refusal or raw.closed.is_set())
    if raw.refusal is not None:
        assert raw.refusal["data"]["code"] in {"auth_missing", "auth_invalid"}
    assert raw.events == []
    await raw.__aexit__(None, None, None)


@given(name=st.sampled_from(sorted(CLIENT_EVENTS)), payload=JSON, metadata=JSON)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
async def test_whatever_comes_is_answered_once_and_never_by_internal(
    name: str, payload: Any, metadata: Any, fuzzed: RawSocket
) -> None:
    ack = await fuzzed.emit(name, {"payload": payload, "metadata": metadata})
    await fuzzed.until(lambda: ack in fuzzed.acks)
    for answer in fuzzed.acks[ack]:
        if answer["type"] == "error":
            assert answer["payload"]["code"] != "internal"
            assert "Traceback" not in json.dumps(answer)


@pytest.fixture(scope="module")
async def fuzzed(instance: Service) -> Any:
    async with RawSocket(f"http://127.0.0.1:{instance.port}", token_of("fuzzed-user")) as raw:
        yield raw

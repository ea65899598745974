"""Messages between instances: this build and the builds before it understand each other in a rolling restart.

`tests/data/instances` holds what each build has published for the same calls, byte for byte: `before-epochs` and
`before-versions` are of builds that wrote no version, `version-1` is of the first that did, `version-1-tools` has the
kinds that came to it with tools. A file that is there is not edited; a new version, or a new kind, gets a new file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.test_delivery import delivering
from tests.waiting import eventually
from twin_sio.delivery import messages
from twin_sio.delivery.messages import (
    AnswerChunk,
    CloseOlderConnections,
    DurableEvent,
    EphemeralEvent,
    Reconcile,
    SessionEvent,
    StopTurn,
    TurnChanged,
    TurnsPending,
    UserErased,
    decode_control,
    decode_user,
    encode_control,
    encode_user,
)
from twin_sio.delivery.pubsub import PubSub
from twin_sio.runtime.dev_engines.engines import RedisServer

_RECORDED = Path(__file__).parent / "data/instances"
_INSTANCE = "0instance0of0the0recording"
_USER = "ada ©"
_META = '["main","m-9","session-1"]'


def recorded(build: str) -> list[tuple[str, bytes]]:
    """Channel and payload of each message, in the order in which the build published them."""
    lines = (_RECORDED / f"{build}.jsonl").read_text().splitlines()
    return [(line["channel"], line["payload"].encode()) for line in map(json.loads, lines)]


def decoded(channel: str, payload: bytes) -> object:
    return decode_control(payload) if channel == messages.CONTROL_CHANNEL else decode_user(payload)


def without_frame(message: Any) -> object:
    if hasattr(message, "frame"):
        assert json.loads(message.frame.removeprefix(b"2"))[1]["metadata"]["message_id"]
        message.frame = b""
    return message


USER_MESSAGES = [
    DurableEvent(7, None, None, b""),
    DurableEvent(8, "g-1", "m-7", b""),
    EphemeralEvent(None, b""),
    EphemeralEvent("sid-1", b""),
    AnswerChunk("g-2", 0, _META, b""),
    AnswerChunk("g-2", 1, _META, b""),
    CloseOlderConnections(_USER, "session-1", "sid-2"),
]
CONTROL_MESSAGES = [StopTurn(_USER, "turn-1"), TurnsPending(_USER, "main"), UserErased(_USER, 3), Reconcile()]


@pytest.mark.parametrize("build", ["before-versions", "before-epochs", "version-1"])
def test_recorded_messages_are_decoded(build: str) -> None:
    """The builds without a version also wrote `turns`, which means the same as `owed`. The erasures of the build before
    epochs name none, so nothing can be concluded from them: they are ignored."""
    expected: list[object] = [*USER_MESSAGES, *CONTROL_MESSAGES]
    if build != "version-1":
        expected.insert(expected.index(TurnsPending(_USER, "main")), TurnsPending(_USER, "main"))
    found = [without_frame(decoded(channel, payload)) for channel, payload in recorded(build)]
    if build == "before-epochs":
        expected[expected.index(UserErased(_USER, 3))] = None
    assert found == expected


def test_the_kinds_that_came_with_tools_are_decoded() -> None:
    """A build before them ignores what it does not know."""
    found = [without_frame(decoded(channel, payload)) for channel, payload in recorded("version-1-tools")]
    assert found == [SessionEvent("session-1", b""), TurnChanged(_USER, "main")]


@pytest.mark.parametrize("build", ["version-1", "version-1-tools"])
def test_encoded_messages_are_the_recorded_bytes(build: str) -> None:
    for channel, payload in recorded(build):
        if channel == messages.CONTROL_CHANNEL:
            control = decode_control(payload)
            assert control is not None
            assert encode_control(_INSTANCE, control) == payload
        else:
            message = decode_user(payload)
            assert message is not None
            assert encode_user(_INSTANCE, message) == payload


def test_every_kind_of_message_is_recorded() -> None:
    every = [*recorded("version-1"), *recorded("version-1-tools")]
    found = {type(decoded(channel, payload)) for channel, payload in every}
    assert found == {*messages.UserMessage.__args__, *messages.ControlMessage.__args__}  # type: ignore[attr-defined]


def as_the_build_before_reads(channel: str, payload: bytes) -> object:
    """What the build before versions took from a message; the lines of its `Delivery` that decoded, unchanged."""
    if channel == "twin:control":
        return orjson.loads(payload)[1]
    header, _, body = payload.partition(b"\n")
    _, kind, *rest = orjson.loads(header)
    if kind == "d":
        return kind, rest[0], rest[1], rest[2], body
    if kind == "c":
        return kind, rest[0], rest[1], rest[2], body
    if kind == "e":
        return kind, rest[0], body
    if kind == "r":
        return rest[0]
    return None


def test_the_build_before_reads_what_this_one_writes() -> None:
    mine = [as_the_build_before_reads(channel, payload) for channel, payload in recorded("version-1")]
    its_own = [as_the_build_before_reads(channel, payload) for channel, payload in recorded("before-versions")]
    assert mine == [message for message in its_own if not (isinstance(message, dict) and message["kind"] == "turns")]


@pytest.mark.parametrize(
    "payload",
    [
        b'["x","d",1,null,null,2]\nframe',  # a newer version
        b'["x","d",1,null,null,"1"]\nframe',
        b'["x","z",1]\nframe',  # a kind that is not known
        b'["x","d"]\nframe',
        b'["x","d","1",null,null]\nframe',
        b'["x","c","g",null,"m"]\nframe',
        b'["x","e",1]\nframe',
        b'["x","e"]\nframe',
        b'["x","r",{"kind":"replace"}]\n',
        b'["x",["d"],1]\nframe',
        b'["x"]\n',
        b"[]\n",
        b"null",
        b"7\n",
        b"{}\n",
        b"no json\n",
        b"\xff\xfe",
        b"",
    ],
)
def test_unknown_user_messages_are_ignored(payload: bytes) -> None:
    assert decode_user(payload) is None


@pytest.mark.parametrize(
    "payload",
    [
        b'["x",{"kind":"look"},2]',  # a newer version
        b'["x",{"kind":"look"},null]',
        b'["x",{"kind":"later"},1]',  # a kind that is not known
        b'["x",{"kind":"stop","user_id":"ada"}]',
        b'["x",{"kind":"erased","user_id":"ada","epoch":"3"}]',
        b'["x",7]',
        b'["x"]',
        b"[]",
        b"null",
        b"no json",
        b"",
    ],
)
def test_unknown_control_messages_are_ignored(payload: bytes) -> None:
    assert decode_control(payload) is None


def test_fields_after_the_version_are_skipped() -> None:
    assert decode_user(b'["x","e",null,1,"added"]\n') == EphemeralEvent(None, b"")
    assert decode_control(b'["x",{"kind":"look","added":1},1,"added"]') == Reconcile()


async def test_an_instance_acts_on_what_the_build_before_publishes(redis_server: RedisServer) -> None:
    """Over a real Redis; what no build can read comes between, and ends neither the subscription nor the order."""
    received: list[object] = []
    async with delivering(redis_server, received.append) as instance:
        await instance.subscribe(_USER)
        other = PubSub(redis_server.url)
        await other.start()
        try:
            for channel, payload in recorded("before-versions"):
                other.publish(channel, b"\xff no message")
                if not hasattr(decoded(channel, payload), "frame"):  # those go to connections, of which there are none
                    other.publish(channel, payload)
            await eventually(lambda: Reconcile() in received)
        finally:
            await other.stop()
    pending = TurnsPending(_USER, "main")
    assert received == [USER_MESSAGES[-1], CONTROL_MESSAGES[0], pending, pending, *CONTROL_MESSAGES[2:]]

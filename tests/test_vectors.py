"""The language-neutral cases of docs/vectors: the frames the server writes, and what the Python client makes of them.

The TypeScript client is held against the same files in clients/js/test/vectors.test.ts.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.raw import held_to_protocol
from twin_sio.client import ClientState, StateChange, WantsHistory, WantsResume
from twin_sio.conformance import UNKNOWN_EVENT
from twin_sio.protocol import Outgoing
from twin_sio.transport.frames import event_frame

FILES = sorted((Path(__file__).parent.parent / "docs" / "vectors").glob("*.json"))
CASES = [case for path in FILES for case in json.loads(path.read_text())["cases"]]
FRAMES = [frame for case in CASES for frame in case["frames"]]
by_name = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


def envelope_of(frame: str) -> dict[str, Any]:
    assert frame.startswith("42")
    name, envelope = json.loads(frame[2:])
    if name != UNKNOWN_EVENT:
        held_to_protocol(name, envelope)
    assert isinstance(envelope, dict)
    return envelope


@by_name
def test_the_frames_are_what_the_server_writes(case: dict[str, Any]) -> None:
    for frame in case["frames"]:
        envelope = envelope_of(frame)
        meta = dict(envelope["metadata"])
        at = datetime.fromisoformat(meta.pop("timestamp"))
        received = Outgoing(envelope["type"], envelope["payload"], meta.pop("message_id"), at, **meta)
        assert event_frame(received.type, received.envelope()).encode() == frame


@by_name
def test_the_python_client_gets_from_before_to_after(case: dict[str, Any]) -> None:
    state = ClientState(last_seq=case["before"]["last_seq"])
    for sent in case["before"]["sent"]:
        metadata = {"message_id": sent["message_id"]}
        state.sending({"type": "user_message", "payload": {"text": sent["text"]}, "metadata": metadata})
    must_send: list[dict[str, Any]] = []
    for frame in case["frames"]:
        must_send += [asked for change in state.receive(envelope_of(frame)) if (asked := _asked(change))]
    after = {
        "last_seq": state.last_seq,
        "messages": [
            {"message_id": m.message_id, "role": m.role, "text": m.text, "seq": m.seq} for m in state.transcript()
        ],
        "streaming": [generation.text for generation in state.generations.values()],
        "must_send": must_send,
    }
    assert after == case["after"]


def _asked(change: StateChange) -> dict[str, Any] | None:
    match change:
        case WantsResume(last_seq):
            return {"type": "resume", "payload": {"last_seq": last_seq}}
        case WantsHistory():
            return {"type": "history", "payload": {}}
        case _:
            return None


def test_the_cases_have_names_of_their_own() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES) > 15

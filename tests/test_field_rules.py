"""What clients are told of a field that is refused: its rule, in plain words, and never what they sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin_sio.errors import InvalidMessage, TooLarge
from twin_sio.protocol import CLIENT_EVENTS, parse, parse_auth

FEEDBACK = {"message_id": "m", "rating": "up"}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def refused(event: str, payload: Any, **metadata: Any) -> tuple[str, str | None]:
    """The sentence, and the field."""
    with pytest.raises(InvalidMessage) as error:
        parse(event, [{"payload": payload, "metadata": {"message_id": "m", **metadata}}])
    return error.value.message, error.value.field


@pytest.mark.parametrize(
    ("event", "payload", "told", "field"),
    [
        ("user_message", {}, "text is missing.", "payload.text"),
        ("user_message", [], "payload must be an object.", "payload"),
        ("user_message", {"text": 5}, "text must be a text.", "payload.text"),
        ("user_message", {"text": "x" * 8_001}, "text is too long: 8000 characters at most.", "payload.text"),
        ("user_message", {"text": ""}, "text must not be empty.", "payload.text"),
        ("user_message", {"text": " "}, "text must have something in it that can be seen.", "payload.text"),
        (
            "user_message",
            {"text": "x", "mode": "secret"},
            "mode must be one of: queue, interrupt, steer.",
            "payload.mode",
        ),
        ("user_message", {"text": "x", "context": []}, "context must be an object.", "payload.context"),
        ("resume", {"last_seq": "1"}, "last_seq must be a whole number.", "payload.last_seq"),
        ("resume", {"last_seq": 1.5}, "last_seq must be a whole number.", "payload.last_seq"),
        ("resume", {"last_seq": -1}, "last_seq must be 0 or more.", "payload.last_seq"),
        ("history", {"limit": 201}, "limit must be 200 or less.", "payload.limit"),
        ("typing_indicator", {"is_typing": "yes"}, "is_typing must be true or false.", "payload.is_typing"),
        ("feedback", {**FEEDBACK, "tags": "a"}, "tags must be a list.", "payload.tags"),
        ("feedback", {**FEEDBACK, "tags": ["a"] * 21}, "tags has too many entries: 20 at most.", "payload.tags"),
        ("feedback", {**FEEDBACK, "tags": [5]}, "An entry of tags must be a text.", "payload.tags.0"),
        (
            "host_tools",
            {"tools": [{"name": "a b", "description": "d"}]},
            "name may have letters, digits, _ and -, 64 at most and one at least.",
            "payload.tools.0.name",
        ),
        (
            "read_receipt",
            {"message_id": "a b"},
            "message_id may have letters, digits, . _ : and -, 128 at most and one at least.",
            "payload.message_id",
        ),
    ],
)
def test_the_rule_is_said_in_plain_words(event: str, payload: Any, told: str, field: str) -> None:
    assert refused(event, payload) == (told, field)


def test_metadata_and_the_handshake_are_told_so_too() -> None:
    rule = "may have letters, digits, . _ : and -, 128 at most and one at least."
    assert refused("heartbeat", {}, conversation_id="a b") == (
        f"conversation_id {rule}",
        "metadata.conversation_id",
    )
    assert refused("heartbeat", {}, timestamp="noon") == (
        "timestamp must be a time with its zone, as 2026-01-31T12:00:00Z.",
        "metadata.timestamp",
    )
    with pytest.raises(InvalidMessage) as error:
        parse_auth({"device": {"name": "x" * 201}})
    assert error.value.message == "name is too long: 200 characters at most."


@given(st.data())
def test_every_rule_has_words(data: st.DataObject) -> None:
    """Whatever is in whatever field."""
    event = data.draw(st.sampled_from(sorted(CLIENT_EVENTS)))
    fields = sorted(CLIENT_EVENTS[event].payload.model_fields)
    payload = {name: data.draw(ANY, label=name) for name in fields}
    told = ""
    try:
        parse(event, [{"payload": payload, "metadata": {"message_id": "m", "timestamp": data.draw(ANY)}}])
    except (InvalidMessage, TooLarge) as error:
        told = error.message
    assert "refused" not in told

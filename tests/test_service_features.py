"""Clients of before and after an event was added, on one log: nobody's count of it has a gap."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import token_of, url_of
from tests.raw import RawSocket
from tests.test_service_raw import plain
from twin_sio.clock import iso, new_id, now
from twin_sio.config import Settings
from twin_sio.domain import Event, NewEvent
from twin_sio.runtime.serve import Service, service


@pytest.fixture
async def another(settings: Settings) -> AsyncIterator[Service]:
    """A second server over the same engines."""
    async with service(settings) as running:
        yield running


def requested(approval_id: str) -> tuple[str, dict[str, Any]]:
    fields = {"approval_id": approval_id, "call_id": f"call-{approval_id}", "tool": "book", "title": "Book a table"}
    return "approval_requested", {**fields, "arguments": {"people": 2}, "expires_at": iso(now())}


def resolved(approval_id: str) -> tuple[str, dict[str, Any]]:
    return "approval_resolved", {"approval_id": approval_id, "decision": "approve"}


async def store(at: Service, user: str, type: str, payload: dict[str, Any], about: str, session_id: str) -> Event:
    """Append an event as the agent would, and publish it."""
    draft = NewEvent(user, type, new_id(), "kitchen", now(), payload, session_id, about)
    event = (await at.services.messages.append(draft)).event
    at.services.delivery.publish(event)
    return event


def durable(one: Any) -> list[dict[str, Any]]:
    return [event for event in one.events if "seq" in event["metadata"] and event["type"] != "message_received"]


async def say(one: RawSocket, text: str) -> str:
    message_id = new_id()
    metadata = {"message_id": message_id, "conversation_id": "kitchen"}
    await one.ask("user_message", {"payload": {"text": text}, "metadata": metadata})
    answers = lambda: [a for a in one.of("twin_message") if a["metadata"]["in_response_to"] == message_id]  # noqa: E731
    await one.until(answers)
    return message_id


async def test_an_older_client_gets_receipts_in_the_place_of_approvals(instance: Service, url: str, user: str) -> None:
    """It has every seq, and gets the next answer; a client that knows approvals gets them, each as it was stored."""
    async with (
        RawSocket(url, token_of(user), session_id="older") as older,
        RawSocket(url, token_of(user), session_id="newer", features=["approvals"]) as newer,
    ):
        asked = await say(older, "a table for two")
        events = [
            await store(instance, user, *requested("a-1"), asked, "older"),
            await store(instance, user, *resolved("a-1"), asked, "older"),
        ]
        await say(older, "thank you")
        await newer.until(lambda: len(newer.of("twin_message")) == 2)
    seqs = [event["metadata"]["seq"] for event in durable(older)]
    assert seqs == [2, 3, 4, 6]  # the two messages are its own
    receipts = older.of("read_receipt")
    for receipt, event in zip(receipts, events, strict=True):
        assert receipt["payload"] == {"message_id": asked}
        assert receipt["metadata"]["seq"] == event.seq
        assert receipt["metadata"]["session_id"] == "older"
        assert receipt["metadata"]["conversation_id"] == "kitchen"
    assert [event["metadata"]["seq"] for event in durable(newer)] == [1, 2, 3, 4, 5, 6]
    (first,), (second,) = newer.of("approval_requested"), newer.of("approval_resolved")
    assert first["payload"] == events[0].payload
    assert first["metadata"]["in_response_to"] == asked
    assert second["payload"] == events[1].payload
    assert not newer.of("read_receipt")


async def test_a_resume_replaces_what_an_older_client_does_not_know(instance: Service, url: str, user: str) -> None:
    """Both in the handshake, and by `resume`; the log itself is as it was."""
    async with RawSocket(url, token_of(user)) as one:
        asked = await say(one, "a table for two")
    event = await store(instance, user, *requested("a-1"), asked, "older")
    async with RawSocket(url, token_of(user), last_seq=2) as older:
        await older.until(lambda: older.of("resumed"))
        (receipt,) = durable(older)
        assert (receipt["type"], receipt["metadata"]["seq"]) == ("read_receipt", event.seq)
        await older.ask("resume", {"payload": {"last_seq": 0}})
        types = [each["type"] for each in durable(older)]
        assert types == ["read_receipt", "user_message", "twin_message", "read_receipt"]
    async with RawSocket(url, token_of(user), last_seq=2, features=["approvals", "another"]) as newer:
        await newer.until(lambda: newer.of("resumed"))
        assert [each["type"] for each in durable(newer)] == ["approval_requested"]


async def test_an_event_of_another_instance_is_replaced_as_well(
    instance: Service, another: Service, url: str, user: str
) -> None:
    async with (
        RawSocket(url_of(another), token_of(user)) as older,
        RawSocket(url_of(another), token_of(user), features=["approvals"]) as newer,
    ):
        asked = await say(older, "a table for two")
        await store(instance, user, *requested("a-1"), asked, "older")
        await newer.until(lambda: newer.of("approval_requested"))
        (receipt,) = await older.until(lambda: older.of("read_receipt"))
        assert receipt["payload"] == {"message_id": asked}
        assert not older.of("approval_requested")
        assert not newer.of("read_receipt")


async def test_a_plain_websocket_names_its_features_in_the_query(instance: Service, url: str, user: str) -> None:
    async with plain(url, user, f"/ws/chat/{user}?features=another,approvals") as newer, plain(url, user) as older:
        for one in (newer, older):
            await one.until(lambda one=one: one.of("session_ready"))
        await store(instance, user, *requested("a-1"), "m-1", "older")
        await newer.until(lambda: newer.of("approval_requested"))
        await older.until(lambda: older.of("read_receipt"))


async def test_features_may_be_one_text(instance: Service, url: str, user: str) -> None:
    """For SDKs whose auth holds texts only."""
    async with RawSocket(url, token_of(user), features="another,approvals") as one:
        await store(instance, user, *requested("a-1"), "m-1", "older")
        await one.until(lambda: one.of("approval_requested"))


@pytest.mark.parametrize("features", ["x" * 201, ["x" * 201], ["a"] * 17, [1]])
async def test_features_that_are_no_list_of_short_texts_are_refused(url: str, user: str, features: Any) -> None:
    async with RawSocket(url, token_of(user), features=features) as one:
        assert one.refusal is not None
        assert one.refusal["data"]["code"] == "auth_invalid"

"""Whatever is stored can be read again: pages that fit into a frame, and go on where they end."""

from __future__ import annotations

import json

from tests.conftest import Connect, token_of
from tests.raw import RawSocket
from tests.test_store import draft
from twin_sio.clock import new_id, now
from twin_sio.domain import NewEvent, Trait, TraitChange
from twin_sio.handlers.history import PAGE_BYTES
from twin_sio.runtime.serve import Service
from twin_sio.services.profile_payloads import changes_payload

LONG = "\U0001f4a3" * 8_000


async def _said(instance: Service, user: str, count: int, conversation: str | None = None) -> list[str]:
    messages = instance.services.messages
    ids = []
    for number in range(count):
        stored = await messages.append(draft(user, text=LONG, conversation=conversation or f"c{number}"))
        ids.append(stored.event.message_id)
    return ids


async def test_long_messages_are_paged_by_bytes(instance: Service, url: str, user: str) -> None:
    """A page of long messages fits into a frame and goes on."""
    ids = await _said(instance, user, 30, "main")
    async with RawSocket(url, token_of(user)) as device:
        for way in ("before", "after"):
            asked, shown = {"limit": 200} if way == "before" else {"limit": 200, "after": ids[0]}, []
            for _ in range(30):
                page = (await device.ask("history", {"payload": asked}))["payload"]
                lines = [line["message_id"] for line in page["messages"]]
                assert 0 < len(json.dumps(page, ensure_ascii=False).encode()) < PAGE_BYTES + 64 * 1024
                shown = lines + shown if way == "before" else shown + lines
                if not page["has_more"]:
                    break
                asked = {**asked, way: lines[0] if way == "before" else lines[-1]}
            assert shown == (ids if way == "before" else ids[1:])


async def test_all_conversations_are_listed_page_by_page_without_whole_texts(
    instance: Service, url: str, user: str, connect: Connect
) -> None:
    await _said(instance, user, 60)
    async with RawSocket(url, token_of(user)) as device:
        first = (await device.ask("conversations", {}))["payload"]
        assert len(first["conversations"]) == 50
        assert first["has_more"] is True
        assert {len(line["last_message"]["text"]) for line in first["conversations"]} == {200}
        rest = (await device.ask("conversations", {"payload": {"before": first["next"], "limit": 10}}))["payload"]
        assert (len(rest["conversations"]), rest["has_more"], "next" in rest) == (10, False, False)
    client = await connect()
    assert [line["conversation_id"] for line in await client.conversations()] == [f"c{n}" for n in reversed(range(60))]


async def test_a_huge_resume_is_whole(instance: Service, url: str, user: str) -> None:
    """A resume of far more than a connection may hold is whole."""
    ids = await _said(instance, user, 60, "main")
    async with RawSocket(url, token_of(user), last_seq=0) as device:
        await device.until(lambda: device.of("resumed"))
        assert [one["metadata"]["message_id"] for one in device.of("user_message")] == ids
        assert device.of("resumed")[0]["payload"] == {"through_seq": 60, "complete": True}
        await device.send('42["resume",' + json.dumps({"payload": {"last_seq": 30}}) + "]")
        await device.until(lambda: len(device.of("resumed")) == 2)
        assert len(device.of("user_message")) == 90
        assert not device.closed.is_set()


async def test_of_many_ratings_of_one_answer_the_newest_is_shown(instance: Service, url: str, user: str) -> None:
    messages = instance.services.messages
    (about,) = await _said(instance, user, 1, "main")
    for number in range(20):
        payload = {"message_id": about, "rating": "up", "comment": str(number)}
        await messages.append(NewEvent(user, "feedback", new_id(), "main", now(), payload))
    async with RawSocket(url, token_of(user)) as device:
        (line,) = (await device.ask("history", {}))["payload"]["messages"]
        assert line["feedback"]["comment"] == "19"


def test_a_huge_profile_update_fits_a_frame() -> None:
    """A version that changes thousands of traits fits a frame."""
    at = now()
    traits = [
        Trait(f"t{n}", "food.likes", f"{n} {'x' * 490}", "applied", 0.9, 8, 0, at, None, at) for n in range(5_000)
    ]
    received = changes_payload([TraitChange(trait, None, "time") for trait in traits])
    assert received["has_more"] is True
    assert 100 < len(received["changes"]) < 5_000
    assert len(json.dumps(received)) < PAGE_BYTES
    assert changes_payload([TraitChange(traits[0], None, "time")]).keys() == {"changes"}

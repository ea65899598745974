"""What a user may have stored beside messages, and exports that nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.conftest import settings_for, token_of, url_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.test_service_data import data_token
from tests.test_store import draft
from twin_sio.clock import new_id
from twin_sio.errors import StorageUnavailable
from twin_sio.http import exports
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service

MOST = 4


@pytest.fixture
async def strict(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel) -> AsyncIterator[Service]:
    settings = settings_for(mongod.url, redis_server.url, model.base_url, limits__writes_per_minute=MOST)
    async with service(settings) as running:
        yield running


def said(payload: dict[str, Any], message_id: str | None = None) -> dict[str, Any]:
    return {"payload": payload, "metadata": {"message_id": message_id or new_id()}}


async def test_a_repeated_read_mark_is_no_event(strict: Service, user: str) -> None:
    """A mark that does not advance is no event and counts for nothing."""
    async with RawSocket(url_of(strict), token_of(user)) as one, RawSocket(url_of(strict), token_of(user)) as other:
        for number in range(3):
            await one.ask("user_message", said({"text": "hi"}, f"m{number}"))
        await one.until(lambda: len(one.of("twin_message")) == 3)
        for device in (one, other) * 3:
            for message_id in ("m1", "m0", "m1"):
                assert await device.ask("read_receipt", said({"message_id": message_id})) == {}
        await one.until(lambda: one.of("read_receipt"))
        assert len(one.of("read_receipt")) == 1
        assert await one.ask("read_receipt", said({"message_id": "m2"})) == {}
        await one.until(lambda: len(one.of("read_receipt")) == 2)
        assert [event["payload"] for event in one.of("read_receipt")] == [{"message_id": "m1"}, {"message_id": "m2"}]


async def test_a_read_mark_that_was_not_stored_is_told_once(
    strict: Service, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store goes away in between: the receipt is sent again, and every device gets its one event."""
    mark = strict.services.messages.mark_read
    tries: list[int] = []

    async def failing(user_id: str, conversation_id: str, seq: int, epoch: int = 0) -> None:
        tries.append(seq)
        if len(tries) == 1:
            raise StorageUnavailable
        await mark(user_id, conversation_id, seq, epoch)

    monkeypatch.setattr(strict.services.messages, "mark_read", failing)
    async with RawSocket(url_of(strict), token_of(user)) as one, RawSocket(url_of(strict), token_of(user)) as other:
        await one.ask("user_message", said({"text": "hi"}, "m1"))
        await one.until(lambda: one.of("twin_message"))
        assert (await one.ask("read_receipt", said({"message_id": "m1"})))["payload"]["code"] == "storage_unavailable"
        for _ in range(2):
            assert await one.ask("read_receipt", said({"message_id": "m1"})) == {}
        (told,) = await other.until(lambda: other.of("read_receipt"))
        assert told["payload"] == {"message_id": "m1"}
    assert len(tries) == 2


@pytest.mark.parametrize("name", ["feedback", "context_update"])
async def test_every_durable_event_counts(strict: Service, user: str, name: str) -> None:
    async with RawSocket(url_of(strict), token_of(user)) as device:
        await device.ask("user_message", said({"text": "hi"}, "m1"))
        (answer,) = await device.until(lambda: device.of("twin_message"))
        about = {"message_id": answer["metadata"]["message_id"], "rating": "up"}
        payload = {"feedback": about, "context_update": {"context": {"page": 1}}}[name]
        for number in range(MOST):
            assert (await device.ask(name, said(payload, f"w{number}")))["type"] == "message_received"
        refused = (await device.ask(name, said(payload)))["payload"]
        assert (refused["code"], refused["retryable"]) == ("rate_limited", True)
        assert 0 < refused["retry_after_ms"] <= 60_000
        if name == "feedback":  # a repeat is never counted
            assert (await device.ask(name, said(payload, "w0")))["payload"]["status"] == "duplicate"


async def _big(running: Service, user: str) -> None:
    for _ in range(120):
        await running.services.messages.append(draft(user, text="\U0001f4a3" * 8_000))


async def test_an_unread_export_is_closed(
    instance: Service, url: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that nobody reads is let go and its place is free."""
    monkeypatch.setattr(exports, "WRITE_S", 0.5)
    await _big(instance, user)
    headers = {"Authorization": f"Bearer {data_token(user)}"}
    reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
    writer.write(f"GET /v1/export HTTP/1.1\r\nHost: x\r\nAuthorization: {headers['Authorization']}\r\n\r\n".encode())
    assert b"200" in await reader.readline()
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.get(f"{url}/v1/export") as second:
            assert second.status == 429
            assert (await second.json())["retry_after_ms"] == 500
        async with asyncio.timeout(10):
            while True:
                async with http.get(f"{url}/v1/export") as again:
                    if again.status == 200:
                        lines = (await again.text()).splitlines()
                        break
                await asyncio.sleep(0.1)
    assert len(lines) == 121
    writer.close()


async def test_so_many_exports_at_once_and_no_more(url: str, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "AT_ONCE", 0)
    headers = {"Authorization": f"Bearer {data_token(user)}"}
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/export", headers=headers) as response:
        assert response.status == 503
        assert (await response.json())["code"] == "overloaded"

"""What was revoked stays revoked: in another form, and whatever Redis has forgotten."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import settings_for, token_of, url_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.admin import revoke
from twin_sio.config import Settings
from twin_sio.domain import Identity
from twin_sio.redis_connection import client
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, start_redis
from twin_sio.runtime.serve import Service, service
from twin_sio.store.redis.revocations import _COMPLETE
from twin_sio.store.redis.tickets import RedisTickets


@pytest.fixture
def own_redis(folder: Path) -> Any:
    engine = start_redis(folder / "redis")
    yield engine
    engine.stop()


@pytest.fixture
async def alone(
    mongod: Mongod, own_redis: RedisServer, model: ScriptedModel
) -> AsyncIterator[tuple[Service, Settings]]:
    settings = settings_for(
        mongod.url, own_redis.url, model.base_url, storage__mongodb_database="revoked", auth__jwt_leeway_s=0
    )
    async with service(settings) as running:
        yield running, settings


async def _refusal(url: str, token: str) -> str | None:
    async with RawSocket(url, token) as raw:
        return raw.refusal["data"]["code"] if raw.refusal else None


async def _ticket(url: str, token: str) -> str:
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/ticket", headers=headers) as response:
        assert response.status == 200
        return (await response.json())["ticket"]


async def _redeemed(url: str, user: str, ticket: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/ws/chat/{user}?ticket={ticket}") as socket:
        return await socket.receive_json()


async def test_a_ticket_stands_for_all_of_its_token(own_redis: RedisServer) -> None:
    """Its persona as well. Redis cannot tell whose it is."""
    redis = client(own_redis.url)
    ends = datetime(2030, 1, 1, tzinfo=UTC)
    identity = Identity(
        "somebody-with-a-long-name", frozenset({"twin:chat"}), ends, ends - timedelta(days=1), "t-1", "calm"
    )
    tickets = RedisTickets(redis)
    ticket = await tickets.issue(identity)
    (key,) = await redis.keys("*ticket*")
    kept = await redis.get(key)
    assert not any(
        word in text for word in (b"somebody", ticket.encode()) for text in (key, kept, b64decode(kept, b"-_"))
    )
    assert await tickets.redeem(ticket) == identity
    assert await tickets.redeem(ticket) is None
    await redis.aclose()


async def test_an_empty_redis_revives_no_token(alone: tuple[Service, Settings], user: str) -> None:
    """A redis that comes back empty makes no token good again."""
    running, settings = alone
    token = token_of(user)
    await revoke(settings, user, None, 600)
    redis = client(settings.storage.redis_url)
    await redis.flushall()
    assert await _refusal(url_of(running), token) == "auth_invalid"
    await eventually(lambda: redis.exists(_COMPLETE))
    assert await _refusal(url_of(running), token) == "auth_invalid"
    assert await _refusal(url_of(running), token_of(f"{user}-other")) is None
    await redis.aclose()


async def test_without_redis_mongodb_is_asked(
    alone: tuple[Service, Settings], own_redis: RedisServer, user: str
) -> None:
    running, settings = alone
    token = token_of(user)
    await revoke(settings, user, None, 600)
    own_redis.kill()
    await eventually(lambda: not running.services.delivery.channels.healthy)
    assert await _refusal(url_of(running), token_of(f"{user}-other")) is None
    assert await _refusal(url_of(running), token) == "auth_invalid"


async def test_what_an_earlier_version_has_revoked_stays_so(alone: tuple[Service, Settings], user: str) -> None:
    running, settings = alone
    redis = client(settings.storage.redis_url)
    await redis.set(f"{{twin:9216}}:revoked:user:{user}", 4102444800, ex=60)
    assert await _refusal(url_of(running), token_of(user)) == "auth_invalid"
    await redis.aclose()


async def test_a_ticket_does_not_outlive_a_revocation(alone: tuple[Service, Settings], user: str) -> None:
    running, settings = alone
    ticket = await _ticket(url_of(running), token_of(user))
    await revoke(settings, user, None, 600)
    refused = await _redeemed(url_of(running), user, ticket)
    assert (refused["type"], refused["payload"]["code"]) == ("connect_error", "auth_invalid")


async def test_a_ticket_does_not_outlive_its_token(alone: tuple[Service, Settings], user: str) -> None:
    running, _ = alone
    ticket = await _ticket(url_of(running), token_of(user, ttl_s=2))
    await asyncio.sleep(2.1)
    refused = await _redeemed(url_of(running), user, ticket)
    assert (refused["type"], refused["payload"]["code"]) == ("connect_error", "auth_expired")


@pytest.mark.parametrize(
    ("origin", "proto", "status"),
    [
        ("http://{host}", None, 101),
        ("https://{host}", None, 101),
        ("https://{host}", "https", 101),
        ("http://{host}", "https", 403),
        ("ftp://{host}", None, 403),
        ("null", None, 403),
        ("{host}", None, 403),
    ],
)
async def test_an_origins_scheme_is_compared(url: str, user: str, origin: str, proto: str | None, status: int) -> None:
    """A page that is not encrypted does not speak for one that is."""
    headers = {"Authorization": f"Bearer {token_of(user)}", "Origin": origin.format(host=url.removeprefix("http://"))}
    if proto is not None:
        headers["X-Forwarded-Proto"] = proto
    async with aiohttp.ClientSession() as http:
        assert await _handshake(http, f"{url}/ws/chat/{user}", headers) == status


async def _handshake(http: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> int:
    try:
        async with http.ws_connect(url, headers=headers):
            return 101
    except aiohttp.WSServerHandshakeError as refused:
        return refused.status

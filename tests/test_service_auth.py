"""Tokens over the life of a connection, and what their scopes allow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import jwt
import pytest

from tests.conftest import settings_for, token_of, url_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.admin import revoke
from twin_sio.config import Settings
from twin_sio.dev_tokens import DEV_SECRET, create_token
from twin_sio.protocol import CLIENT_EVENTS
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service


@pytest.fixture(scope="module")
async def strict(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel) -> AsyncIterator[Service]:
    """No leeway, a word of warning one second ahead, two sessions a user, few events a second."""
    settings = settings_for(
        mongod.url,
        redis_server.url,
        model.base_url,
        auth__jwt_leeway_s=0,
        tuning__auth_expiring_s=1,
        limits__sessions=2,
        limits__events_per_second=5,
        limits__messages_per_minute=3,
    )
    async with service(settings) as running:
        yield running


async def test_an_expiring_session_is_warned_then_closed(strict: Service, user: str) -> None:
    async with RawSocket(url_of(strict), token_of(user, ttl_s=3)) as raw:
        async with asyncio.timeout(10):
            await raw.closed.wait()
        assert [one["type"] for one in raw.events if one["type"] in ("auth_expiring", "error")] == [
            "auth_expiring",
            "error",
        ]
        assert raw.of("error")[0]["payload"]["code"] == "auth_expired"
        assert raw.leave is None


async def test_a_distant_expiry_is_not_announced(strict: Service, user: str) -> None:
    """A token for three hundred years is not warned of its end."""
    async with RawSocket(url_of(strict), token_of(user, ttl_s=10**10)) as raw:
        assert (await raw.ask("heartbeat", {}))["type"] == "heartbeat_ack"
        assert raw.of("auth_expiring") == []


async def test_a_refreshed_token_prolongs_the_session(strict: Service, user: str) -> None:
    async with RawSocket(url_of(strict), token_of(user, ttl_s=2)) as raw:
        fresh = {"payload": {"token": token_of(user, ttl_s=600)}, "metadata": {"message_id": "r"}}
        answer = await raw.ask("auth_refresh", fresh)
        assert answer["type"] == "auth_refreshed"
        assert answer["metadata"]["in_response_to"] == "r"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await raw.closed.wait()
        assert (await raw.ask("heartbeat", {}))["type"] == "heartbeat_ack"


async def test_revocation_closes_sessions_within_five_seconds(strict: Service, user: str, settings: Settings) -> None:
    """A revoked user or token is let go for good within five seconds."""
    other = f"{user}-other"
    good, old = create_token(other, DEV_SECRET), token_of(user)
    marked = jwt.encode({"sub": other, "exp": 4102444800, "jti": f"jti-{user}"}, DEV_SECRET, algorithm="HS256")
    async with (
        RawSocket(url_of(strict), old) as banned,
        RawSocket(url_of(strict), marked) as stolen,
        RawSocket(url_of(strict), good) as innocent,
    ):
        assert await revoke(settings, user, f"jti-{user}", 60) == 2
        async with asyncio.timeout(5):
            await banned.until(lambda: banned.leave)
            await stolen.until(lambda: stolen.leave)
        assert (await innocent.ask("heartbeat", {}))["type"] == "heartbeat_ack"
        for token in (old, marked):
            async with RawSocket(url_of(strict), token) as again:
                assert again.refusal is not None
                assert again.refusal["data"]["code"] == "auth_invalid"
        await asyncio.sleep(1)  # tokens say in whole seconds when they were issued
        async with RawSocket(url_of(strict), token_of(user)) as issued_later:
            assert issued_later.refusal is None


async def test_the_scope_of_every_event_is_enforced(url: str, user: str) -> None:
    from tests.test_service_input import GOOD

    for scope in ("twin:chat", "twin:profile"):
        async with RawSocket(url, token_of(user, scope=scope)) as raw:
            for name, event in CLIENT_EVENTS.items():
                if event.scope not in (None, scope):
                    answer = await raw.ask(name, {"payload": GOOD[name], "metadata": {"message_id": "m"}})
                    assert answer["payload"]["code"] == "forbidden", name


async def test_a_token_in_the_query_is_ignored(url: str, user: str) -> None:
    """A token in the headers counts and one in the query does not."""
    ws = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
    headers = {"Authorization": f"Bearer {token_of(user)}", "X-Session-ID": "from-a-header"}
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(ws, headers=headers) as socket:
            ready = await _connected(socket)
            assert ready["metadata"]["session_id"] == "from-a-header"
        async with http.ws_connect(f"{ws}&token={token_of(user)}") as socket:
            assert (await _connected(socket))["data"]["code"] == "auth_missing"


async def _connected(socket: aiohttp.ClientWebSocketResponse) -> dict:
    await socket.receive_str()
    await socket.send_str("40")
    async with asyncio.timeout(5):
        while True:
            frame = await socket.receive_str()
            if frame.startswith("42"):
                return json.loads(frame[2:])[1]
            if frame.startswith("44"):
                return json.loads(frame[2:])


async def test_one_session_too_many_is_refused(strict: Service, user: str) -> None:
    """One session too many is refused with a time to come back."""
    sockets = [RawSocket(url_of(strict), token_of(user)) for _ in range(3)]
    async with sockets[0], sockets[1], sockets[2]:
        assert sockets[2].refusal is not None
        assert sockets[2].refusal["data"]["code"] == "too_many_sessions"
        assert sockets[2].refusal["data"]["retry_after_ms"] > 0


async def test_too_many_events_are_refused_and_the_connection_lives(strict: Service, user: str) -> None:
    async with RawSocket(url_of(strict), token_of(user)) as raw:
        for _ in range(30):
            await raw.emit("typing_indicator", {"payload": {"is_typing": True}})
        await raw.until(lambda: len(raw.acks) == 30)
        refused = raw.of("error")
        assert {one["payload"]["code"] for one in refused} == {"rate_limited"}
        assert 10 <= len(refused) <= 20
        await eventually(lambda: _beats(raw))


async def _beats(raw: RawSocket) -> bool:
    return (await raw.ask("heartbeat", {}))["type"] == "heartbeat_ack"


async def test_too_many_messages_are_limited_and_a_repeat_never_is(strict: Service, user: str) -> None:
    async with RawSocket(url_of(strict), token_of(user)) as raw:
        answers = [await _say(raw, f"m-{index}") for index in range(4)]
        assert [one["type"] for one in answers] == ["message_received"] * 3 + ["error"]
        limited = answers[3]["payload"]
        assert limited["code"] == "rate_limited"
        assert 0 < limited["retry_after_ms"] <= 60_000
        repeat = await eventually(lambda: _receipt(raw, "m-0"))
        assert repeat["payload"]["status"] == "duplicate"


async def _say(raw: RawSocket, message_id: str) -> dict:
    return await raw.ask("user_message", {"payload": {"text": "hi"}, "metadata": {"message_id": message_id}})


async def _receipt(raw: RawSocket, message_id: str) -> dict | None:
    answer = await _say(raw, message_id)
    return answer if answer["type"] == "message_received" else None


async def test_the_probes_and_metrics_answer(url: str, user: str) -> None:
    async with RawSocket(url, token_of(user)) as raw, aiohttp.ClientSession() as http:
        await raw.ask("user_message", {"payload": {"text": "count me"}, "metadata": {"message_id": "m"}})
        await raw.ask("no_such_event", {})
        await raw.until(lambda: raw.of("twin_message"))
        async with http.get(f"{url}/healthz") as health, http.get(f"{url}/readyz") as ready:
            assert (health.status, ready.status) == (200, 200)
        await eventually(lambda: _shown(http, f"{url}/metrics"))  # an answer is counted after it is sent


async def _shown(http: aiohttp.ClientSession, url: str) -> bool:
    async with http.get(url) as metrics:
        text = await metrics.text()
    wanted = (
        "twin_connections ",
        "twin_users ",
        'twin_turns_total{status="complete"}',
        "twin_first_token_seconds_count",
        "twin_queue_lag_seconds",
        'twin_events_total{type="user_message"}',
        'twin_errors_total{code="unknown_type"}',
    )
    return all(name in text for name in wanted)

"""The Socket.IO Admin UI's namespace: counts for whoever has the secret, and a wall for everybody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Self

import pytest
import socketio
from pydantic import SecretStr
from socketio.exceptions import ConnectionError as Refused

from tests.conftest import settings_for, token_of, url_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service

SECRET = "the password of the admin UI, thirty-two bytes"
HANDSHAKE_S = 1.0
Start = Callable[..., Any]


@pytest.fixture
async def start(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel) -> AsyncIterator[Start]:
    """`await start(...)` gives an instance with /admin, and with these settings beside."""
    async with AsyncExitStack() as stack:

        async def one(**more: Any) -> Service:
            given = {"server__admin_ui_secret": SecretStr(SECRET), "tuning__handshake_s": HANDSHAKE_S, **more}
            settings = settings_for(mongod.url, redis_server.url, model.base_url, **given)
            return await stack.enter_async_context(service(settings))

        yield one


class UnconnectedSocket(RawSocket):
    """A socket that connects to nothing by itself; `received` are the events of /admin."""

    def __init__(self, instance: Service) -> None:
        super().__init__(url_of(instance), None)
        self.is_in = False
        self.received: list[list[Any]] = []

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def ask_in(self, auth: object) -> None:
        self.refusal = None
        await self.send("40/admin," + json.dumps(auth))
        await self.until(lambda: self.is_in or self.refusal or self.closed.is_set())

    async def _take(self, frame: str) -> None:
        if frame.startswith("40/admin,"):
            self.is_in = True
        elif frame.startswith("42/admin,"):
            self.received.append(json.loads(frame[len("42/admin,") :]))
        else:
            await super()._take(frame)


def admin() -> tuple[socketio.AsyncClient, list[tuple[str, Any]]]:
    """A stock client, and all that it receives."""
    client, arrived = socketio.AsyncClient(reconnection=False), []
    client.on("*", lambda name, *args: arrived.append((name, *args)), namespace="/admin")
    return client, arrived


async def test_admins_see_counts_and_no_users(start: Start, user: str) -> None:
    """An admin with the secret sees the counts of the instance and nothing of its users."""
    instance = await start()
    client, arrived = admin()
    auth = {"username": "anybody", "password": SECRET}
    await client.connect(url_of(instance), auth=auth, namespaces=["/admin"], transports=["websocket"])
    try:
        async with RawSocket(url_of(instance), token_of(user)) as raw:
            said = {"payload": {"text": f"a word of {user}"}, "metadata": {"message_id": f"m-{user}"}}
            await raw.ask("user_message", said)
            await raw.until(lambda: raw.of("twin_message"))
            await eventually(lambda: len(arrived) >= 4, 10)  # longer than a stranger may stay
    finally:
        await client.disconnect()
    assert arrived[0] == ("config", {"supportedFeatures": ["AGGREGATED_EVENTS"]})
    assert {name for name, _ in arrived[1:]} == {"server_stats"}
    stats = arrived[-1][1]
    assert stats["clientsCount"] == 2
    assert stats["pollingClientsCount"] == 0
    assert stats["namespaces"] == [{"name": "/", "socketsCount": 1}, {"name": "/admin", "socketsCount": 1}]
    assert isinstance(stats["pid"], int)
    assert stats["uptime"] > 2
    counted = {one["type"] for _, received in arrived[1:] for one in received["aggregatedEvents"]}
    assert {"rawConnection", "packetsIn"} <= counted
    assert user not in json.dumps(arrived)
    await eventually(lambda: not instance.sockets.admins)


@pytest.mark.parametrize(
    "auth",
    [None, {}, "a word", {"password": 5}, {"password": SECRET + "!"}, {"username": SECRET}, {"password": "\ud800"}],
)
async def test_a_wrong_secret_is_refused_and_closed(start: Start, auth: object) -> None:
    """A client without the secret gets the reason and nothing else and is closed in time."""
    instance = await start()
    async with UnconnectedSocket(instance) as raw:
        await raw.ask_in(auth)
        async with asyncio.timeout(HANDSHAKE_S + 1):
            await raw.closed.wait()
        assert not raw.is_in
        assert raw.received == []
        if raw.refusal is not None:  # where it was a frame at all
            assert raw.refusal["message"] == "invalid credentials"
            assert raw.refusal["data"]["retryable"] is False
    assert not instance.sockets.admins


async def test_a_stock_client_with_a_wrong_secret_is_refused(start: Start) -> None:
    instance = await start()
    client, arrived = admin()
    with pytest.raises(Refused):
        await client.connect(url_of(instance), auth={"password": "wrong"}, namespaces=["/admin"])
    assert arrived == []


async def test_without_a_secret_there_is_no_admin(start: Start) -> None:
    """Without a secret admin is refused like any namespace that is not there."""
    instance = await start(server__admin_ui_secret=SecretStr(""))
    refusals = []
    for namespace in ("/admin", "/nowhere"):
        async with UnconnectedSocket(instance) as raw:
            await raw.send(f"40{namespace}," + json.dumps({"password": ""}))
            await raw.until(lambda raw=raw: raw.refusal)
            refusals.append(raw.refusal)
    assert refusals[0] == refusals[1]
    assert refusals[0]["code"] == "session_invalid"


async def test_an_address_may_try_as_often_as_it_may_connect(start: Start) -> None:
    instance = await start(limits__connects_per_address=3)
    async with UnconnectedSocket(instance) as raw:
        for _ in range(3):
            await raw.ask_in({"password": "a guess"})
            assert raw.refusal["message"] == "invalid credentials"
        await raw.ask_in({"password": SECRET})
        assert raw.refusal["data"]["code"] == "rate_limited"
        assert raw.refusal["data"]["retry_after_ms"] > 0
        assert not raw.is_in


@pytest.mark.parametrize(
    "frame",
    [
        '42/admin,["emit","/",[],"event"]',
        '42/admin,["join","/","user:ada"]',
        '42/admin,["_disconnect","/",true]',
        '42["user_message",{"payload":{"text":"x"},"metadata":{"message_id":"m"}}]',
        '42/admin,0["server_stats"]',
        '451-/admin,["emit",{"_placeholder":true,"num":0}]',
    ],
)
async def test_who_says_anything_in_admin_is_closed(start: Start, frame: str) -> None:
    instance = await start()
    async with UnconnectedSocket(instance) as raw:
        await raw.ask_in({"password": SECRET})
        assert raw.is_in
        await raw.send(frame)
        async with asyncio.timeout(3):
            await raw.closed.wait()
        assert raw.events == []
        assert raw.acks == {}
    await eventually(lambda: not instance.sockets.admins)


async def test_a_socket_is_in_one_namespace_only(start: Start, user: str) -> None:
    instance = await start()
    async with UnconnectedSocket(instance) as raw:
        await raw.ask_in({"password": SECRET})
        await raw.send("40" + json.dumps({"token": token_of(user)}))
        await raw.until(lambda: raw.refusal)
        assert raw.events == []
        assert instance.gateway.connections == 0
    async with RawSocket(url_of(instance), token_of(user)) as chat:
        await chat.send("40/admin," + json.dumps({"password": SECRET}))
        await chat.until(lambda: chat.refusal)
        answer = await chat.ask("user_message", {"payload": {"text": "hello"}, "metadata": {"message_id": "m-1"}})
        assert answer["type"] == "message_received"
    await eventually(lambda: not instance.sockets.admins)


async def test_who_has_left_admin_is_a_stranger_again(start: Start) -> None:
    instance = await start()
    async with UnconnectedSocket(instance) as raw:
        await raw.ask_in({"password": SECRET})
        await raw.send("41/admin,")
        await eventually(lambda: not instance.sockets.admins)
        async with asyncio.timeout(HANDSHAKE_S + 1):
            await raw.closed.wait()


async def test_an_admin_that_does_not_read_is_cut(start: Start) -> None:
    instance = await start()
    async with UnconnectedSocket(instance) as raw:
        await raw.ask_in({"password": SECRET})
        raw._reader.cancel()
        (transport,) = (one.transport for one in instance.sockets.eio.sockets.values())
        raw._ws._response.connection.transport.pause_reading()
        for _ in range(2000):
            for name in tuple(instance.sockets.admins):
                instance.sockets.send_to_admin(name, "server_stats", {"x": "y" * 8192})
            await asyncio.sleep(0)
            if transport.is_closing():
                break
        assert transport.is_closing()
    await eventually(lambda: not instance.sockets.admins)


async def test_a_draining_instance_takes_no_admin(start: Start) -> None:
    instance = await start()
    instance.gateway.sessions.draining = True
    async with UnconnectedSocket(instance) as raw:
        await raw.ask_in({"password": SECRET})
        assert raw.refusal["data"]["code"] == "draining"

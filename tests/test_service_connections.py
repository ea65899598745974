"""TCP and HTTP before any token: deadlines, bounds for an address, what is refused unread, and what is logged."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
import structlog

from tests.conftest import settings_for, token_of, url_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.http import connections, openapi, rest, tcp_connection
from twin_sio.observability.logging import configure_logs
from twin_sio.protocol import asyncapi
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service
from twin_sio.transport import engineio as engineio_transport

Make = Callable[..., Any]


@pytest.fixture
async def make(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel) -> AsyncIterator[Callable[..., Any]]:
    """`await make(**settings)` gives a server with these settings."""
    async with AsyncExitStack() as stack:

        async def made(**more: Any) -> Service:
            settings = settings_for(mongod.url, redis_server.url, model.base_url, **more)
            return await stack.enter_async_context(service(settings))

        yield made


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    printed, before = io.StringIO(), structlog.get_config()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", printed)
        configure_logs("debug")
    yield printed.getvalue
    structlog.configure(**before)


class Tcp:
    """A bare TCP connection; `async with` it."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Tcp:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ends(self, within_s: float = 10.0) -> bytes:
        """All that it says until the server closes it."""
        async with asyncio.timeout(within_s):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-More: ",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/ticket HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
    ],
    ids=["nothing", "half a line", "half a head", "an idle keep-alive", "half a body"],
)
async def test_who_does_not_ask_for_anything_is_let_go(
    make: Make, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(tcp_connection, "HEAD_S", 0.5)
    one = await make()
    async with Tcp(one.port) as tcp:
        tcp.writer.write(said)
        await tcp.ends()


async def test_a_slow_request_head_is_closed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends a head one byte after the other is let go."""
    monkeypatch.setattr(tcp_connection, "HEAD_S", 0.5)
    one = await make()
    async with Tcp(one.port) as tcp:
        tcp.writer.write(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(100):
            tcp.writer.write(b"X")
            await asyncio.sleep(0.05)
            if tcp.reader.at_eof():
                break
        assert tcp.reader.at_eof()


async def test_a_poll_whose_body_does_not_come_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engineio_transport, "_BODY_S", 0.5)
    one = await make()
    base = f"{url_of(one)}/socket.io/?EIO=4&transport=polling"
    async with aiohttp.ClientSession() as http, http.get(base) as opened:
        sid = json.loads((await opened.text())[1:])["sid"]
    async with Tcp(one.port) as tcp:
        path = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
        tcp.writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n40".encode())
        got = await asyncio.wait_for(tcp.reader.read(1000), 10)
        assert b" 400 " in got


async def test_who_does_not_read_an_answer_is_let_go(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_connection, "STUCK_S", 0.5)
    one = await make()
    before = one.connections.open
    async with Tcp(one.port) as tcp:
        tcp.writer.transport.pause_reading()  # type: ignore[attr-defined]
        tcp.writer.write(b"GET /asyncapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
        await eventually(lambda: one.connections.open > before)
        await eventually(lambda: one.connections.open == before)


async def test_a_session_outlives_all_these_times(make: Make, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_connection, "HEAD_S", 0.2)
    monkeypatch.setattr(tcp_connection, "STUCK_S", 0.2)
    one = await make()
    async with RawSocket(url_of(one), token_of(user)) as raw:
        await asyncio.sleep(1.0)
        assert (await raw.ask("heartbeat", {}))["type"] == "heartbeat_ack"


# -- room ------------------------------------------------------------------------------------------------------------


async def test_an_address_has_so_many_connections_that_carry_no_session(
    make: Make, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "OTHERS_OF_ADDRESS", 10)
    one = await make(limits__connects_per_address=1200)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(RawSocket(url_of(one), token_of(user)))
        silent = [await stack.enter_async_context(Tcp(one.port)) for _ in range(60)]
        await eventually(lambda: one.connections.cut >= 50)
        assert one.connections.open <= 11
        assert sum(tcp.reader.at_eof() for tcp in silent) >= 49
        assert (await session.ask("heartbeat", {}))["type"] == "heartbeat_ack"
        async with RawSocket(url_of(one), token_of(user)) as newcomer:
            assert newcomer.refusal is None
    await eventually(lambda: one.connections.open == 0)


async def test_all_addresses_together_leave_room_for_sessions(
    make: Make, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "OTHERS_MAX", 20)
    one = await make()
    async with AsyncExitStack() as stack:
        for _ in range(60):
            await stack.enter_async_context(Tcp(one.port))
        await eventually(lambda: one.connections.open <= 20)
        async with RawSocket(url_of(one), token_of(user)) as newcomer:
            assert newcomer.refusal is None


async def test_near_its_descriptors_the_log_says_so(
    make: Make, monkeypatch: pytest.MonkeyPatch, logs: Callable[[], str]
) -> None:
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (164, 164))
    one = await make()
    async with AsyncExitStack() as stack:
        for _ in range(16):
            await stack.enter_async_context(Tcp(one.port))
        assert "descriptors_near_limit" not in logs()
        one.connections.open += 40  # of sessions
        await stack.enter_async_context(Tcp(one.port))
        await eventually(lambda: "descriptors_near_limit" in logs())
        one.connections.open -= 40
    assert one.connections.share() == 0.0


@pytest.mark.parametrize("path", ["/no/such/route", "/healthz", "/asyncapi.json", "/widget.js", "/socket.io/?EIO=3"])
async def test_every_route_is_counted_for_the_address(make: Make, path: str) -> None:
    one = await make(limits__connects_per_address=40)
    async with aiohttp.ClientSession() as http:
        statuses = []
        for _ in range(60):
            async with http.get(url_of(one) + path) as answer:
                statuses.append(answer.status)
        assert statuses.count(429) >= 25
        assert 429 not in statuses[:19]


async def test_polls_of_a_session_count_for_its_user(make: Make, user: str) -> None:
    """What a polling client asks for is not counted for its address."""
    one = await make(limits__connects_per_address=40)
    base = f"{url_of(one)}/socket.io/?EIO=4&transport=polling"
    async with aiohttp.ClientSession() as http:
        async with http.get(base) as opened:
            sid = json.loads((await opened.text())[1:])["sid"]
        async with http.post(f"{base}&sid={sid}", data="40" + json.dumps({"token": token_of(user)})) as answer:
            assert answer.status == 200
        for _ in range(40):
            async with http.post(f"{base}&sid={sid}", data='42["heartbeat",{}]') as answer:
                assert answer.status == 200


# -- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, gzip"])
@pytest.mark.parametrize("path", ["/no/such/route", "/v1/ticket", "/socket.io/?EIO=4&transport=polling", "/healthz"])
async def test_a_compressed_body_is_refused_and_never_inflated(url: str, path: str, encoding: str) -> None:
    body = gzip.compress(bytes(1_000_000))
    headers = {"Content-Encoding": encoding}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as http,
        http.post(url + path, data=body, headers=headers) as answer,
    ):
        assert answer.status == 415
        assert (await answer.json())["code"] == "invalid_message"


@pytest.mark.parametrize("path", ["/no/such/route", "/v1/ticket", "/socket.io/?EIO=4&transport=polling"])
@pytest.mark.parametrize("received", [b"Transfer-Encoding: chunked", b"Content-Length: 1000000000"])
async def test_a_long_body_is_refused_unread(instance: Service, path: str, received: bytes) -> None:
    """A body that is too long or has no length is refused before it is read."""
    async with Tcp(instance.port) as tcp:
        tcp.writer.write(b"POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % (path.encode(), received))
        assert b" 413 " in await asyncio.wait_for(tcp.reader.readline(), 10)
        await tcp.ends()


# -- documents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["asyncapi", "openapi"])
async def test_a_document_is_made_once(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document is made once and sent to who does not have it."""
    made = []

    def counted(make_it: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        return lambda: made.append(1) or make_it()  # type: ignore[func-returns-value]

    documents = {"asyncapi": counted(asyncapi.document), "openapi": counted(openapi.document)}
    monkeypatch.setattr(rest, "_DOCUMENTS", documents)
    one = await make()
    async with aiohttp.ClientSession() as http:
        for _ in range(5):
            async with http.get(f"{url_of(one)}/{name}.json") as answer:
                assert (await answer.json())["info"]["title"] == "twin_sio"
                etag = answer.headers["ETag"]
        async with http.get(f"{url_of(one)}/{name}.json", headers={"If-None-Match": etag}) as answer:
            assert answer.status == 304
            assert not await answer.read()
    assert len(made) == 2


# -- the log ---------------------------------------------------------------------------------------------------------

SECRET = "a-canary-that-nobody-may-read"
MALFORMED = [
    b"\x16\x03\x01" + SECRET.encode() + b"\r\n\r\n",
    b"GET /%s HTTP/9.9\r\n\r\n" % SECRET.encode(),
    b"GET / HTTP/1.1\r\n%s\r\n\r\n" % SECRET.encode(),
    b"GET / HTTP/1.1\r\nX: \x00%s\r\n\r\n" % SECRET.encode(),
    b"POST / HTTP/1.1\r\nContent-Length: %s\r\n\r\n" % SECRET.encode(),
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n" % SECRET.encode(),
    b"GET /%s HTTP/1.1\r\n\r\n" % (SECRET.encode() * 1000),
    b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (SECRET.encode() * 1000),
    b"GET /socket.io/?EIO=%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % SECRET.encode(),
]


async def test_malformed_requests_write_one_line_and_nothing_of_theirs(make: Make, logs: Callable[[], str]) -> None:
    one = await make()
    for said in MALFORMED * 20:
        async with Tcp(one.port) as tcp:
            tcp.writer.write(said)
            tcp.writer.write_eof()
            answer = await tcp.ends()
            assert SECRET.encode() not in answer
    printed = logs()
    assert SECRET not in printed
    assert "Traceback" not in printed
    assert "File " not in printed
    assert printed.count("malformed_requests") == 1
    assert len(printed.splitlines()) < 20


async def test_a_token_offered_as_a_subprotocol_alone_reaches_no_log(
    url: str, user: str, logs: Callable[[], str]
) -> None:
    token = token_of(user)
    for offered in ([f"bearer.{token}"], ["twin.v1", f"bearer.{token}"], [SECRET]):
        async with aiohttp.ClientSession() as http:
            address = f"{url.replace('http', 'ws', 1)}/ws/chat/{user}"
            async with http.ws_connect(address, protocols=offered) as socket:
                await socket.receive()
    printed = logs()
    assert token not in printed
    assert SECRET not in printed


def test_library_lines_are_logged_without_values(logs: Callable[[], str]) -> None:
    """Of a librarys line only what stands in its code is logged."""
    library = logging.getLogger("some.library")
    library.warning("a header %s and %r", SECRET, {"a": SECRET})
    library.warning(f"a body {SECRET}")
    library.warning("a path " + SECRET)
    library.error("plain words")
    printed = logs()
    assert SECRET not in printed
    assert "a header %s and %r" in printed
    assert "plain words" in printed
    assert printed.count("test_service_connections.py:") == 4


def test_library_lines_are_limited_per_minute(logs: Callable[[], str]) -> None:
    """One place of a library says something ten times a minute."""
    for _ in range(1000):
        logging.getLogger("some.library").error("once more")
    assert len(logs().splitlines()) == 10

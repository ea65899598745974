"""Plain WebSockets: the same envelopes, order, resume and limits as over Socket.IO, and closes with a code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.conftest import Connect, settings_for, token_of, url_of
from tests.raw import held_to_protocol
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.clock import new_id
from twin_sio.config import Settings
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import service


class Plain:
    """One plain WebSocket; events are kept as they come."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Event()

    async def read(self) -> None:
        async for message in self.socket:
            envelope = json.loads(message.data)
            held_to_protocol(envelope["type"], envelope)
            self.events.append(envelope)
            self._changed.set()
        self._changed.set()

    def of(self, type: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["type"] == type]

    async def until(self, holds: Any) -> Any:
        async with asyncio.timeout(15):
            while not (found := holds()):
                self._changed.clear()
                await self._changed.wait()
        return found

    async def say(self, type: str, payload: dict[str, Any], message_id: str | None = None) -> None:
        await self.socket.send_json(
            {"type": type, "payload": payload, "metadata": {"message_id": message_id or new_id()}}
        )


@asynccontextmanager
async def plain(url: str, user: str, path: str | None = None, **given: Any) -> AsyncIterator[Plain]:
    headers = {"Authorization": f"Bearer {token_of(user)}"} if not given else given.pop("headers", {})
    at = url.replace("http", "ws", 1) + (path or f"/ws/chat/{user}")
    async with aiohttp.ClientSession() as http, http.ws_connect(at, headers=headers, max_msg_size=0, **given) as socket:
        one = Plain(socket)
        reading = asyncio.create_task(one.read())
        try:
            yield one
        finally:
            await socket.close()
            await reading


async def closed(url: str, path: str, **given: Any) -> tuple[int | None, dict[str, Any]]:
    """The code of the close, and the refusal sent before it."""
    at = url.replace("http", "ws", 1) + path
    async with aiohttp.ClientSession() as http, http.ws_connect(at, **given) as socket:
        refusal = await socket.receive_json()
        await socket.receive()
        return socket.close_code, refusal["payload"]


async def test_plain_and_socketio_clients_of_one_user_see_the_same(
    url: str, user: str, connect: Connect, model: ScriptedModel
) -> None:
    model.script(contains=user, count=40, token_delay_s=0.005)
    other = await connect(session_id="socketio")
    async with plain(url, user) as one:
        await one.until(lambda: one.of("session_ready"))
        assert one.events[0]["type"] == "session_ready"
        await one.say("user_message", {"text": f"from the plain one, {user}"}, "m-1")
        await one.until(lambda: one.of("twin_message"))
        await other.ask(f"from the other, {user}")
        await one.until(lambda: len(one.of("twin_message")) == 2)
        assert [event["metadata"]["seq"] for event in one.events if "seq" in event["metadata"]] == [1, 2, 3, 4]
        chunks = one.of("twin_message_chunk")
        for answer in one.of("twin_message"):
            mine = [c for c in chunks if c["payload"]["generation_id"] == answer["payload"]["generation_id"]]
            assert "".join(c["payload"]["text"] for c in mine) == answer["payload"]["text"]
        texts = [event["payload"]["text"] for event in one.of("twin_message")]
        assert [line.text for line in other.state.transcript() if line.role == "twin"] == texts
        assert one.of("message_received")[0]["payload"] == {"message_id": "m-1", "status": "accepted"}


async def test_a_plain_client_resumes_exactly(url: str, user: str, connect: Connect) -> None:
    """A plain client that was away resumes without gap or repeat."""
    other = await connect(session_id="socketio")
    async with plain(url, user) as one:
        await one.until(lambda: one.of("session_ready"))
    for n in range(3):
        await other.ask(f"message {n}")
    async with plain(url, user, f"/ws/chat/{user}?last_seq=2") as again:
        await again.until(lambda: again.of("resumed"))
        assert [event["metadata"]["seq"] for event in again.events if "seq" in event["metadata"]] == [3, 4, 5, 6]
        assert again.of("resumed")[0]["payload"] == {"through_seq": 6, "complete": True}


async def test_a_token_comes_by_header_subprotocol_or_ticket(url: str, user: str) -> None:
    """A token comes in a header as a subprotocol or by a ticket that is good once."""
    async with plain(url, user, protocols=("twin.v1", f"bearer.{token_of(user)}")) as one:
        await one.until(lambda: one.of("session_ready"))
        assert one.socket.protocol == "twin.v1"
    headers = {"Authorization": f"Bearer {token_of(user)}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.post(f"{url}/v1/ticket") as got:
        ticket = (await got.json())["ticket"]
    async with plain(url, user, f"/ws/chat/{user}?ticket={ticket}&session_id=by-ticket", headers={}) as two:
        ready = await two.until(lambda: two.of("session_ready"))
        assert ready[0]["payload"]["session_id"] == "by-ticket"
    code, refusal = await closed(url, f"/ws/chat/{user}?ticket={ticket}")
    assert (code, refusal["code"]) == (4003, "auth_invalid")
    code, refusal = await closed(url, f"/ws/chat/{user}?token={token_of(user)}")
    assert (code, refusal["code"]) == (4003, "auth_missing")


async def test_a_ticket_opens_its_own_users_conversation_only(url: str, user: str) -> None:
    headers = {"Authorization": f"Bearer {token_of(user)}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.post(f"{url}/v1/ticket") as got:
        ticket = (await got.json())["ticket"]
    code, refusal = await closed(url, f"/ws/chat/somebody-else?ticket={ticket}")
    assert (code, refusal["code"]) == (4003, "auth_user_mismatch")


@pytest.mark.parametrize(
    ("token", "code", "reason"),
    [("bad", 4003, "auth_invalid"), (None, 4003, "auth_missing"), ("expired", 4001, "auth_expired")],
)
async def test_a_refusal_is_sent_and_closed_with_its_code(
    url: str, user: str, token: str | None, code: int, reason: str
) -> None:
    shown = token_of(user, ttl_s=-60) if token == "expired" else token
    headers = {"Authorization": f"Bearer {shown}"} if shown else {}
    got, refusal = await closed(url, f"/ws/chat/{user}", headers=headers)
    assert (got, refusal["code"]) == (code, reason)


@pytest.mark.parametrize("last_seq", ["x", "-1", "", "9" * 5000])
async def test_an_invalid_last_seq_is_refused(url: str, user: str, last_seq: str) -> None:
    """A last seq that is none is refused with a code."""
    headers = {"Authorization": f"Bearer {token_of(user)}"}
    code, refusal = await closed(url, f"/ws/chat/{user}?last_seq={last_seq}", headers=headers)
    assert (code, refusal["code"]) == (4003, "auth_invalid")


async def test_bytes_and_half_an_emoji_get_an_error(url: str, user: str) -> None:
    """Over a plain WebSocket as well the connection lives; a frame over the bound is told before the close."""
    async with plain(url, user) as one:
        await one.until(lambda: one.of("session_ready"))
        await one.socket.send_bytes(b"\x00\x01")
        cut = '{"type":"user_message","payload":{"text":"cut \\ud83d"},"metadata":{"message_id":"m-1"}}'
        await one.socket.send_str(cut)
        await one.until(lambda: len(one.of("error")) == 2)
        assert {error["payload"]["code"] for error in one.of("error")} == {"invalid_message"}
        assert one.of("error")[1]["metadata"]["in_response_to"] == "m-1"
        await one.socket.send_str("x" * 150_000)
        await one.until(lambda: len(one.of("error")) == 3)
        assert one.of("error")[2]["payload"]["code"] == "too_large"


@pytest.mark.parametrize("frame", [b"\x00\x01", "{"], ids=["binary", "no JSON"])
async def test_session_ready_is_first_whatever_is_sent_at_once(frame: str | bytes, url: str, user: str) -> None:
    """Errors of what is no event have their place in the connection's order, behind the greeting."""
    async with plain(url, user) as one:
        send = one.socket.send_bytes if isinstance(frame, bytes) else one.socket.send_str
        for _ in range(300):  # more than one connection's queue holds
            await send(frame)
        await one.until(lambda: len(one.of("error")) == 300)
        assert one.events[0]["type"] == "session_ready"
        assert {error["payload"]["code"] for error in one.of("error")} <= {"invalid_message", "rate_limited"}


async def test_an_error_of_a_malformed_frame_comes_after_what_was_sent_before_it(url: str, user: str) -> None:
    async with plain(url, user) as one:
        await one.until(lambda: one.of("session_ready"))
        await one.say("user_message", {"text": "stored before the frame that is none is refused"})
        await one.socket.send_str("{")
        await one.until(lambda: one.of("error") and one.of("message_received"))
        types = [event["type"] for event in one.events]
        assert types.index("message_received") < types.index("error")


async def test_an_invalid_envelope_gets_an_error(url: str, user: str) -> None:
    """What is no envelope gets a coded error and the connection lives."""
    async with plain(url, user) as one:
        await one.until(lambda: one.of("session_ready"))
        frames = [
            "",
            "7",
            "[]",
            "{",
            '{"type":7}',
            '{"type":"connect"}',
            '{"type":"user_message","payload":{}}',
            "\x00",
            "[" * 9000,
        ]
        for frame in frames:
            await one.socket.send_str(frame)
        await one.until(lambda: len(one.of("error")) == len(frames))
        assert {event["payload"]["code"] for event in one.of("error")} <= {"invalid_message", "unknown_type"}
        await one.say("heartbeat", {})
        await one.until(lambda: one.of("heartbeat_ack"))


async def test_a_page_of_another_origin_does_not_connect(url: str, user: str) -> None:
    headers = {"Authorization": f"Bearer {token_of(user)}", "Origin": "https://evil.example"}
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        async with plain(url, user, headers=headers, protocols=()):
            pass


async def test_close_codes_tell_expiry_from_takeover(settings: Settings, user: str) -> None:
    """The end of a token closes with 4001 and a takeover for good with 4010."""
    strict = settings.changed(auth={"jwt_leeway_s": 0})
    async with service(strict) as running:
        headers = {"Authorization": f"Bearer {token_of(user, ttl_s=4)}", "X-Session-ID": "same"}
        async with plain(url_of(running), user, headers=headers, protocols=()) as one:
            await one.until(lambda: one.socket.closed)
            assert one.socket.close_code == 4001
            assert one.of("error")[0]["payload"]["code"] == "auth_expired"
        headers["Authorization"] = f"Bearer {token_of(user)}"
        async with plain(url_of(running), user, headers=dict(headers), protocols=()) as first:
            await first.until(lambda: first.of("session_ready"))
            async with plain(url_of(running), user, headers=dict(headers), protocols=()) as second:
                await second.until(lambda: second.of("session_ready"))
                await first.until(lambda: first.socket.closed)
                assert first.socket.close_code == 4010
                assert not second.socket.closed


async def test_a_drain_closes_with_1012(settings: Settings, user: str) -> None:
    async with service(settings) as running, plain(url_of(running), user) as one:
        await one.until(lambda: one.of("session_ready"))
        await running.drain(0.5)
        await one.until(lambda: one.socket.closed)
        assert one.of("server_draining")
        assert one.socket.close_code == 1012


async def test_a_slow_plain_client_is_closed_with_4008(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str
) -> None:
    """A plain client that does not read is cut with 4008 and leaves nothing."""
    settings = settings_for(
        mongod.url,
        redis_server.url,
        model.base_url,
        tuning__slow_soft_bytes=16_384,
        server__slow_hard_bytes=65_536,
        tuning__slow_stuck_s=60,
    )
    async with service(settings) as running:
        at = url_of(running).replace("http", "ws", 1) + f"/ws/chat/{user}"
        headers = {"Authorization": f"Bearer {token_of(user)}"}
        async with aiohttp.ClientSession() as http, http.ws_connect(at, headers=headers, max_msg_size=0) as deaf:
            await deaf.receive_json()
            assert deaf._response.connection is not None
            transport = deaf._response.connection.transport
            assert transport is not None
            transport.pause_reading()
            async with plain(url_of(running), user) as one:
                await one.until(lambda: one.of("session_ready"))
                for n in range(600):
                    await one.say("user_message", {"text": f"{n} " + "x" * 7000}, f"m-{n}")
                    if running.services.delivery.slow_aborts:
                        break
                    await one.until(lambda n=n: len(one.of("message_received")) + len(one.of("error")) > n)
                await eventually(lambda: running.raw.open_sockets == 1)
                assert running.gateway.connections == 1
            transport.resume_reading()
            async with asyncio.timeout(5):
                while (await deaf.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
            assert deaf.close_code in (4008, 1006)  # a close that cannot be read is a cut

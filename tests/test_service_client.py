"""The client module against the real service: what it promises when things go wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Connect, token_of, url_of
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.client import (
    Backoff,
    Change,
    Changes,
    ContextChanged,
    DevicesChanged,
    Disconnected,
    Ended,
    HandshakeRefused,
    MessageChanged,
    Ready,
    Reconnecting,
    RequestFailed,
    ResponseTimeout,
    SessionClosed,
    TokenFailed,
    TwinClient,
    Typing,
    Unreachable,
)
from twin_sio.config import Settings
from twin_sio.runtime.serve import Service, service

QUICK = Backoff(0.01, 0.05)


async def the_next(stream: Changes, kind: type[Any]) -> Any:
    """The next change of this kind, whatever comes before it."""
    async with asyncio.timeout(10):
        async for change in stream:
            if isinstance(change, kind):
                return change
    raise AssertionError(f"The stream ended without {kind.__name__}.")


async def test_a_dropped_client_misses_nothing(connect: Connect) -> None:
    """A client that is dropped comes back by itself and misses nothing."""
    phone, tablet = await connect(backoff=QUICK), await connect()
    stream = phone.changes()
    await phone.drop()
    assert (await the_next(stream, Disconnected)).reason == "transport close"
    await tablet.ask("while you were away")
    await the_next(stream, Ready)
    await phone.until(lambda state: state.last_seq == 2 and not state.resuming)
    assert [m.role for m in phone.state.transcript()] == ["user", "twin"]


async def test_an_offline_message_is_stored_later(connect: Connect) -> None:
    """A message sent while disconnected is stored once the connection is back."""
    client = await connect(backoff=QUICK)
    await client.drop()
    message_id = await client.send("out of the tunnel")
    assert (await client.receipt(message_id)).seq == 1
    assert (await client.answer(message_id)).seq == 2


async def test_an_answer_survives_drops_while_it_is_written(connect: Connect, model: ScriptedModel) -> None:
    model.script(contains="drop-me-often", token_delay_s=0.03, count=25)
    client = await connect(backoff=QUICK)
    message_id = await client.send("drop-me-often")
    for words in (2, 6):
        await client.until(lambda state, n=words: _words(state.generation_of(message_id)) >= n)
        await client.drop()
    answer = await client.answer(message_id)
    assert answer.status == "complete"
    assert answer.joined_matches is not False
    assert len(client.state.transcript()) == 2


def _words(generation: Any) -> int:
    return len(generation.text.split()) if generation is not None else 0


async def test_an_acknowledged_answer_counts_once(connect: Connect) -> None:
    """The answer comes by acknowledgement or by event and counts once."""
    client = await connect(acks=True)
    stream = client.changes()
    answer = await client.ask("both ways")
    assert answer.seq == 2
    await client.feedback(answer.message_id, "up", comment="good")
    assert (await client.history())["has_more"] is False
    assert client.state.messages[answer.message_id].feedback == {"rating": "up", "comment": "good"}
    await client.close()
    new = [c.message.message_id async for c in stream if isinstance(c, MessageChanged) and c.is_new]
    assert len(new) == len(set(new)) == 2


async def test_long_polling_carries_the_same_conversation(connect: Connect) -> None:
    client = await connect(transports=("polling",))
    assert (await client.ask("slowly")).status == "complete"


async def test_a_replaced_session_ends_for_good_and_says_so(connect: Connect) -> None:
    first = await connect(session_id="one-phone", backoff=QUICK)
    stream = first.changes()
    await connect(session_id="one-phone")
    ended = await the_next(stream, Ended)
    assert isinstance(ended.error, SessionClosed)
    with pytest.raises(SessionClosed):
        await first.ask("anybody there?", timeout=5)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_refusal_arrives_at_once_over_either_transport(url: str, transport: str) -> None:
    async with asyncio.timeout(3):
        with pytest.raises(HandshakeRefused):
            await TwinClient(url, "not.a.token", transports=[transport]).connect()


async def test_a_refused_token_is_not_tried_again(url: str, user: str) -> None:
    client = TwinClient(url, token_of(user, ttl_s=-60))
    with pytest.raises(HandshakeRefused) as refused:
        await asyncio.wait_for(client.connect(timeout=60), 5)
    assert refused.value.code == "auth_expired"
    await client.close()


async def test_a_token_that_stays_expired_is_refused(url: str, user: str) -> None:
    """Where the function gives the same expired token again the session is not tried any more."""
    asked = 0

    async def provide() -> str:
        nonlocal asked
        asked += 1
        return expired

    expired = token_of(user, ttl_s=-60)
    client = TwinClient(url, provide, backoff=QUICK)
    with pytest.raises(HandshakeRefused) as refused:
        await asyncio.wait_for(client.connect(timeout=60), 5)
    assert (refused.value.code, asked) == ("auth_expired", 2)
    await client.close()


async def test_a_token_function_that_fails_is_asked_again(url: str, user: str) -> None:
    asked = 0

    async def provide() -> str:
        nonlocal asked
        asked += 1
        if asked in (2, 3):
            raise OSError("the app's own")
        return token_of(user)

    async with TwinClient(url, provide, backoff=QUICK) as client:
        stream = client.changes()
        await client.drop()
        await the_next(stream, Reconnecting)
        assert isinstance((await the_next(stream, Reconnecting)).why, TokenFailed)
        await the_next(stream, Ready)
    asked = 1
    with pytest.raises(TokenFailed):
        await TwinClient(url, provide).connect()


CYCLE: dict[str, Any] = {}
CYCLE["itself"] = CYCLE
NEVER_TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("too_large", {"text": "x" * 150_000}),
    ("too_large", {"text": "語" * 30_000}),
    ("too_large", {"text": "a", "context": {"page": "x" * 150_000}}),
    ("invalid_message", {"text": "cut \ud83d"}),
    ("invalid_message", {"text": "a", "context": {"\udc00": 1}}),
    ("invalid_message", {"text": "a", "context": {"bytes": b"\x00"}}),
    ("invalid_message", {"text": "a", "context": CYCLE}),
    ("invalid_message", {"text": "a", "context": {"n": 2**70}}),
]


@pytest.mark.parametrize(("code", "said"), NEVER_TAKEN)
async def test_what_no_server_takes_is_refused_here(connect: Connect, code: str, said: dict[str, Any]) -> None:
    """At once and by its code, over an unbroken connection; what is said next is answered."""
    client = await connect(backoff=QUICK)
    stream = client.changes()
    message_id = await client.send(**said)
    with pytest.raises(RequestFailed) as refused:
        await client.receipt(message_id)
    assert (refused.value.code, refused.value.retryable) == (code, False)
    assert client.state.messages[message_id].status == "refused"
    assert (await client.ask("hi")).status == "complete"
    assert client.state.outbox == {}
    await client.close()
    assert not [change async for change in stream if isinstance(change, Disconnected)]


async def test_a_context_that_no_server_takes_is_named(url: str, user: str, connect: Connect) -> None:
    for context, code in (({"a": "\ud83d"}, "invalid_message"), ({"a": "x" * 150_000}, "too_large")):
        with pytest.raises(HandshakeRefused, match=code):
            await TwinClient(url, token_of(user), context=context).connect()
        client = await connect()
        with pytest.raises(RequestFailed, match=code):
            await client.update_context(context)
        assert (await client.ask("hi")).status == "complete"


async def test_what_closes_the_connection_twice_is_refused(instance: Service, user: str) -> None:
    """A proxy that takes less than the service: what is over its bound is given up, and what is behind it is stored."""
    opened = 0

    async def serve(near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        far, to_far = await asyncio.open_connection("127.0.0.1", instance.port)

        async def back() -> None:
            while data := await far.read(65_536):
                to_near.write(data)

        answers = asyncio.create_task(back())
        while data := await near.read(65_536):
            if len(data) > 3_000:
                to_near.write(b"\x88\x02" + (1009).to_bytes(2, "big"))
                break
            to_far.write(data)
        answers.cancel()
        await asyncio.gather(answers, return_exceptions=True)
        for writer in (to_far, to_near):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with TwinClient(f"http://127.0.0.1:{port}", token_of(user), backoff=QUICK) as client:
            long = await client.send("x" * 7_000)
            with pytest.raises(RequestFailed, match="too_large"):
                await client.receipt(long, timeout=20)
            assert (await client.ask("hi")).status == "complete"
            assert opened == 3


async def test_every_connection_gets_a_fresh_token(connect: Connect, url: str, user: str) -> None:
    tokens: list[str] = []

    async def provide() -> str:
        tokens.append(token_of(user, ttl_s=600 + len(tokens)))
        return tokens[-1]

    async with TwinClient(url, provide, backoff=QUICK) as client:
        stream = client.changes()
        await client.drop()
        await the_next(stream, Ready)
    assert len(set(tokens)) == 2


async def test_a_session_that_is_about_to_expire_renews_its_token(settings: Settings, user: str) -> None:
    asked: list[int] = []

    async def provide() -> str:
        asked.append(len(asked))
        return token_of(user, ttl_s=4 if len(asked) == 1 else 600)

    brief = settings.changed(tuning={"auth_expiring_s": 3})
    async with service(brief) as instance, TwinClient(url_of(instance), provide) as client:
        stream = client.changes()
        await client.until(lambda _: len(asked) == 2 and not client.state.outbox)
        assert await client.heartbeat() == 0
        await client.close()
        assert not [change async for change in stream if isinstance(change, Disconnected)]


async def test_a_server_that_drains_hands_its_clients_over(settings: Settings, user: str) -> None:
    async with service(settings) as instance:
        client = TwinClient(url_of(instance), token_of(user), backoff=QUICK)
        await client.connect()
        stream = client.changes()
    await the_next(stream, Disconnected)
    again = await the_next(stream, Reconnecting)
    assert again.attempt == 0
    await client.close()


async def test_a_client_can_wait_for_a_server(settings: Settings, user: str, unused_tcp_port: int) -> None:
    """A client waits for a server that comes later if it is asked to."""
    at = f"http://127.0.0.1:{unused_tcp_port}"
    client = TwinClient(at, token_of(user), backoff=QUICK)
    with pytest.raises(Unreachable):
        await client.connect()
    connecting = asyncio.create_task(client.connect(timeout=20))
    async with service(settings.changed(server={"port": unused_tcp_port})):
        assert (await connecting)["user_id"] == user
        await client.close()


async def test_what_other_devices_do_is_a_stream_of_changes(connect: Connect) -> None:
    phone = await connect(device={"name": "phone"})
    stream = phone.changes()
    tablet = await connect(device={"name": "tablet"})
    assert (await the_next(stream, DevicesChanged)).event["device"] == {"name": "tablet"}
    await tablet.typing(True)
    assert (await the_next(stream, Typing)) == Typing(tablet.session_id, True)
    await tablet.update_context({"screen": "recipes"})
    assert (await the_next(stream, ContextChanged)).payload["context"] == {"screen": "recipes"}
    await tablet.close()
    await phone.until(lambda state: [d["session_id"] for d in state.devices] == [phone.session_id])


async def test_a_request_that_is_refused_raises_the_servers_code(connect: Connect) -> None:
    client = await connect()
    with pytest.raises(RequestFailed) as failure:
        await client.history(before="no-such-message")
    assert failure.value.code == "not_found"
    with pytest.raises(RequestFailed):
        await client.regenerate("no-such-message")
    assert client.state.outbox == {}


async def test_an_answer_that_failed_is_an_answer_and_tells_why(connect: Connect, model: ScriptedModel) -> None:
    model.script(contains="refuse-this-one", status=400)
    client = await connect()
    message_id = await client.send("refuse-this-one")
    answer = await client.answer(message_id)
    failure = client.failure(message_id)
    assert answer.status == "failed"
    assert failure is not None
    assert failure.code == "model_refused"


async def test_waiting_ends_when_its_time_is_up(connect: Connect) -> None:
    client = await connect()
    with pytest.raises(ResponseTimeout):
        await client.answer("never-sent", timeout=0.05)


async def test_closing_ends_every_task_that_was_started(connect: Connect, instance: Service) -> None:
    before = asyncio.all_tasks()
    client = await connect()
    ours = {task for task in asyncio.all_tasks() - before if "twin_sio/client" in repr(task)}
    assert ours
    await client.close()
    await client.close()
    assert all(task.done() for task in ours)
    assert not [task for task in asyncio.all_tasks() - before if "AsyncClient" in repr(task)]


async def test_two_streams_hear_the_same(connect: Connect) -> None:
    client = await connect()
    one, two = client.changes(), client.changes()
    await client.ask("hello")
    await client.close()
    received: list[list[Change]] = [[change async for change in stream] for stream in (one, two)]
    assert received[0] == received[1]
    assert isinstance(received[0][-1], Ended)


async def test_the_log_tells_a_leave_from_a_lost_connection(connect: Connect, logged: list[Any]) -> None:
    client = await connect()
    await client.close()
    await eventually(lambda: [one for one in logged if one["event"] == "disconnected"])
    assert [one["reason"] for one in logged if one["event"] == "disconnected"] == ["client disconnect"]

"""What one peer may make an instance do: bytes and units of CPU, before and after a token, over all connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conftest import settings_for, token_of, url_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.clock import new_id, now
from twin_sio.errors import InvalidMessage, TooLarge
from twin_sio.gateway.budgets import CONNECTION_WAITING_BYTES, USER_WAITING_BYTES, Budgets
from twin_sio.protocol import AUTH_MAX_BYTES, CLIENT_EVENTS, ENVELOPE_MAX_BYTES, SMALL_MAX_BYTES, Outgoing, parse
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import service

Make = Callable[..., Any]


@pytest.fixture
async def instances(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel
) -> AsyncIterator[Callable[..., Any]]:
    """`await instances(n, **settings)` gives the URLs of so many servers with these settings."""
    async with AsyncExitStack() as stack:

        async def make(count: int = 1, **more: Any) -> list[str]:
            settings = settings_for(mongod.url, redis_server.url, model.base_url, **more)
            return [url_of(await stack.enter_async_context(service(settings))) for _ in range(count)]

        yield make


# -- before a token --------------------------------------------------------------------------------------------------


async def test_the_token_is_checked_first(url: str) -> None:
    """Of who has no good token nothing else is looked at."""
    async with RawSocket(url, "a.b.c", context={"a": "\x00"}) as raw:
        assert raw.refusal is not None
        assert raw.refusal["data"]["message"] == "The token is not accepted."


async def test_a_long_auth_payload_is_refused_unread(url: str) -> None:
    """It is refused by its length alone: it is no JSON."""
    raw = RawSocket(url, None)
    await raw.open()
    try:
        await raw.send("40" + "{" * (AUTH_MAX_BYTES + 1))
        refusal = await raw.until(lambda: raw.refusal)
        assert refusal["data"]["code"] == "auth_invalid"
    finally:
        await raw.__aexit__(None, None, None)


async def test_repeated_refusals_close_the_socket(url: str) -> None:
    """Who is refused again and again on one socket is closed."""
    async with RawSocket(url, "a.b.c") as raw:
        for _ in range(20):
            await raw.send("40" + json.dumps({"token": "a.b.c"}))
        await asyncio.wait_for(raw.closed.wait(), 10)


# -- one event -------------------------------------------------------------------------------------------------------


LONG = {"user_message", "context_update", "feedback", "auth_refresh", "host_tools", "tool_result", "approval"}


@pytest.mark.parametrize("name", sorted(CLIENT_EVENTS))
def test_an_event_that_needs_no_bytes_may_not_have_them(name: str) -> None:
    bound = CLIENT_EVENTS[name].max_bytes
    assert bound == SMALL_MAX_BYTES or name in LONG
    with pytest.raises(TooLarge):
        parse(name, [{"metadata": {"message_id": "m"}, "more": "x" * bound}])


@pytest.mark.parametrize(
    ("context", "field"),
    [
        ({"a": [0, 1, {"b": "\x00"}]}, "payload.context.a.2.b"),
        ({"a": [[], [[]], [2**53]]}, "payload.context.a.2.0"),
        ({"a": {"\x00": 1}}, "payload.context.a"),
        ({"a": float("inf"), "b": {}}, "payload.context.a"),
        ({"a": "\ud800"}, "payload.context.a"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_path(context: dict[str, Any], field: str) -> None:
    deep = {**context, "deep": [[[[[[[[[[]]]]]]]]]], "wide": [{}] * 20}
    with pytest.raises(InvalidMessage) as refused:
        parse("context_update", [{"payload": {"context": deep}}])
    assert refused.value.field == field


@pytest.mark.parametrize("prefix", ["twin-", "profile-v"])
def test_ids_of_the_services_own_are_refused(prefix: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        parse("user_message", [{"payload": {"text": "hi"}, "metadata": {"message_id": prefix + "1"}}])
    assert refused.value.field == "metadata.message_id"


# -- many events -----------------------------------------------------------------------------------------------------


async def test_costly_events_are_counted_over_all_connections_of_a_user(instances: Make, user: str) -> None:
    """Each connection stays under its own bound of events, the user does not stay under theirs."""
    [url] = await instances(limits__events_per_second=50)
    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(RawSocket(url, token_of(user))) for _ in range(4)]
        asked = [(raw, await raw.emit("history", {})) for raw in devices for _ in range(60)]
        for raw, ack in asked:
            await raw.until(lambda r=raw, a=ack: a in r.acks, 30)
        answers = [raw.acks[ack][0] for raw, ack in asked]
        refused = [one["payload"] for one in answers if one["type"] == "error"]
        assert {one["code"] for one in refused} == {"rate_limited"}
        assert len(refused) > 60
        other = await stack.enter_async_context(RawSocket(url, token_of(f"{user}-other")))
        assert (await other.ask("heartbeat", {}))["type"] == "heartbeat_ack"


async def test_what_waits_is_bounded_by_its_bytes(url: str, user: str) -> None:
    """Sixty large events fit the queue by their number, and do not by their bytes."""
    context = {"payload": {"context": {"a": "x" * 15_000}, "mode": "replace"}, "more": "x" * 45_000}
    async with RawSocket(url, token_of(user)) as raw:
        acks = [await raw.emit("context_update", context) for _ in range(60)]
        await raw.until(lambda: all(ack in raw.acks for ack in acks), 30)
        kinds = [raw.acks[ack][0]["type"] for ack in acks]
        assert kinds.count("message_received") >= 2
        assert kinds.count("error") >= 1
        assert (await raw.ask("context_update", context))["type"] == "message_received"


def test_waiting_bytes_are_bounded_per_user() -> None:
    """One event may always wait and no user has more than their bytes."""
    budgets = Budgets(events_per_second=50)
    assert budgets.fits("ada", ENVELOPE_MAX_BYTES, 0)
    connections = 20
    here = [0] * connections
    for number in range(1000):
        at = number % connections
        if budgets.fits("ada", 30_000, here[at]):
            budgets.waits("ada", 30_000)
            here[at] += 30_000
    assert max(here) <= CONNECTION_WAITING_BYTES
    assert budgets.waiting("ada") <= USER_WAITING_BYTES + connections * 30_000
    assert budgets.fits("bob", 30_000, 30_000)
    for held in here:
        budgets.done("ada", held)
    assert budgets.waiting("ada") == 0


# -- what is held ----------------------------------------------------------------------------------------------------


async def test_no_user_holds_more_than_a_few_connections_may(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str
) -> None:
    """Sixteen devices that do not read, each under its own bound."""
    hard = 1024 * 1024
    settings = settings_for(
        mongod.url,
        redis_server.url,
        model.base_url,
        tuning__slow_soft_bytes=hard - 200_000,
        server__slow_hard_bytes=hard,
        tuning__slow_stuck_s=600,
    )
    async with service(settings) as one, AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(RawSocket(url_of(one), token_of(user))) for _ in range(16)]
        other = await stack.enter_async_context(RawSocket(url_of(one), token_of(f"{user}-other")))
        for raw in raws:
            raw._reader.cancel()
            raw._ws._response.connection.transport.pause_reading()  # type: ignore[union-attr]
        delivery, server = one.services.delivery, one.sockets
        large = Outgoing("presence", {"text": "x" * 100_000}, "m", now())

        def fill() -> bool:
            delivery.to_user(user, large)
            return delivery.slow_aborts > 0

        await eventually(fill, 60)
        await eventually(lambda: server.total_buffered_bytes <= 4 * hard + hard // 2)
        assert 0 < delivery.slow_aborts < 16
        assert (await other.ask("heartbeat", {}))["type"] == "heartbeat_ack"


# -- sessions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2], ids=["one instance", "two instances"])
async def test_simultaneous_connects_respect_the_limit(instances: Make, user: str, count: int) -> None:
    """Of many connects at once no more get in than there may be sessions."""
    urls = await instances(count, limits__sessions=5)
    async with AsyncExitStack() as stack:
        raws = [RawSocket(urls[n % count], token_of(user), session_id=new_id()) for n in range(30)]
        await asyncio.gather(*(stack.enter_async_context(raw) for raw in raws))
        assert sum(raw.refusal is None for raw in raws) == 5
        codes = {raw.refusal["data"]["code"] for raw in raws if raw.refusal is not None}
        assert codes == {"too_many_sessions"}
    async with RawSocket(urls[0], token_of(user)) as again:
        assert again.refusal is None


async def test_a_refused_connect_leaves_its_place_to_others(instances: Make, user: str) -> None:
    [url] = await instances(limits__sessions=1)
    bad = {"a": "x" * 17_000}
    for _ in range(3):
        async with RawSocket(url, token_of(user), session_id=new_id(), context=bad) as raw:
            assert raw.refusal is not None
            assert raw.refusal["data"]["code"] == "session_invalid"
    async with RawSocket(url, token_of(user), session_id=new_id()) as raw:
        assert raw.refusal is None

"""Delivery on its own, over a real Redis: what an instance hears, and what it forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from bench.disconnects import Connected
from tests.conftest import eventually
from twin_sio.clock import new_id, now
from twin_sio.delivery import Delivery
from twin_sio.delivery.messages import Broadcast
from twin_sio.delivery.pubsub import PubSub
from twin_sio.domain import Event
from twin_sio.runtime.dev_engines.engines import RedisServer


async def _nothing(user_id: str, after: int, limit: int) -> Sequence[Event]:
    return []


async def _no_heads(user_ids: Sequence[str]) -> Mapping[str, int]:
    return {}


@asynccontextmanager
async def delivering(
    redis_server: RedisServer, on_control: Callable[[Broadcast], None] = lambda _: None
) -> AsyncIterator[Delivery]:
    one = Delivery(redis_server.url, clock=now, new_id=new_id, read=_nothing, heads=_no_heads, on_control=on_control)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


def event(user: str, seq: int) -> Event:
    return Event(user, seq, "user_message", f"m-{seq}", "main", now(), {"text": "x" * 200})


async def test_an_instance_decodes_nothing_of_what_fifty_others_say_to_other_users(
    redis_server: RedisServer, user: str
) -> None:
    async with delivering(redis_server) as mine, delivering(redis_server) as other:
        await mine.subscribe(user)
        senders = [PubSub(redis_server.url) for _ in range(50)]
        await asyncio.gather(*(sender.start() for sender in senders))
        before = mine.channels.messages_received
        for round_ in range(100):
            for index, sender in enumerate(senders):
                sender.publish(
                    f"twin:user:{user}-{index}", b'["x","d",1,null,null]\n' + bytes([round_ % 50 + 40]) * 300
                )
        await asyncio.gather(*(sender.stop() for sender in senders))
        other.publish(event(user, 1))
        await eventually(lambda: mine.channels.messages_received > before)
        assert mine.channels.messages_received == before + 1


async def test_what_is_published_is_heard_in_the_order_of_the_calls(redis_server: RedisServer, user: str) -> None:
    heard: list[bytes] = []
    ears = PubSub(redis_server.url, on_message=lambda _, payload: heard.append(payload))
    mouth = PubSub(redis_server.url)
    await ears.start()
    await mouth.start()
    try:
        assert await ears.subscribe(f"test:{user}")
        for index in range(1000):
            mouth.publish(f"test:{user}", str(index).encode())
            if index % 100 == 0:
                await asyncio.sleep(0)
        await eventually(lambda: len(heard) == 1000)
        assert heard == [str(index).encode() for index in range(1000)]
        ears.unsubscribe(f"test:{user}")
        await eventually(lambda: _silent(mouth, user, heard))
    finally:
        await asyncio.gather(ears.stop(), mouth.stop())


async def _silent(mouth: PubSub, user: str, heard: list[bytes]) -> bool:
    before = len(heard)
    found = await mouth.redis.execute_command("PUBSUB", "NUMSUB", f"test:{user}")
    return found[1] == 0 and len(heard) == before


async def _listeners(channels: PubSub, name: str) -> int:
    found = await channels.redis.execute_command("PUBSUB", "NUMSUB", name)
    return int(found[1])


async def test_a_channel_that_is_asked_for_while_the_ears_connect_is_listened_to(
    redis_server: RedisServer, user: str
) -> None:
    ears = PubSub(redis_server.url, on_message=lambda _, __: None)
    await ears.start()
    try:
        await asyncio.sleep(0)  # the listener has begun to connect, with what was wanted by then
        assert await ears.subscribe(f"late:{user}")
    finally:
        await ears.stop()


async def test_a_channel_that_is_left_while_the_ears_connect_is_not_listened_to(
    redis_server: RedisServer, user: str
) -> None:
    ears = PubSub(redis_server.url, on_message=lambda _, __: None)
    wanted = asyncio.create_task(ears.subscribe(f"left:{user}"))
    await asyncio.sleep(0)
    await ears.start()
    try:
        await asyncio.sleep(0)  # the listener has begun to connect, with what was wanted by then
        ears.unsubscribe(f"left:{user}")
        assert await ears.subscribe(f"kept:{user}")
        assert await ears.subscribe(f"after:{user}")  # by now Redis has seen all that was said before
        assert await _listeners(ears, f"left:{user}") == 0
    finally:
        await asyncio.gather(wanted, ears.stop())


async def test_a_channel_that_is_left_and_asked_for_again_at_once_is_listened_to(
    redis_server: RedisServer, user: str
) -> None:
    ears = PubSub(redis_server.url, on_message=lambda _, __: None)
    await ears.start()
    try:
        assert await ears.subscribe(f"again:{user}")
        ears.unsubscribe(f"again:{user}")
        assert await ears.subscribe(f"again:{user}")
        assert await ears.subscribe(f"after:{user}")  # by now Redis has seen all that was said before
        assert await _listeners(ears, f"again:{user}") == 1
    finally:
        await ears.stop()


async def test_a_thousand_disconnects_leave_no_entry_in_any_table() -> None:
    manager = Connected.ours(1000)
    await manager.leave_all()
    assert manager.left_behind() == {}

"""Delivery on its own, over a real Redis: what an instance receives, and what it frees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.disconnects import Connected
from tests.waiting import eventually
from twin_sio.background import BackgroundTasks
from twin_sio.clock import monotonic, new_id, now
from twin_sio.delivery import Delivery
from twin_sio.delivery.catching_up import CatchingUp
from twin_sio.delivery.chunks import generations_key
from twin_sio.delivery.messages import Broadcast
from twin_sio.delivery.pubsub import PubSub
from twin_sio.delivery.user_stream import ReadLog
from twin_sio.domain import Caller, Event, Generation, Identity
from twin_sio.errors import StorageUnavailable
from twin_sio.redis_connection.failures import SENTENCES
from twin_sio.runtime.dev_engines.engines import RedisServer, start_redis


async def _nothing(user_id: str, after: int, limit: int) -> Sequence[Event]:
    return []


async def _no_heads(user_ids: Sequence[str]) -> Mapping[str, int]:
    return {}


@asynccontextmanager
async def delivering(
    redis_server: RedisServer, on_control: Callable[[Broadcast], None] = lambda _: None, read: ReadLog = _nothing
) -> AsyncIterator[Delivery]:
    one = Delivery(redis_server.url, clock=now, new_id=new_id, read=read, heads=_no_heads, on_control=on_control)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


def event(user: str, seq: int) -> Event:
    return Event(user, seq, "user_message", f"m-{seq}", "main", now(), {"text": "x" * 200})


async def test_other_users_messages_are_not_decoded(redis_server: RedisServer, user: str) -> None:
    """An instance decodes nothing of what fifty others say to other users."""
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


async def test_messages_are_received_in_publishing_order(redis_server: RedisServer, user: str) -> None:
    """Messages are received in the order of the calls that publish them."""
    received: list[bytes] = []
    subscriber = PubSub(redis_server.url, on_message=lambda _, payload: received.append(payload))
    publisher = PubSub(redis_server.url)
    await subscriber.start()
    await publisher.start()
    try:
        assert await subscriber.subscribe(f"test:{user}")
        for index in range(1000):
            publisher.publish(f"test:{user}", str(index).encode())
            if index % 100 == 0:
                await asyncio.sleep(0)
        await eventually(lambda: len(received) == 1000)
        assert received == [str(index).encode() for index in range(1000)]
        subscriber.unsubscribe(f"test:{user}")
        await eventually(lambda: _silent(publisher, user, received))
    finally:
        await asyncio.gather(subscriber.stop(), publisher.stop())


async def _silent(publisher: PubSub, user: str, received: list[bytes]) -> bool:
    before = len(received)
    found = await publisher.redis.execute_command("PUBSUB", "NUMSUB", f"test:{user}")
    return found[1] == 0 and len(received) == before


async def _listeners(channels: PubSub, name: str) -> int:
    found = await channels.redis.execute_command("PUBSUB", "NUMSUB", name)
    return int(found[1])


async def test_a_channel_subscribed_during_connect_is_received(redis_server: RedisServer, user: str) -> None:
    """A channel that is asked for while the subscriber connects is subscribed to."""
    subscriber = PubSub(redis_server.url, on_message=lambda _, __: None)
    await subscriber.start()
    try:
        await asyncio.sleep(0)  # the listener has begun to connect, with what was wanted by then
        assert await subscriber.subscribe(f"late:{user}")
    finally:
        await subscriber.stop()


async def test_a_channel_left_during_connect_is_not_received(redis_server: RedisServer, user: str) -> None:
    """A channel that is left while the subscriber connects is not subscribed to."""
    subscriber = PubSub(redis_server.url, on_message=lambda _, __: None)
    wanted = asyncio.create_task(subscriber.subscribe(f"left:{user}"))
    await asyncio.sleep(0)
    await subscriber.start()
    try:
        await asyncio.sleep(0)  # the listener has begun to connect, with what was wanted by then
        subscriber.unsubscribe(f"left:{user}")
        assert await subscriber.subscribe(f"kept:{user}")
        assert await subscriber.subscribe(f"after:{user}")  # by now Redis has processed all commands before this
        assert await _listeners(subscriber, f"left:{user}") == 0
    finally:
        await asyncio.gather(wanted, subscriber.stop())


@pytest.mark.parametrize(
    ("what", "lines"),
    [
        ("kill", {"redis_down": {"hung_up", "refused"}, "redis_listener_lost": {"hung_up", "refused"}}),
        ("pause", {"redis_down": {"silent"}, "redis_probe_failed": {"silent"}}),
    ],
)
async def test_each_line_about_a_lost_redis_says_what_is_wrong(
    what: str, lines: dict[str, set[str]], folder: Path, logged: list[Any]
) -> None:
    server = await asyncio.to_thread(start_redis, folder)
    channels = PubSub(server.url, on_message=lambda _, __: None, probe_interval_s=0.1)
    try:
        await channels.start()
        await eventually(lambda: not channels.problem)
        getattr(server, what)()
        await eventually(lambda: lines.keys() <= {line["event"] for line in logged})
        for line in logged:
            if line["event"] in lines:
                assert line["kind"] in lines[line["event"]]
                assert line["meaning"] == SENTENCES[line["kind"]]
    finally:
        await channels.stop()
        await asyncio.to_thread(server.stop)


async def test_resubscribing_at_once_receives(redis_server: RedisServer, user: str) -> None:
    """A channel that is left and asked for again at once is listened to."""
    subscriber = PubSub(redis_server.url, on_message=lambda _, __: None)
    await subscriber.start()
    try:
        assert await subscriber.subscribe(f"again:{user}")
        subscriber.unsubscribe(f"again:{user}")
        assert await subscriber.subscribe(f"again:{user}")
        assert await subscriber.subscribe(f"after:{user}")  # by now Redis has processed all commands before this
        assert await _listeners(subscriber, f"again:{user}") == 1
    finally:
        await subscriber.stop()


async def test_what_is_sent_again_of_a_long_log_is_paced(redis_server: RedisServer, user: str) -> None:
    """Of a user's log 20,000 events are sent again at once, to all connections together, then 2,000 a second."""
    length, connections = 13_000, 2

    async def read(user_id: str, after: int, limit: int) -> Sequence[Event]:
        return [event(user_id, seq) for seq in range(after + 1, min(length, after + limit) + 1)]

    async with delivering(redis_server, read=read) as one:
        began = monotonic()
        for n in range(connections):
            caller = Caller(user, f"s-{n}", new_id(), Identity(user, frozenset(), now()))
            one.attach(caller, head=length, last_seq=0, is_answering=False)
        await eventually(lambda: one.resumes["yes"] == connections, 30)
        assert connections * length <= 20_000 + 2_000 * (monotonic() - began) + connections * 200


async def test_a_thousand_disconnects_leave_no_entry_in_any_table() -> None:
    manager = Connected.ours(1000)
    await manager.leave_all()
    assert manager.left_behind() == {}


async def test_an_erasure_finds_what_begins_in_its_midst(redis_server: RedisServer, user: str) -> None:
    """Answers begin while it is at it: none is cut off from what names it, where no erasure would find its words."""
    async with delivering(redis_server) as answering, delivering(redis_server) as erasing:
        redis = answering.channels.redis

        async def answer() -> None:
            for number in range(200):
                generation = Generation(f"g{number}", "main", f"m{number}", None, monotonic())
                answering.begin_generation(user, generation)
                answering.chunk(user, generation, "words")
                await asyncio.sleep(0)

        answers = asyncio.create_task(answer())
        while not answers.done():
            await erasing.erase(user)
        answering.channels.command("SET", f"done:{user}", 1, "EX", 60)
        await eventually(lambda: redis.exists(f"done:{user}"))
        await erasing.erase(user)
        assert [key async for key in redis.scan_iter(match=f"twin:gen*{user}*")] == []


async def test_late_words_to_an_erased_user_leave_nothing(redis_server: RedisServer, user: str) -> None:
    """Neither a first word that reaches Redis behind the erasure, nor what an instance sends until it hears of it."""
    async with delivering(redis_server) as answering, delivering(redis_server) as erasing:
        redis = answering.channels.redis

        async def kept(marker: str) -> list[str]:
            """The user's keys, once all that was sent has been done."""
            answering.channels.command("SET", f"{marker}:{user}", 1, "EX", 60)
            await eventually(lambda: redis.exists(f"{marker}:{user}"))
            return sorted([key.decode() async for key in redis.scan_iter(match=f"twin:gen*{user}*")])

        first = Generation("g1", "main", "m1", None, monotonic())
        answering.begin_generation(user, first)
        assert len(await kept("announced")) == 1
        await erasing.erase(user)
        answering.chunk(user, first, "a first word")
        assert await kept("behind") == []
        second = Generation("g2", "main", "m2", None, monotonic())
        answering.begin_generation(user, second)
        answering.chunk(user, second, "late")
        assert len(await kept("late")) == 2
        answering.on_erased(user, 1)
        assert await kept("heard") == []
        erasing.begin_generation(user, second)  # it stands there again, as where Redis comes back with old data
        await eventually(lambda: redis.exists(generations_key(user)))
        answering._running.restore()
        assert await kept("restored") == []
        since = Generation("g3", "main", "m3", None, monotonic(), epoch=1)
        answering.begin_generation(user, since)
        answering.on_erased(user, 1)
        assert len(await kept("since")) == 1


class _Stream:
    """What is told of how far the log goes."""

    def __init__(self) -> None:
        self.heads: list[int] = []

    def catch_up_to(self, head: int) -> None:
        self.heads.append(head)


async def test_what_many_ask_for_is_done_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process asks once Redis is back; and what was read when the log went away is not read again."""
    monkeypatch.setattr("twin_sio.delivery.catching_up.storage_retry_s", lambda: 0)
    monkeypatch.setattr("twin_sio.delivery.catching_up._HEADS_AT_ONCE", 2)
    streams = {f"kim{n}": _Stream() for n in range(5)}
    asked: list[Sequence[str]] = []
    told: list[object] = []

    async def heads(users: Sequence[str]) -> Mapping[str, int]:
        asked.append(list(users))
        if len(asked) == 2:
            raise StorageUnavailable
        if len(asked) < 5:
            catching_up.ask()
            catching_up.ask()
        return dict.fromkeys(users, 7)

    tasks = BackgroundTasks()
    catching_up = CatchingUp(streams, heads, told.append, tasks)  # type: ignore[arg-type]
    catching_up.ask()
    await eventually(lambda: len(told) == 10)
    await tasks.stop()
    first, second, third = ["kim0", "kim1"], ["kim2", "kim3"], ["kim4"]
    assert asked[:4] == [first, second, second, third]
    assert [stream.heads for stream in streams.values()] == [[7, 7]] * 5

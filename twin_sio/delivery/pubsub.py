"""One Redis as a bell: channels that are published to without waiting and listened to without trust.

Nothing here is durable. What was published may be lost whenever Redis is away; then `healthy` is false within two
probe intervals, and `on_restored` is called once messages flow again, so that the owner can look at the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from hiredis import pack_command
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from twin_sio.background import BackgroundTasks, cancel_and_wait
from twin_sio.clock import monotonic, new_id
from twin_sio.delivery.messages import CONTROL_CHANNEL
from twin_sio.redis_connection import REDIS_ERRORS, TIMEOUT_S, client

log = structlog.get_logger("channels")

_BACKLOG = 20_000
RedisCommand = tuple[Any, ...]


class PubSub:
    """Publish and subscribe, over one connection each; both survive a Redis that hangs, dies or comes back empty."""

    _PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE = "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[str, bytes], None] | None = None,
        on_restored: Callable[[], None] | None = None,
        probe_interval_s: float = 1.0,
    ) -> None:
        self.instance = new_id()
        self.messages_received = 0
        self.probe_failures = 0
        self.outages = 0
        self.on_round_trip: Callable[[float], None] = lambda _: None
        self.redis = client(url)
        self._sub_client = client(url, timeout_s=None)
        self._pub_client = client(url, timeout_s=None)
        self._pub_conn: Any = None
        self._stopping = False
        self._on_message = on_message
        self._on_restored = on_restored
        self._interval = probe_interval_s
        self._probe_channel = f"twin:instance:{self.instance}"
        self._subscriptions: dict[str, asyncio.Future[None]] = {}
        self._sub_conn: Any = None
        self._queue: deque[RedisCommand] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._up = True
        self._heard_at = monotonic()
        self._probed_at: float | None = None
        self._tasks = BackgroundTasks()
        self._listener: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """This instance hears what it publishes: its last probe came back within two intervals."""
        return self._up and (self._on_message is None or monotonic() - self._heard_at < 2.5 * self._interval)

    async def start(self) -> None:
        """Begin to publish and, where there is a listener, to listen. Does not wait for Redis."""
        self._tasks.start(self._publish_loop())
        self._tasks.start(self._probe())
        if self._on_message is not None:
            self._listener = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """Send what is queued, if Redis takes it within a second, then close."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), TIMEOUT_S)
        self._stopping = True  # nothing more is said, so no connection is made for it
        line, self._pub_conn = self._pub_conn, None
        if line is not None:
            with contextlib.suppress(*REDIS_ERRORS):
                await line.disconnect()  # what is written goes out before
        await cancel_and_wait(*self._tasks, *([self._listener] if self._listener else []))
        for redis in (self.redis, self._sub_client, self._pub_client):
            with contextlib.suppress(*REDIS_ERRORS):
                await redis.aclose()

    # -- out ---------------------------------------------------------------------------------------------------------

    def publish(self, channel: str, payload: bytes) -> None:
        """Send to everybody who listens, in the order of the calls; never waits, never raises."""
        self.command(self._PUBLISH, channel, payload)

    def command(self, *words: Any) -> None:
        """Any command whose answer nobody needs, in one order with the publishes."""
        if self._stopping:
            return
        if not self._up or len(self._queue) >= _BACKLOG:
            self._up = False  # dropped: from here on the log has to heal, so say that there was a gap
            self._queue.clear()
            return
        self._queue.append(words)
        self._idle.clear()
        self._wake.set()

    def script(self, text: str, keys: Sequence[str], *words: Any) -> None:
        """A Lua script over keys of one channel, in the same order: so that no key is made without its end."""
        self.command("EVAL", text, len(keys), *keys, *words)

    async def get_list(self, key: str) -> list[str]:
        """A list as Redis remembers it; raises one of `FAILURES`."""
        found: list[bytes] = await self.redis.lrange(key, 0, -1)  # type: ignore[misc]
        return [item.decode() for item in found]

    async def get_hash(self, key: str) -> dict[str, str]:
        """A hash as Redis remembers it; raises one of `FAILURES`."""
        found: dict[bytes, bytes] = await self.redis.hgetall(key)  # type: ignore[misc]
        return {name.decode(): value.decode() for name, value in found.items()}

    async def delete(self, *keys: str) -> int:
        """Delete keys, of one channel; how many there were. Raises one of `FAILURES`."""
        return int(await self.redis.delete(*keys))

    async def _publish_loop(self) -> None:
        """All that one turn of the loop asked for, in one write."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._queue = self._queue, deque()
            if batch:
                try:
                    async with asyncio.timeout(TIMEOUT_S):
                        line = self._pub_conn or await self._open_publisher()
                        await line.send_packed_command(b"".join(map(pack_command, batch)), check_health=False)
                except REDIS_ERRORS:
                    self._pub_conn = None
                    self._mark_down()
            if not self._queue:
                self._idle.set()

    async def _open_publisher(self) -> Any:
        """A connection that answers nothing: reading an answer to each publish would cost more than the publish."""
        line = await self._pub_client.connection_pool.get_connection()
        self._tasks.start(self._watch_publisher(line))
        await line.send_command("CLIENT", "REPLY", "OFF", check_health=False)
        self._pub_conn = line
        return line

    async def _watch_publisher(self, line: Any) -> None:
        """See that the connection has ended: what was written to it last is lost, and the log has to heal."""
        try:
            with contextlib.suppress(*REDIS_ERRORS):
                while True:
                    await line.read_response()
            if self._pub_conn is line:
                self._pub_conn = None
                self._mark_down()
        finally:
            await self._close_connection(self._pub_client, line)

    def _mark_down(self) -> None:
        if self._up:
            self.outages += 1
            log.warning("redis_down")
        self._up = False
        self._queue.clear()

    # -- in ----------------------------------------------------------------------------------------------------------

    async def subscribe(self, channel: str, patience_s: float = TIMEOUT_S) -> bool:
        """Listen to the channel; true once Redis has confirmed it. False: Redis is away, and the channel will be
        listened to as soon as it is back (followed by `on_restored`)."""
        confirmed = self._subscriptions.get(channel)
        if confirmed is None:
            confirmed = self._subscriptions[channel] = asyncio.get_running_loop().create_future()
            ear = self._sub_conn
            if ear is not None:
                with contextlib.suppress(*REDIS_ERRORS):  # the listener finds out by itself
                    await self._send_subscribe(ear, channel)
        if not self._up:
            return confirmed.done()
        try:
            await asyncio.wait_for(asyncio.shield(confirmed), patience_s)
        except TimeoutError:
            return False
        return True

    def unsubscribe(self, channel: str) -> None:
        """Listen no more; never waits."""
        if self._subscriptions.pop(channel, None) is not None and self._sub_conn is not None:
            self._tasks.start(self._send_unsubscribe(self._sub_conn, channel))

    async def _send_unsubscribe(self, ear: Any, channel: str) -> None:
        if channel in self._subscriptions:  # asked for again since, and what is said last counts
            return
        with contextlib.suppress(*REDIS_ERRORS):
            await self._send(ear, (self._UNSUBSCRIBE, channel))

    async def _send_subscribe(self, ear: Any, *channels: str) -> None:
        await self._send(ear, (self._SUBSCRIBE, *channels))

    async def _send(self, ear: Any, *commands: RedisCommand) -> None:
        if ear.is_connected:  # otherwise the library would connect it, and that is the listener's
            await ear.send_packed_command(b"".join(map(pack_command, commands)), check_health=False)

    def _all_channels(self) -> Iterable[str]:
        """All there is to listen to; first what others say, so that who hears himself hears them, too."""
        return (CONTROL_CHANNEL, *self._subscriptions, self._probe_channel)

    async def _listen(self) -> None:
        # Over a bare connection: the library's own listener keeps books of subscriptions, which know nothing of sharded
        # ones, nor of `_wanted`, and costs more for each message than all else that is done with it.
        delay = 0.05
        while True:
            ear = None
            try:
                for name, future in self._subscriptions.items():
                    if future.done():
                        self._subscriptions[name] = asyncio.get_running_loop().create_future()
                # Connecting takes as long as Redis hangs. What is wanted is read after it, and who wants more joins.
                self._sub_conn = ear = await self._sub_client.connection_pool.get_connection()
                await self._send_subscribe(ear, *self._all_channels())
                while True:
                    try:
                        said = await ear.read_response()
                    except ResponseError as error:
                        self._on_error_reply(error)
                    else:
                        self._on_push(*said)
                        delay = 0.05
            except REDIS_ERRORS:
                log.warning("redis_listener_lost")
                self._up = False
            finally:
                self._sub_conn = None
                if ear is not None:
                    await self._close_connection(self._sub_client, ear)
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, 1.0)

    @staticmethod
    async def _close_connection(owner: Redis, line: Any) -> None:
        """Close a connection and give it back: the pool would hold it for ever."""
        with contextlib.suppress(*REDIS_ERRORS):
            await line.disconnect(nowait=True)
        await owner.connection_pool.release(line)

    def _on_error_reply(self, error: ResponseError) -> None:
        raise error

    def _on_push(self, kind: bytes, name: bytes, data: bytes) -> None:
        channel = name.decode()
        if kind == b"subscribe":
            future = self._subscriptions.get(channel)
            if future is not None and not future.done():
                future.set_result(None)
        elif kind == b"message":
            if channel == self._probe_channel:
                self._on_probe_reply()
            elif self._on_message is not None:
                self.messages_received += 1
                self._on_message(channel, data)

    # -- health ------------------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Publish to oneself; deaf for two intervals means a new connection for the ears."""
        restarted_at = monotonic()
        while True:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    self._probed_at = monotonic()
                    await self.redis.execute_command(self._PUBLISH, self._probe_channel, b"")  # type: ignore[no-untyped-call]
                if self._on_message is None:
                    self._on_probe_reply()
            except REDIS_ERRORS:
                self._mark_down()
            # While Redis is away its return is looked for more often: until then clients elsewhere miss what happens.
            await asyncio.sleep(self._interval if self._up else self._interval / 4)
            deaf_for = monotonic() - max(self._heard_at, restarted_at)
            if self._listener is not None and deaf_for > 2 * self._interval:
                self.probe_failures += 1
                log.warning("redis_deaf")
                self._mark_down()
                restarted_at = monotonic()
                await cancel_and_wait(self._listener)
                self._listener = asyncio.create_task(self._listen())

    def _on_probe_reply(self) -> None:
        self._heard_at = monotonic()
        if self._probed_at is not None:
            self.on_round_trip(self._heard_at - self._probed_at)
            self._probed_at = None
        if not self._up:
            self._up = True
            log.info("redis_restored")
            if self._on_restored is not None:
                self._on_restored()

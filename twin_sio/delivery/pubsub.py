"""Redis pub/sub as a wake-up signal: publishing never blocks, delivery is not guaranteed.

What is published while Redis is away is lost; then `healthy` is false within two probe intervals, and `on_restored` is
called once messages flow again, so that the owner can compare with the log.
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
from twin_sio.errors import EngineFailure
from twin_sio.observability.limited_log import LimitedLog
from twin_sio.redis_connection import REDIS_ERRORS, TIMEOUT_S, client
from twin_sio.redis_connection.failures import explain

log = structlog.get_logger("pubsub")

_BACKLOG = 20_000
RedisCommand = tuple[Any, ...]


class PubSub:
    """Publish and subscribe, over one connection each; both survive a Redis that hangs, dies or comes back empty.

    An instance that subscribes publishes an empty message to a channel of its own in each probe interval. Its return
    shows that both connections work and everything published before was delivered.
    """

    # The commands; those of sharded channels in a cluster.
    _PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE = "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[str, bytes], None] | None = None,
        on_restored: Callable[[], None] | None = None,
        on_round_trip: Callable[[float], None] = lambda _: None,
        probe_interval_s: float = 1.0,
    ) -> None:
        self.instance = new_id()  # names this process in its messages
        # Since the start: messages for `on_message`; probes that did not return in time; times that Redis went away.
        self.messages_received = 0
        self.probe_failures = 0
        self.outages = 0
        # Called with the seconds that a probe took to return.
        self._on_round_trip = on_round_trip
        # For commands whose reply is needed; each ends within a second.
        self.redis = client(url)
        # One connection each, without a timeout: a subscriber may receive nothing for hours, and a publisher reads no
        # replies. The probe finds out where they hang.
        self._sub_client = client(url, timeout_s=None)
        self._pub_client = client(url, timeout_s=None)
        self._pub_conn: Any = None  # None: opened by the next publish
        self._sub_conn: Any = None  # None: the listener is connecting
        self._stopping = False
        self._on_message = on_message
        self._on_restored = on_restored
        self._interval = probe_interval_s
        self._probe_channel = f"twin:instance:{self.instance}"
        # What is to be subscribed to, and whether Redis has confirmed it on the present connection.
        self._subscriptions: dict[str, asyncio.Future[None]] = {}
        self._queue: deque[RedisCommand] = deque()  # commands that the publisher has not written yet
        self._wake = asyncio.Event()  # there is something in the queue
        self._idle = asyncio.Event()  # there is nothing in it
        self._idle.set()
        # False from the first failure until a probe returns. Until then publishes are dropped, since the owner has to
        # compare with the log in any case.
        self._up = True
        self._received_at = monotonic()  # the last probe that returned
        self._has_returned = False  # one has returned
        self._failure: EngineFailure | None = None  # the last one since then
        self._refusal: EngineFailure | None = None  # why it takes no writes
        self._log_lost = LimitedLog("pubsub", "redis_listener_lost")
        self._log_refused = LimitedLog("pubsub", "redis_takes_no_writes")
        self._probed_at: float | None = None  # when the probe that has not returned was sent
        self._tasks = BackgroundTasks()
        self._listener: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """This instance receives what it publishes: its last probe returned within two intervals; and Redis takes
        writes."""
        receives = self._on_message is None or monotonic() - self._received_at < 2.5 * self._interval
        return self._up and receives and self._refusal is None

    @property
    def problem(self) -> str:
        """Why this instance cannot rely on Redis, in a sentence; empty: it can, and has heard its own probe."""
        if self.healthy and self._has_returned:
            return ""
        failure = self._refusal or self._failure
        return failure.sentence if failure is not None else "Redis has not returned a probe yet."

    async def start(self) -> None:
        """Begin to publish and, with `on_message`, to subscribe. Does not wait for Redis."""
        self._tasks.start(self._publish_loop())
        self._tasks.start(self._probe())
        if self._on_message is not None:
            self._listener = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """Send what is queued, if Redis takes it within a second, then close."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), TIMEOUT_S)
        self._stopping = True  # nothing more is published, so no connection is opened for it
        connection, self._pub_conn = self._pub_conn, None
        if connection is not None:
            with contextlib.suppress(*REDIS_ERRORS):
                await connection.disconnect()  # after what is written has been sent
        await cancel_and_wait(*self._tasks, *([self._listener] if self._listener else []))
        for redis in (self.redis, self._sub_client, self._pub_client):
            with contextlib.suppress(*REDIS_ERRORS):
                await redis.aclose()

    # -- publishing ----------------------------------------------------------------------------------------------------

    def publish(self, channel: str, payload: bytes) -> None:
        """Send to every subscriber, in the order of the calls; never waits, never raises."""
        self.command(self._PUBLISH, channel, payload)

    def command(self, *words: Any) -> None:
        """Any command whose reply is not needed, in one order with the publishes."""
        if self._stopping:
            return
        if not self._up or len(self._queue) >= _BACKLOG:
            self._up = False  # dropped: `on_restored` must be called, so that the owner compares with the log
            self._queue.clear()
            return
        self._queue.append(words)
        self._idle.clear()
        self._wake.set()

    def script(self, text: str, keys: Sequence[str], *words: Any) -> None:
        """A Lua script over keys of one channel, in the same order: for a key and its expiry in one step."""
        self.command("EVAL", text, len(keys), *keys, *words)

    async def get_list(self, key: str) -> list[str]:
        """A list as Redis remembers it; raises one of `REDIS_ERRORS`."""
        items: list[bytes] = await self.redis.lrange(key, 0, -1)  # type: ignore[misc]
        return [item.decode() for item in items]

    async def get_hash(self, key: str) -> dict[str, str]:
        """A hash as Redis remembers it; raises one of `REDIS_ERRORS`."""
        fields: dict[bytes, bytes] = await self.redis.hgetall(key)  # type: ignore[misc]
        return {name.decode(): value.decode() for name, value in fields.items()}

    async def run_script(self, text: str, keys: Sequence[str], *words: Any) -> int:
        """The number that a Lua script over keys of one channel gives. Raises one of `REDIS_ERRORS`."""
        return int(await self.redis.eval(text, len(keys), *keys, *words))  # type: ignore[misc]

    async def _publish_loop(self) -> None:
        """Write all that one iteration of the event loop has queued at once."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._queue = self._queue, deque()
            if batch:
                try:
                    async with asyncio.timeout(TIMEOUT_S):
                        connection = self._pub_conn or await self._open_publisher()
                        await connection.send_packed_command(b"".join(map(pack_command, batch)), check_health=False)
                except REDIS_ERRORS as error:
                    self._pub_conn = None
                    self._mark_down(error)
            if not self._queue:
                self._idle.set()

    async def _open_publisher(self) -> Any:
        """A connection without replies: reading a reply to each publish would cost more than the publish."""
        connection = await self._pub_client.connection_pool.get_connection()
        self._tasks.start(self._watch_publisher(connection))
        await connection.send_command("CLIENT", "REPLY", "OFF", check_health=False)
        self._pub_conn = connection
        return connection

    async def _watch_publisher(self, connection: Any) -> None:
        """Notice the end of the connection: what was written last may be lost, and nothing else would say so."""
        try:
            while True:
                await connection.read_response()
        except REDIS_ERRORS as error:
            if self._pub_conn is connection:
                self._pub_conn = None
                self._mark_down(error)
        finally:
            await self._close_connection(self._pub_client, connection)

    def _mark_down(self, error: BaseException) -> EngineFailure:
        self._failure = failure = explain(error)
        if self._up:
            self.outages += 1
            log.warning("redis_down", kind=failure.kind, meaning=failure.sentence)
        self._up = False
        self._queue.clear()
        return failure

    # -- subscribing ---------------------------------------------------------------------------------------------------

    async def subscribe(self, channel: str, patience_s: float = TIMEOUT_S) -> bool:
        """Subscribe to the channel; true once Redis has confirmed it. False: Redis is away; the channel is subscribed
        to as soon as it is back, and `on_restored` is called after that."""
        confirmed = self._subscriptions.get(channel)
        if confirmed is None:
            confirmed = self._subscriptions[channel] = asyncio.get_running_loop().create_future()
            connection = self._sub_conn
            if connection is not None:
                with contextlib.suppress(*REDIS_ERRORS):  # the listener notices, and connects again
                    await self._send_subscribe(connection, channel)
        if not self._up:
            return confirmed.done()
        try:
            await asyncio.wait_for(asyncio.shield(confirmed), patience_s)
        except TimeoutError:
            return False
        return True

    def unsubscribe(self, channel: str) -> None:
        """End the subscription; never waits."""
        if self._subscriptions.pop(channel, None) is not None and self._sub_conn is not None:
            self._tasks.start(self._send_unsubscribe(self._sub_conn, channel))

    async def _send_unsubscribe(self, connection: Any, channel: str) -> None:
        if channel in self._subscriptions:  # subscribed to again meanwhile: the later call counts
            return
        with contextlib.suppress(*REDIS_ERRORS):
            await self._send(connection, (self._UNSUBSCRIBE, channel))

    async def _send_subscribe(self, connection: Any, *channels: str) -> None:
        await self._send(connection, (self._SUBSCRIBE, *channels))

    async def _send(self, connection: Any, *commands: RedisCommand) -> None:
        if connection.is_connected:  # otherwise the library would connect it; only the listener may
            await connection.send_packed_command(b"".join(map(pack_command, commands)), check_health=False)

    def _all_channels(self) -> Iterable[str]:
        """Every channel to subscribe to. The probe channel is last: once its echo arrives, all others are active."""
        return (CONTROL_CHANNEL, *self._subscriptions, self._probe_channel)

    async def _listen(self) -> None:
        # Over a bare connection: redis-py's `PubSub` keeps its own list of subscriptions, knows no sharded ones for
        # asyncio, and costs more for each message than everything else that is done with it.
        delay = 0.05
        while True:
            connection = None
            try:
                for name, future in self._subscriptions.items():
                    if future.done():
                        self._subscriptions[name] = asyncio.get_running_loop().create_future()
                # Connecting takes as long as Redis hangs. The channels are listed after it; from then on `subscribe`
                # finds the connection.
                self._sub_conn = connection = await self._sub_client.connection_pool.get_connection()
                await self._send_subscribe(connection, *self._all_channels())
                while True:
                    try:
                        push = await connection.read_response()
                    except ResponseError as error:
                        self._on_error_reply(error)
                    else:
                        self._on_push(*push)
                        delay = 0.05
            except REDIS_ERRORS as error:
                failure = self._mark_down(error)
                self._log_lost(failure.kind, meaning=failure.sentence)
            finally:
                self._sub_conn = None
                if connection is not None:
                    await self._close_connection(self._sub_client, connection)
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, 1.0)

    @staticmethod
    async def _close_connection(owner: Redis, connection: Any) -> None:
        """Close a connection and return it, or its pool would count it for ever."""
        with contextlib.suppress(*REDIS_ERRORS):
            await connection.disconnect(nowait=True)
        await owner.connection_pool.release(connection)

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

    # -- health --------------------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Send a probe in each interval. Where none has returned for two, the subscriber connection is replaced."""
        restarted_at = monotonic()
        while True:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    self._probed_at = monotonic()
                    await self.redis.execute_command(self._PUBLISH, self._probe_channel, b"")  # type: ignore[no-untyped-call]
                if self._on_message is None:
                    self._on_probe_reply()
                await self._probe_writes()
            except REDIS_ERRORS as error:
                self._mark_down(error)
            # More often while Redis is away: until it is back, clients on other instances miss what happens.
            await asyncio.sleep(self._interval if self._up else self._interval / 4)
            silent_s = monotonic() - max(self._received_at, restarted_at)
            if self._listener is not None and silent_s > 2 * self._interval:
                self.probe_failures += 1
                failure = self._mark_down(TimeoutError())
                log.warning("redis_probe_failed", kind=failure.kind, meaning=failure.sentence)
                restarted_at = monotonic()
                await cancel_and_wait(self._listener)
                self._listener = asyncio.create_task(self._listen())

    async def _probe_writes(self) -> None:
        """Redis publishes on when it takes no writes any more: out of memory, or of disk."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self.redis.set(self._probe_channel, b"", px=int(5000 * self._interval))
        except ResponseError as error:
            self._refusal = explain(error)
            self._log_refused(self._refusal.kind, meaning=self._refusal.sentence)
        else:
            if self._refusal is not None:
                log.info("redis_takes_writes")
            self._refusal = None

    def _on_probe_reply(self) -> None:
        self._received_at = monotonic()
        self._has_returned, self._failure = True, None
        if self._probed_at is not None:
            self._on_round_trip(self._received_at - self._probed_at)
            self._probed_at = None
        if not self._up:
            self._up = True
            log.info("redis_restored")
            if self._on_restored is not None:
                self._on_restored()

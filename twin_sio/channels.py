"""One Redis as a bell: channels that are published to without waiting and listened to without trust.

Nothing here is durable. What was published may be lost whenever Redis is away; then `healthy` is false within two
probe intervals, and `on_restored` is called once messages flow again, so that the owner can look at the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import structlog
from hiredis import pack_command
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import RedisError

from twin_sio.clock import monotonic, new_id

log = structlog.get_logger("channels")

CONTROL = "twin:control"
_BACKLOG = 20_000
_TIMEOUT_S = 1.0
_SENTINELS = "redis+sentinel://"
FAILURES = (RedisError, OSError, TimeoutError)
Command = tuple[Any, ...]


def client(url: str, *, timeout_s: float | None = _TIMEOUT_S) -> Redis:
    """A Redis client whose every operation ends within `timeout_s`, without retries of its own."""
    return Redis.from_pool(pool(url, timeout_s=timeout_s))


def pool(url: str, *, timeout_s: float | None = _TIMEOUT_S) -> ConnectionPool:
    """What clients are made of, for `redis://`, `rediss://` (TLS), `unix://` and, to ask Sentinels for the master
    whenever a connection is made, `redis+sentinel://[user:password@]host:port,host:port/0?master=mymaster`."""
    times = {"socket_timeout": timeout_s, "socket_connect_timeout": _TIMEOUT_S, "retry_on_timeout": False}
    if not url.startswith(_SENTINELS):
        return ConnectionPool.from_url(url, **times)
    asked = urlsplit(url)
    login, _, places = asked.netloc.rpartition("@")
    user, _, password = login.partition(":")
    hosts = [(host, int(port or 26379)) for host, _, port in (one.partition(":") for one in places.split(","))]
    quick = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
    sentinel = Sentinel(hosts, sentinel_kwargs=quick)  # type: ignore[no-untyped-call]
    given = parse_qs(asked.query)
    return _BySentinels(  # type: ignore[no-untyped-call]
        given.get("master", ["mymaster"])[0],
        sentinel,
        db=int(asked.path.strip("/") or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
        **times,
    )


class _BySentinels(SentinelConnectionPool):
    """Closes the connections to the Sentinels, too: the library leaves them open."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        for one in self.sentinel_manager.sentinels:
            await one.aclose()


async def _end(*tasks: asyncio.Task[None]) -> None:
    """Cancel until they have ended: the Redis client loses a cancellation that comes while it connects."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


class Channels:
    """Publish and subscribe, over one connection each; both survive a Redis that hangs, dies or comes back empty."""

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[str, bytes], None] | None = None,
        on_restored: Callable[[], None] | None = None,
        probe_interval_s: float = 1.0,
    ) -> None:
        self.instance = new_id()
        self.heard = 0
        self.deaf = 0
        self.breaks = 0
        self.on_round_trip: Callable[[float], None] = lambda _: None
        self.redis = client(url)
        self._ears = client(url, timeout_s=None)
        self._mouth = client(url, timeout_s=None)
        self._line: Any = None
        self._stopping = False
        self._on_message = on_message
        self._on_restored = on_restored
        self._interval = probe_interval_s
        self._own = f"twin:instance:{self.instance}"
        self._wanted: dict[str, asyncio.Future[None]] = {}
        self._pubsub: Any = None
        self._queue: deque[Command] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._up = True
        self._heard_at = monotonic()
        self._probed_at: float | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ear_task: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """This instance hears what it publishes: its last probe came back within two intervals."""
        return self._up and (self._on_message is None or monotonic() - self._heard_at < 2.5 * self._interval)

    async def start(self) -> None:
        """Begin to publish and, where there is a listener, to listen. Does not wait for Redis."""
        self._tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._probe())]
        if self._on_message is not None:
            self._ear_task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """Send what is queued, if Redis takes it within a second, then close."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _TIMEOUT_S)
        self._stopping = True  # nothing more is said, so no connection is made for it
        line, self._line = self._line, None
        if line is not None:
            with contextlib.suppress(*FAILURES):
                await line.disconnect()  # what is written goes out before
        await _end(*self._tasks, *([self._ear_task] if self._ear_task else []))
        for redis in (self.redis, self._ears, self._mouth):
            with contextlib.suppress(*FAILURES):
                await redis.aclose()

    # -- out ---------------------------------------------------------------------------------------------------------

    def publish(self, channel: str, payload: bytes) -> None:
        """Send to everybody who listens, in the order of the calls; never waits, never raises."""
        self.command("PUBLISH", channel, payload)

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

    async def texts(self, key: str) -> list[str]:
        """A list as Redis remembers it; raises one of `FAILURES`."""
        found: list[bytes] = await self.redis.lrange(key, 0, -1)  # type: ignore[misc]
        return [item.decode() for item in found]

    async def fields(self, key: str) -> dict[str, str]:
        """A hash as Redis remembers it; raises one of `FAILURES`."""
        found: dict[bytes, bytes] = await self.redis.hgetall(key)  # type: ignore[misc]
        return {name.decode(): value.decode() for name, value in found.items()}

    async def _pump(self) -> None:
        """All that one turn of the loop asked for, in one write."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._queue = self._queue, deque()
            if batch:
                try:
                    async with asyncio.timeout(_TIMEOUT_S):
                        line = self._line or await self._speak_up()
                        await line.send_packed_command(b"".join(map(pack_command, batch)), check_health=False)
                except FAILURES:
                    self._line = None
                    self._break()
            if not self._queue:
                self._idle.set()

    async def _speak_up(self) -> Any:
        """A connection that answers nothing: reading an answer to each publish would cost more than the publish."""
        line = await self._mouth.connection_pool.get_connection()
        await line.send_command("CLIENT", "REPLY", "OFF", check_health=False)
        self._line = line
        task = asyncio.create_task(self._watch(line))
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        return line

    async def _watch(self, line: Any) -> None:
        """See that the connection has ended: what was written to it last is lost, and the log has to heal."""
        with contextlib.suppress(*FAILURES):
            while True:
                await line.read_response()
        if self._line is line:
            self._line = None
            self._break()

    def _break(self) -> None:
        if self._up:
            self.breaks += 1
            log.warning("redis_down")
        self._up = False
        self._queue.clear()

    # -- in ----------------------------------------------------------------------------------------------------------

    async def subscribe(self, channel: str, patience_s: float = _TIMEOUT_S) -> bool:
        """Listen to the channel; true once Redis has confirmed it. False: Redis is away, and the channel will be
        listened to as soon as it is back (followed by `on_restored`)."""
        confirmed = self._wanted.get(channel)
        if confirmed is None:
            confirmed = self._wanted[channel] = asyncio.get_running_loop().create_future()
            pubsub = self._pubsub
            if pubsub is not None:
                with contextlib.suppress(*FAILURES):  # the listener finds out by itself
                    await pubsub.subscribe(channel)
        if not self._up:
            return confirmed.done()
        try:
            await asyncio.wait_for(asyncio.shield(confirmed), patience_s)
        except TimeoutError:
            return False
        return True

    def unsubscribe(self, channel: str) -> None:
        """Listen no more; never waits."""
        if self._wanted.pop(channel, None) is not None and self._pubsub is not None:
            task = asyncio.create_task(self._leave(self._pubsub, channel))
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)

    async def _leave(self, pubsub: Any, channel: str) -> None:
        if channel in self._wanted:  # asked for again since, and what is said last counts
            return
        with contextlib.suppress(*FAILURES):
            await pubsub.unsubscribe(channel)

    async def _listen(self) -> None:
        delay = 0.05
        while True:
            pubsub = self._ears.pubsub()
            try:
                for name, future in self._wanted.items():
                    if future.done():
                        self._wanted[name] = asyncio.get_running_loop().create_future()
                asked = set(self._wanted)
                await pubsub.subscribe(self._own, CONTROL, *asked)
                self._pubsub = pubsub
                # Connecting takes as long as Redis hangs, and nobody else could say meanwhile what is wanted.
                if late := self._wanted.keys() - asked:
                    await pubsub.subscribe(*late)
                if left := asked - self._wanted.keys():
                    await pubsub.unsubscribe(*left)
                while True:
                    said = await pubsub.parse_response(block=True)
                    if said[0] != b"message":  # the library keeps books of subscriptions, and needs none of messages
                        await pubsub.handle_message(said)  # type: ignore[no-untyped-call]
                    self._take(*said)
                    delay = 0.05
            except FAILURES:
                log.warning("redis_listener_lost")
                self._up = False
            finally:
                self._pubsub = None
                with contextlib.suppress(*FAILURES):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, 1.0)

    def _take(self, kind: bytes, name: bytes, data: bytes) -> None:
        channel = name.decode()
        if kind == b"subscribe":
            future = self._wanted.get(channel)
            if future is not None and not future.done():
                future.set_result(None)
        elif kind == b"message":
            if channel == self._own:
                self._heard()
            elif self._on_message is not None:
                self.heard += 1
                self._on_message(channel, data)

    # -- health ------------------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Publish to oneself; deaf for two intervals means a new connection for the ears."""
        restarted_at = monotonic()
        while True:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    self._probed_at = monotonic()
                    await self.redis.publish(self._own, b"")
                if self._on_message is None:
                    self._heard()
            except FAILURES:
                self._break()
            # While Redis is away its return is looked for more often: until then clients elsewhere miss what happens.
            await asyncio.sleep(self._interval if self._up else self._interval / 4)
            deaf_for = monotonic() - max(self._heard_at, restarted_at)
            if self._ear_task is not None and deaf_for > 2 * self._interval:
                self.deaf += 1
                log.warning("redis_deaf")
                self._break()
                restarted_at = monotonic()
                await _end(self._ear_task)
                self._ear_task = asyncio.create_task(self._listen())

    def _heard(self) -> None:
        self._heard_at = monotonic()
        if self._probed_at is not None:
            self.on_round_trip(self._heard_at - self._probed_at)
            self._probed_at = None
        if not self._up:
            self._up = True
            log.info("redis_restored")
            if self._on_restored is not None:
                self._on_restored()

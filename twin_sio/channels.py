"""Redis as a bell: channels that are published to without waiting and listened to without trust.

Nothing here is durable. What was published may be lost whenever Redis is away; then `healthy` is false within two
probe intervals, and `on_restored` is called once messages flow again, so that the owner can look at the log.

`channels_over(url)` gives `Channels` over one Redis, or `ClusterChannels`: the same over each master of a cluster, a
channel and the keys of its name (`{channel}`) on the one that holds its slot. What is asked with an answer (`client`,
`pool`) has the hash tag `TAG`, and so one node for all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import structlog
from hiredis import pack_command
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from twin_sio.clock import monotonic, new_id
from twin_sio.config import ConfigError

log = structlog.get_logger("channels")

CONTROL = "twin:control"
TAG = "{twin:9216}"  # such that its slot is that of `arq:abort`, the one key of arq's that cannot be named otherwise
_BACKLOG = 20_000
_TIMEOUT_S = 1.0
_SENTINELS = "redis+sentinel://"
_CLUSTERS = ("redis+cluster://", "rediss+cluster://")
_PAUSE_S = 0.05
_ELSEWHERE = "Nobody answers here any more, or the slot is elsewhere"
FAILURES = (RedisError, OSError, TimeoutError)
Command = tuple[Any, ...]
Place = tuple[str, int]
Ranges = tuple[tuple[int, int, Place], ...]
"""The first and the last slot of each range, and the node that holds it; all slots, in order."""


def client(url: str, *, timeout_s: float | None = _TIMEOUT_S) -> Redis:
    """A Redis client whose every operation ends within `timeout_s`, without retries of its own."""
    return Redis.from_pool(pool(url, timeout_s=timeout_s))


def pool(url: str, *, timeout_s: float | None = _TIMEOUT_S) -> ConnectionPool:
    """What clients are made of, for `redis://`, `rediss://` (TLS), `unix://` and, to ask whenever a connection is made
    who the master is, `redis+sentinel://[user:password@]host:port,host:port/0?master=mymaster`; or who holds the slot
    of `TAG`, `redis+cluster://[user:password@]host:port,host:port` (`rediss+cluster://` with TLS)."""
    times = {"socket_timeout": timeout_s, "socket_connect_timeout": _TIMEOUT_S, "retry_on_timeout": False}
    if url.startswith(_CLUSTERS):
        return _ByCluster(_Nodes(url), **times)
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


def _slot(key: str) -> int:
    return key_slot(key.encode())


class _Nodes:
    """Who holds which slots of a cluster, as one of its nodes tells: of the URL's, or heard of since."""

    def __init__(self, url: str) -> None:
        asked = urlsplit(url)
        login, at, places = asked.netloc.rpartition("@")
        self._before = f"{asked.scheme.partition('+')[0]}://{login}{at}"
        self._after = f"?{asked.query}" if asked.query else ""
        try:
            found = [urlsplit(f"//{one}") for one in places.split(",")]
            self._places = [(one.hostname or "", one.port or 6379) for one in found]
        except ValueError:
            self._places = []
        if not all(host for host, _ in self._places or [("", 0)]):
            raise ConfigError("TWIN_REDIS_URL must name the cluster's nodes: redis+cluster://host:port,host:port")
        self._client: Redis | None = None
        self._asking = asyncio.Lock()

    def url(self, place: Place | None = None) -> str:
        """Of one node (where none is given: of any) as if it were alone."""
        host, port = place or self._places[0]
        return f"{self._before}{f'[{host}]' if ':' in host else host}:{port}{self._after}"

    async def ranges(self, first: Place | None = None, *, elsewhere: bool = False) -> Ranges:
        """What the first one tells that knows of all slots. Raises what the last one asked has raised, of `FAILURES`.

        That is whom the last question went to, for what one node knows only gets newer: unless another is to be asked
        `first`, or any other.
        """
        async with self._asking:
            if elsewhere:
                await self._turn_to(self._places[1:])
            elif first is not None and first != self._places[0]:
                await self._turn_to([first])
            failure: Exception = RedisError("Nobody was asked")
            for _ in self._places[:]:
                try:
                    found = tuple(sorted(self._range(one) for one in await self.ask("CLUSTER SLOTS")))
                except FAILURES as error:
                    failure = error
                else:
                    if sum(last - first + 1 for first, last, _ in found) == REDIS_CLUSTER_HASH_SLOTS:
                        self._places = list(dict.fromkeys([*self._places, *(place for *_, place in found)]))
                        return found
                    failure = ResponseError("Nobody holds some of the slots")
                await self._turn_to(self._places[1:])
            raise failure

    async def _turn_to(self, places: list[Place]) -> None:
        self._places = list(dict.fromkeys([*places, *self._places]))
        await self.aclose()

    def _range(self, told: Any) -> tuple[int, int, Place]:
        first, last, (host, port, *_), *_ = told
        return int(first), int(last), (host.decode() if host else self._places[0][0], int(port))

    async def ask(self, *words: Any) -> Any:
        """What the node that is asked at present answers; raises one of `FAILURES`."""
        if self._client is None:
            times = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
            self._client = Redis.from_pool(ConnectionPool.from_url(self.url(), **times))
        return await self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(*FAILURES):
                await client.aclose()


class _ByCluster(ConnectionPool):
    """Connections to whichever node holds the slot of `TAG` when they are made."""

    def __init__(self, nodes: _Nodes, **given: Any) -> None:
        options: dict[str, Any] = {**parse_url(nodes.url()), **given}
        for name in ("host", "port", "db"):
            options.pop(name, None)
        kind = _AtHolderTls if options.pop("connection_class", None) is SSLConnection else _AtHolder
        super().__init__(connection_class=kind, **options)
        self.connection_kwargs["holder"] = weakref.proxy(self)
        self._nodes = nodes

    async def place(self) -> Place:
        slot = _slot(TAG)
        return next(place for first, last, place in await self._nodes.ranges() if first <= slot <= last)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self._nodes.aclose()


class _AtHolder(Connection):
    """Is told where to connect to, and ends when the slot is elsewhere, or may be: the next one finds it there.

    Raises no `TimeoutError`: after one the library's pipelines do not give their connection back.
    """

    def __init__(self, *, holder: _ByCluster, **given: Any) -> None:
        super().__init__(**given)
        self._holder = holder

    async def connect(self) -> None:
        try:
            if not self.is_connected:
                self.host, self.port = await self._holder.place()
            await super().connect()  # type: ignore[no-untyped-call]
        except RedisTimeoutError:
            raise RedisConnectionError(_ELSEWHERE) from None

    async def read_response(self, *args: Any, **named: Any) -> Any:
        try:
            return await super().read_response(*args, **named)
        except RedisError as error:
            if isinstance(error, ResponseError) and not str(error).startswith("MOVED "):
                raise
            await self.disconnect()
            await self._holder.disconnect(inuse_connections=False)  # they lead to the same node
            raise RedisConnectionError(_ELSEWHERE) from None


class _AtHolderTls(_AtHolder, SSLConnection):
    pass


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
        self._ear: Any = None
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

    async def forget(self, *keys: str) -> int:
        """Delete keys, of one channel; how many there were. Raises one of `FAILURES`."""
        return int(await self.redis.delete(*keys))

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
        task = asyncio.create_task(self._watch(line))
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        await line.send_command("CLIENT", "REPLY", "OFF", check_health=False)
        self._line = line
        return line

    async def _watch(self, line: Any) -> None:
        """See that the connection has ended: what was written to it last is lost, and the log has to heal."""
        try:
            with contextlib.suppress(*FAILURES):
                while True:
                    await line.read_response()
            if self._line is line:
                self._line = None
                self._break()
        finally:
            await self._let_go(self._mouth, line)

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
            ear = self._ear
            if ear is not None:
                with contextlib.suppress(*FAILURES):  # the listener finds out by itself
                    await self._join(ear, channel)
        if not self._up:
            return confirmed.done()
        try:
            await asyncio.wait_for(asyncio.shield(confirmed), patience_s)
        except TimeoutError:
            return False
        return True

    def unsubscribe(self, channel: str) -> None:
        """Listen no more; never waits."""
        if self._wanted.pop(channel, None) is not None and self._ear is not None:
            task = asyncio.create_task(self._leave(self._ear, channel))
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)

    async def _leave(self, ear: Any, channel: str) -> None:
        if channel in self._wanted:  # asked for again since, and what is said last counts
            return
        with contextlib.suppress(*FAILURES):
            await self._say(ear, (self._UNSUBSCRIBE, channel))

    async def _join(self, ear: Any, *channels: str) -> None:
        await self._say(ear, (self._SUBSCRIBE, *channels))

    async def _say(self, ear: Any, *commands: Command) -> None:
        if ear.is_connected:  # otherwise the library would connect it, and that is the listener's
            await ear.send_packed_command(b"".join(map(pack_command, commands)), check_health=False)

    def _listened(self) -> Iterable[str]:
        """All there is to listen to; first what others say, so that who hears himself hears them, too."""
        return (CONTROL, *self._wanted, self._own)

    async def _listen(self) -> None:
        # Over a bare connection: the library's own listener keeps books of subscriptions, which know nothing of sharded
        # ones, nor of `_wanted`, and costs more for each message than all else that is done with it.
        delay = 0.05
        while True:
            ear = None
            try:
                for name, future in self._wanted.items():
                    if future.done():
                        self._wanted[name] = asyncio.get_running_loop().create_future()
                # Connecting takes as long as Redis hangs. What is wanted is read after it, and who wants more joins.
                self._ear = ear = await self._ears.connection_pool.get_connection()
                await self._join(ear, *self._listened())
                while True:
                    try:
                        said = await ear.read_response()
                    except ResponseError as error:
                        self._refused(error)
                    else:
                        self._take(*said)
                        delay = 0.05
            except FAILURES:
                log.warning("redis_listener_lost")
                self._up = False
            finally:
                self._ear = None
                if ear is not None:
                    await self._let_go(self._ears, ear)
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, 1.0)

    @staticmethod
    async def _let_go(owner: Redis, line: Any) -> None:
        """Close a connection and give it back: the pool would hold it for ever."""
        with contextlib.suppress(*FAILURES):
            await line.disconnect(nowait=True)
        await owner.connection_pool.release(line)

    def _refused(self, error: ResponseError) -> None:
        raise error

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
                    await self.redis.execute_command(self._PUBLISH, self._own, b"")  # type: ignore[no-untyped-call]
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


class _Shard(Channels):
    """The channels whose slots one master of a cluster holds. Begins `up`, or with a gap that `on_restored` ends."""

    _PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE = "SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"

    def __init__(
        self, place: Place, url: str, *, up: bool, on_dropped: Callable[[_Shard, str], None], **given: Any
    ) -> None:
        super().__init__(url, **given)
        self.place = place
        self._own = ""
        self._up = up
        self._on_dropped = on_dropped

    def holds_own(self, at: list[_Shard]) -> bool:
        """Whether the channel of its probe is in one of its slots."""
        return bool(self._own) and at[_slot(self._own)] is self

    async def probe_by(self, own: str) -> None:
        """Probe by this channel, which is in one of its slots."""
        self._own = own
        if self._ear is not None:
            with contextlib.suppress(*FAILURES):  # the listener finds out by itself
                await self._join(self._ear, own)

    def let_go(self, channel: str) -> None:
        """Want the channel no more; the node itself has ended, or will end, the subscription."""
        self._wanted.pop(channel, None)

    async def _join(self, ear: Any, *channels: str) -> None:
        await self._say(ear, *((self._SUBSCRIBE, channel) for channel in channels))  # each may have another slot

    def _listened(self) -> Iterable[str]:
        return (*self._wanted, self._own)

    def _refused(self, error: ResponseError) -> None:
        code, _, rest = str(error).partition(" ")
        if code != "MOVED":
            raise error
        slot = int(rest.split()[0])
        for channel, confirmed in list(self._wanted.items()):
            if not confirmed.done() and _slot(channel) == slot:
                self._drop(channel)

    def _take(self, kind: bytes, name: bytes, data: bytes) -> None:
        channel = name.decode()
        if kind != b"sunsubscribe":
            if channel in self._wanted or channel == self._own:
                super()._take(kind[1:], name, data)
        elif (confirmed := self._wanted.get(channel)) is not None and confirmed.done():
            self._drop(channel)  # nobody has asked for that: the slot is leaving

    def _drop(self, channel: str) -> None:
        del self._wanted[channel]
        self._on_dropped(self, channel)


class ClusterChannels:
    """What `Channels` promises, over the masters of a cluster; `command`s keep their order within a slot.

    Slots that go to another master are noticed within a probe interval, by a subscription that ends or by asking: an
    answer to each publish would cost more than the publish. What was said to them meanwhile is lost, so that is a gap,
    too: first this instance listens at the new place, then speaks there, then `on_restored` is called.
    """

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
        self.on_round_trip: Callable[[float], None] = lambda _: None
        self.redis = client(url)
        self._nodes = _Nodes(url)
        self._on_message = on_message
        self._on_restored = on_restored
        self._interval = probe_interval_s
        self._ranges: Ranges = ()
        self._shards: dict[Place, _Shard] = {}
        self._at: list[_Shard] = []  # by slot
        self._wanted: dict[str, _Shard] = {}
        self._lost: set[str] = set()
        self._told_by: Place | None = None
        self._wake = asyncio.Event()
        self._was_deaf = self._was_broken = 0
        self._follower: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def healthy(self) -> bool:
        """This instance hears what it publishes, by every master."""
        return not self._lost and bool(self._shards) and all(shard.healthy for shard in self._shards.values())

    @property
    def deaf(self) -> int:
        return self._was_deaf + sum(shard.deaf for shard in self._shards.values())

    @property
    def breaks(self) -> int:
        return self._was_broken + sum(shard.breaks for shard in self._shards.values())

    async def start(self) -> None:
        """Begin to publish and listen. Raises `ConfigError` where no node answers, or none that can do it."""
        try:
            ranges = await self._nodes.ranges()
            can = (await self._nodes.ask("COMMAND INFO", "SPUBLISH"))[0] is not None
        except FAILURES as error:
            await self.stop()
            if isinstance(error, ResponseError):
                raise ConfigError("TWIN_REDIS_URL names no Redis Cluster, or one whose slots nobody holds.") from None
            raise ConfigError("TWIN_REDIS_URL: no node of the Redis Cluster can be reached.") from None
        if not can:
            await self.stop()
            raise ConfigError("TWIN_REDIS_URL: Redis Cluster has sharded channels from Redis 7 on; this one is older.")
        await self._move(ranges, up=True)
        if self._on_message is not None:
            await self.subscribe(CONTROL, 0)
        self._follower = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Send what is queued, if Redis takes it within a second, then close."""
        await _end(*([self._follower] if self._follower else []))
        await asyncio.gather(*self._ending, *(shard.stop() for shard in self._shards.values()))
        await self._nodes.aclose()
        with contextlib.suppress(*FAILURES):
            await self.redis.aclose()

    # -- what `Channels` does, at the right place --------------------------------------------------------------------

    def _of(self, key: str) -> _Shard:
        return self._at[_slot(key)]

    def publish(self, channel: str, payload: bytes) -> None:
        """Send to everybody who listens, in the order of the calls; never waits, never raises."""
        self._of(channel).command("SPUBLISH", channel, payload)

    def command(self, name: str, key: str, *words: Any) -> None:
        """Any command on one key whose answer nobody needs, in one order with the publishes to its slot."""
        self._of(key).command(name, key, *words)

    async def texts(self, key: str) -> list[str]:
        """A list as Redis remembers it; raises one of `FAILURES`."""
        return await self._of(key).texts(key)

    async def fields(self, key: str) -> dict[str, str]:
        """A hash as Redis remembers it; raises one of `FAILURES`."""
        return await self._of(key).fields(key)

    async def forget(self, *keys: str) -> int:
        """Delete keys, of one channel; how many there were. Raises one of `FAILURES`."""
        return await self._of(keys[0]).forget(*keys)

    async def subscribe(self, channel: str, patience_s: float = _TIMEOUT_S) -> bool:
        """Listen to the channel; true once Redis has confirmed it. False: its master is away, and the channel will be
        listened to as soon as one is back (followed by `on_restored`)."""
        shard = self._wanted.get(channel)
        if shard is None:
            shard = self._wanted[channel] = self._of(channel)
        return await shard.subscribe(channel, patience_s)

    def unsubscribe(self, channel: str) -> None:
        """Listen no more; never waits."""
        shard = self._wanted.pop(channel, None)
        self._lost.discard(channel)
        if shard is not None:
            shard.unsubscribe(channel)

    # -- where the slots are -----------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Go where the slots go."""
        while True:
            await asyncio.sleep(_PAUSE_S)  # whatever wakes it, and however often
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._interval if self.healthy else self._interval / 4)
            self._wake.clear()
            told_by, self._told_by = self._told_by, None
            try:
                # Who tells of a change knows of it; while something is away a node may be cut off from the rest.
                ranges = await self._nodes.ranges(told_by, elsewhere=told_by is None and not self.healthy)
            except FAILURES:
                continue
            if ranges != self._ranges:
                await self._move(ranges, up=False)
            elif self._lost:
                await self._settle(self._lost, self._at)
                self._restored()

    async def _move(self, ranges: Ranges, *, up: bool) -> None:
        shards: dict[Place, _Shard] = {}
        for *_, place in ranges:
            shards[place] = shards.get(place) or self._shards.get(place) or self._shard(place, up=up)
        at = [shards[place] for first, last, place in ranges for _ in range(first, last + 1)]
        gone = [shard for place, shard in self._shards.items() if place not in shards]
        fresh = [shard for place, shard in shards.items() if place not in self._shards]
        self._shards = {**self._shards, **shards}
        for shard in shards.values():
            if not shard.holds_own(at):
                await shard.probe_by(self._own(shard, at))
        self._lost |= {channel for channel, shard in self._wanted.items() if at[_slot(channel)] is not shard}
        await self._settle(self._lost, at)
        for shard in fresh:
            await shard.start()
        # Nothing waits from here to `_restored`: whoever speaks there has said before what was missed there.
        self._ranges, self._at, self._shards = ranges, at, shards
        self._lost |= {channel for channel, shard in self._wanted.items() if at[_slot(channel)] is not shard}
        for shard in gone:
            self._was_deaf += shard.deaf
            self._was_broken += shard.breaks
            ending = asyncio.create_task(shard.stop())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        if not up:
            log.warning("redis_slots_moved", masters=len(shards))
            self._restored()
            with contextlib.suppress(*FAILURES):  # one may lead to whoever hangs
                await self.redis.connection_pool.disconnect(inuse_connections=False)

    async def _settle(self, channels: Iterable[str], at: list[_Shard]) -> None:
        """Listen to these where `at` says."""
        asked = list(channels)
        self._lost -= set(asked)
        for channel in asked:
            self._wanted[channel].let_go(channel)
            self._wanted[channel] = at[_slot(channel)]
        confirmed = await asyncio.gather(*(self._wanted[channel].subscribe(channel) for channel in asked))
        for channel, is_heard in zip(asked, confirmed, strict=True):
            if not is_heard and channel in self._wanted:
                self._wanted[channel]._break()

    def _shard(self, place: Place, *, up: bool) -> _Shard:
        shard = _Shard(
            place,
            self._nodes.url(place),
            up=up,
            on_dropped=self._dropped,
            on_message=self._hear if self._on_message is not None else None,
            on_restored=self._restored,
            probe_interval_s=self._interval,
        )
        shard.on_round_trip = lambda seconds: self.on_round_trip(seconds)
        return shard

    def _own(self, shard: _Shard, at: list[_Shard]) -> str:
        names = (f"twin:instance:{self.instance}:{number}" for number in itertools.count())
        return next(name for name in names if at[_slot(name)] is shard)

    def _dropped(self, shard: _Shard, channel: str) -> None:
        if self._wanted.get(channel) is shard:
            self._lost.add(channel)
            self._told_by = shard.place
            self._wake.set()

    def _hear(self, channel: str, payload: bytes) -> None:
        self.heard += 1
        if self._on_message is not None:
            self._on_message(channel, payload)

    def _restored(self) -> None:
        if self._on_restored is not None:
            self._on_restored()


def channels_over(url: str, **given: Any) -> Channels | ClusterChannels:
    """The channels of whatever `url` names; `given` as each of them takes it."""
    return ClusterChannels(url, **given) if url.startswith(_CLUSTERS) else Channels(url, **given)

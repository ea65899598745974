"""Connections to Redis by URL: one node, whoever the Sentinels say is the master, or the nodes of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from twin_sio.config import ConfigError

HASH_TAG = (
    "{twin:9216}"  # such that its slot is that of `arq:abort`, the one key of arq's that cannot be named otherwise
)
TIMEOUT_S = 1.0
CLUSTERS = ("redis+cluster://", "rediss+cluster://")
_SENTINELS = "redis+sentinel://"
_MOVED_MESSAGE = "Nobody answers here any more, or the slot is elsewhere"
REDIS_ERRORS = (RedisError, OSError, TimeoutError)
NodeAddress = tuple[str, int]
SlotMap = tuple[tuple[int, int, NodeAddress], ...]
"""The first and the last slot of each range, and the node that holds it; all slots, in order."""


def client(url: str, *, timeout_s: float | None = TIMEOUT_S) -> Redis:
    """A Redis client whose every operation ends within `timeout_s`, without retries of its own."""
    return Redis.from_pool(pool(url, timeout_s=timeout_s))


def pool(url: str, *, timeout_s: float | None = TIMEOUT_S) -> ConnectionPool:
    """What clients are made of, for `redis://`, `rediss://` (TLS), `unix://` and, to ask whenever a connection is made
    who the master is, `redis+sentinel://[user:password@]host:port,host:port/0?master=mymaster`; or who holds the slot
    of `TAG`, `redis+cluster://[user:password@]host:port,host:port` (`rediss+cluster://` with TLS)."""
    times = {"socket_timeout": timeout_s, "socket_connect_timeout": TIMEOUT_S, "retry_on_timeout": False}
    if url.startswith(CLUSTERS):
        return _SlotOwnerPool(ClusterTopology(url), **times)
    if not url.startswith(_SENTINELS):
        return ConnectionPool.from_url(url, **times)
    asked = urlsplit(url)
    login, _, places = asked.netloc.rpartition("@")
    user, _, password = login.partition(":")
    hosts = [(host, int(port or 26379)) for host, _, port in (one.partition(":") for one in places.split(","))]
    quick = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
    sentinel = Sentinel(hosts, sentinel_kwargs=quick)  # type: ignore[no-untyped-call]
    given = parse_qs(asked.query)
    return _SentinelPool(  # type: ignore[no-untyped-call]
        given.get("master", ["mymaster"])[0],
        sentinel,
        db=int(asked.path.strip("/") or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
        **times,
    )


class _SentinelPool(SentinelConnectionPool):
    """Closes the connections to the Sentinels, too: the library leaves them open."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        for one in self.sentinel_manager.sentinels:
            await one.aclose()


def slot_of(key: str) -> int:
    """The slot of a cluster that a key, or a sharded channel, is in."""
    return key_slot(key.encode())


class ClusterTopology:
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

    def url(self, place: NodeAddress | None = None) -> str:
        """Of one node (where none is given: of any) as if it were alone."""
        host, port = place or self._places[0]
        return f"{self._before}{f'[{host}]' if ':' in host else host}:{port}{self._after}"

    async def ranges(self, first: NodeAddress | None = None, *, elsewhere: bool = False) -> SlotMap:
        """What the first one tells that knows of all slots. Raises what the last one asked has raised, of `FAILURES`.

        That is whom the last question went to, for what one node knows only gets newer: unless another is to be asked
        `first`, or any other.
        """
        async with self._asking:
            if elsewhere:
                await self._prefer(self._places[1:])
            elif first is not None and first != self._places[0]:
                await self._prefer([first])
            failure: Exception = RedisError("Nobody was asked")
            for _ in self._places[:]:
                try:
                    found = tuple(sorted(self._range(one) for one in await self.ask("CLUSTER SLOTS")))
                except REDIS_ERRORS as error:
                    failure = error
                else:
                    if sum(last - first + 1 for first, last, _ in found) == REDIS_CLUSTER_HASH_SLOTS:
                        self._places = list(dict.fromkeys([*self._places, *(place for *_, place in found)]))
                        return found
                    failure = ResponseError("Nobody holds some of the slots")
                await self._prefer(self._places[1:])
            raise failure

    async def _prefer(self, places: list[NodeAddress]) -> None:
        self._places = list(dict.fromkeys([*places, *self._places]))
        await self.aclose()

    def _range(self, told: Any) -> tuple[int, int, NodeAddress]:
        first, last, (host, port, *_), *_ = told
        return int(first), int(last), (host.decode() if host else self._places[0][0], int(port))

    async def ask(self, *words: Any) -> Any:
        """What the node that is asked at present answers; raises one of `FAILURES`."""
        if self._client is None:
            self._client = client(self.url())
        return await self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        asked, self._client = self._client, None
        if asked is not None:
            with contextlib.suppress(*REDIS_ERRORS):
                await asked.aclose()


class _SlotOwnerPool(ConnectionPool):
    """Connections to whichever node holds the slot of `TAG` when they are made."""

    def __init__(self, nodes: ClusterTopology, **given: Any) -> None:
        options: dict[str, Any] = {**parse_url(nodes.url()), **given}
        for name in ("host", "port", "db"):
            options.pop(name, None)
        kind = _AtHolderTls if options.pop("connection_class", None) is SSLConnection else _SlotOwnerConnection
        super().__init__(connection_class=kind, **options)
        self.connection_kwargs["holder"] = weakref.proxy(self)
        self._nodes = nodes

    async def place(self) -> NodeAddress:
        slot = slot_of(HASH_TAG)
        return next(place for first, last, place in await self._nodes.ranges() if first <= slot <= last)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self._nodes.aclose()


class _SlotOwnerConnection(Connection):
    """Is told where to connect to, and ends when the slot is elsewhere, or may be: the next one finds it there.

    Raises no `TimeoutError`: after one the library's pipelines do not give their connection back.
    """

    def __init__(self, *, holder: _SlotOwnerPool, **given: Any) -> None:
        super().__init__(**given)
        self._holder = holder

    async def connect(self) -> None:
        try:
            if not self.is_connected:
                self.host, self.port = await self._holder.place()
            await super().connect()  # type: ignore[no-untyped-call]
        except RedisTimeoutError:
            raise RedisConnectionError(_MOVED_MESSAGE) from None

    async def read_response(self, *args: Any, **named: Any) -> Any:
        try:
            return await super().read_response(*args, **named)
        except RedisError as error:
            if isinstance(error, ResponseError) and not str(error).startswith("MOVED "):
                raise
            await self.disconnect()
            await self._holder.disconnect(inuse_connections=False)  # they lead to the same node
            raise RedisConnectionError(_MOVED_MESSAGE) from None


class _AtHolderTls(_SlotOwnerConnection, SSLConnection):
    pass

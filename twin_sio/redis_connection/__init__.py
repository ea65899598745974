"""Connections to Redis by URL: to one node, to the master that Sentinels name, or to the nodes of a cluster.

All that knows redis-py's pools and connections, beside `delivery.pubsub`. May import `config` and what is below it.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from twin_sio.config import ConfigError

HASH_TAG = "{twin:9216}"
"""Begins every key that is no user's channel: in a cluster they are all in one slot, that of `arq:abort`, the one key
of arq whose name cannot be set."""
TIMEOUT_S = 1.0
CLUSTERS = ("redis+cluster://", "rediss+cluster://")
_SENTINELS = ("redis+sentinel://", "rediss+sentinel://")
_CLOSED_MESSAGE = "The connection was closed."
_MOVED_MESSAGE = "The node does not answer, or no longer has the slot"
REDIS_ERRORS = (RedisError, OSError, TimeoutError)
NodeAddress = tuple[str, int]
SlotMap = tuple[tuple[int, int, NodeAddress], ...]
"""The first and the last slot of each range, and its master; all slots, in order."""


def client(url: str, *, timeout_s: float | None = TIMEOUT_S) -> Redis:
    """A Redis client whose every operation ends within `timeout_s`, without retries of its own."""
    return Redis.from_pool(pool(url, timeout_s=timeout_s))


def pool(url: str, *, timeout_s: float | None = TIMEOUT_S) -> ConnectionPool:
    """A connection pool for `redis://`, `rediss://` (TLS) and `unix://`. Raises `ValueError` for an option that is none
    or has no such value.

    `redis+sentinel://[user:password@]host:port,host:port/0?master=mymaster`: each new connection asks a Sentinel for
    the master; `sentinel_password` (and `sentinel_username`) in the query are for the Sentinels themselves, with
    `rediss+sentinel://` all of them speak TLS. `redis+cluster://[user:password@]host:port,host:port`
    (`rediss+cluster://` with TLS): each new connection goes to the master that has the slot of `HASH_TAG`."""
    try:
        made = _made(url, timeout_s)
        made.connection_kwargs["decode_responses"] = False  # no URL changes what replies are
        # The library reads the options of the query when it connects: tried here, a wrong one stops the start.
        made.connection_class(**made.connection_kwargs)
    except (TypeError, ValueError, RedisError):
        raise ValueError("the query holds an option that is none, or a value that none has") from None
    return made


def _made(url: str, timeout_s: float | None) -> ConnectionPool:
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": TIMEOUT_S, "retry_on_timeout": False}
    if url.startswith(CLUSTERS):
        return _SlotOwnerPool(ClusterTopology(url), **timeouts)
    if not url.startswith(_SENTINELS):
        made = ConnectionPool.from_url(url, **timeouts)
        made.connection_class = _CHECKED[made.connection_class]
        return made
    asked = urlsplit(url)
    login, _, places = asked.netloc.rpartition("@")
    user, _, password = login.partition(":")
    found = [urlsplit(f"//{address}") for address in places.split(",")]
    hosts = [(address.hostname or "", address.port or 26379) for address in found]
    # Those of ours are taken out, the rest is the library's.
    given = {name: values[0] for name, values in parse_qs(asked.query).items()}
    master = given.pop("master", "mymaster")
    of_sentinels = {name: given.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    scheme = "rediss" if asked.scheme.startswith("rediss") else "redis"
    # The options of the query, such as `ssl_ca_certs`, as the library reads them.
    options: dict[str, Any] = dict(parse_url(f"{scheme}://master?{urlencode(given)}"))
    tls = options.pop("connection_class", None) is SSLConnection
    options.pop("host", None)
    tls_options = (
        {"ssl": True, **{name: one for name, one in options.items() if name.startswith("ssl_")}} if tls else {}
    )
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        hosts,
        sentinel_kwargs={
            "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": TIMEOUT_S,
            **of_sentinels,
            **tls_options,
        },
    )
    return _SentinelPool(  # type: ignore[no-untyped-call]
        master,
        sentinel,
        **{
            **options,
            "db": int(asked.path.strip("/") or 0),
            "username": unquote(user) or None,
            "password": unquote(password) or None,
            "connection_class": _CHECKED[SentinelManagedSSLConnection if tls else SentinelManagedConnection],
            **timeouts,
        },
    )


class _CheckedAtOnce(AbstractConnection):
    """Knows at once whether it is still good for a command.

    The library asks before each command, by a read that the next turn of the loop cancels, and holds the pool's lock
    meanwhile: beside a busy loop the commands of all users stood in one line, some hundred a second.
    """

    async def can_read_destructive(self) -> bool:
        reader = self._reader
        if reader is None or reader.at_eof() or reader.exception() is not None:
            raise RedisConnectionError(_CLOSED_MESSAGE)
        return bool(reader._buffer)  # type: ignore[attr-defined]  # no reply is there before its command


class _PlainConnection(_CheckedAtOnce, Connection):
    pass


class _TlsConnection(_CheckedAtOnce, SSLConnection):
    pass


class _UnixConnection(_CheckedAtOnce, UnixDomainSocketConnection):
    pass


class _ManagedConnection(_CheckedAtOnce, SentinelManagedConnection):
    pass


class _ManagedTlsConnection(_CheckedAtOnce, SentinelManagedSSLConnection):
    pass


_CHECKED: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _PlainConnection,
    SSLConnection: _TlsConnection,
    UnixDomainSocketConnection: _UnixConnection,
    SentinelManagedConnection: _ManagedConnection,
    SentinelManagedSSLConnection: _ManagedTlsConnection,
}
"""The kinds of the library's connections, as they are used here."""


class _SentinelPool(SentinelConnectionPool):
    """Also closes the connections to the Sentinels, which the library leaves open."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()


def slot_of(key: str) -> int:
    """The slot of a key, or of a sharded channel, in a cluster."""
    return key_slot(key.encode())


class ClusterTopology:
    """The slot map of a cluster, as one of its nodes reports it: a node of the URL, or one that was reported since."""

    def __init__(self, url: str) -> None:
        asked = urlsplit(url)
        login, at, places = asked.netloc.rpartition("@")
        # A node's URL, before and after its address.
        self._before = f"{asked.scheme.partition('+')[0]}://{login}{at}"
        self._after = f"?{asked.query}" if asked.query else ""
        try:
            found = [urlsplit(f"//{address}") for address in places.split(",")]
            # The known nodes; the first is asked next.
            self._places = [(address.hostname or "", address.port or 6379) for address in found]
        except ValueError:
            self._places = []
        if not all(host for host, _ in self._places or [("", 0)]):
            raise ConfigError("TWIN_REDIS_URL must name the cluster's nodes: redis+cluster://host:port,host:port")
        self._client: Redis | None = None  # to the first of the nodes
        self._asking = asyncio.Lock()  # one question at a time, so that its client is not closed by another

    def url(self, place: NodeAddress | None = None) -> str:
        """The URL of this node, or of any, as a single Redis."""
        host, port = place or self._places[0]
        return f"{self._before}{f'[{host}]' if ':' in host else host}:{port}{self._after}"

    async def ranges(self, first: NodeAddress | None = None, *, elsewhere: bool = False) -> SlotMap:
        """The slot map, from the first node that reports full coverage; raises the last node's error, one of
        `REDIS_ERRORS`, if none does.

        Starts with the node asked last time, because a node's view only moves forward; `first` names another,
        `elsewhere` skips that one.
        """
        async with self._asking:
            if elsewhere:
                await self._prefer(self._places[1:])
            elif first is not None and first != self._places[0]:
                await self._prefer([first])
            failure: Exception = RedisError("No node was asked")
            # Each node that is known once: the list changes its order meanwhile.
            for _ in self._places[:]:
                try:
                    found = tuple(sorted(self._range(entry) for entry in await self.ask("CLUSTER SLOTS")))
                except REDIS_ERRORS as error:
                    failure = error
                else:
                    # A node that is being left out, or has just come, may know only a part.
                    if sum(last - first + 1 for first, last, _ in found) == REDIS_CLUSTER_HASH_SLOTS:
                        self._places = list(dict.fromkeys([*self._places, *(place for *_, place in found)]))
                        return found
                    failure = ResponseError("Some slots have no master")
                await self._prefer(self._places[1:])
            raise failure

    async def _prefer(self, places: list[NodeAddress]) -> None:
        self._places = list(dict.fromkeys([*places, *self._places]))
        await self.aclose()

    def _range(self, entry: Any) -> tuple[int, int, NodeAddress]:
        first, last, (host, port, *_), *_ = entry
        return int(first), int(last), (host.decode() if host else self._places[0][0], int(port))

    async def ask(self, *words: Any) -> Any:
        """The reply of the node that is asked at present; raises one of `REDIS_ERRORS`."""
        if self._client is None:
            self._client = client(self.url())
        return await self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        asked, self._client = self._client, None
        if asked is not None:
            with contextlib.suppress(*REDIS_ERRORS):
                await asked.aclose()


class _SlotOwnerPool(ConnectionPool):
    """Connections to the master that has the slot of `HASH_TAG` when they are opened."""

    def __init__(self, nodes: ClusterTopology, **given: Any) -> None:
        options: dict[str, Any] = {**parse_url(nodes.url()), **given}
        for name in ("host", "port", "db"):
            options.pop(name, None)
        kind = (
            _SlotOwnerTlsConnection if options.pop("connection_class", None) is SSLConnection else _SlotOwnerConnection
        )
        super().__init__(connection_class=kind, **options)
        self.connection_kwargs["owner"] = weakref.proxy(self)
        self._nodes = nodes

    async def place(self) -> NodeAddress:
        slot = slot_of(HASH_TAG)
        return next(place for first, last, place in await self._nodes.ranges() if first <= slot <= last)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self._nodes.aclose()


class _SlotOwnerConnection(_PlainConnection):
    """Asks its pool for the address, and closes itself when the slot has moved, or may have: the next one finds it.

    Raises no `TimeoutError`: after one, the library's pipelines do not return their connection.
    """

    def __init__(self, *, owner: _SlotOwnerPool, **given: Any) -> None:
        super().__init__(**given)
        self._owner = owner

    async def connect(self) -> None:
        try:
            if not self.is_connected:
                self.host, self.port = await self._owner.place()
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
            await self._owner.disconnect(inuse_connections=False)  # they lead to the same node
            raise RedisConnectionError(_MOVED_MESSAGE) from None


class _SlotOwnerTlsConnection(_SlotOwnerConnection, SSLConnection):
    pass

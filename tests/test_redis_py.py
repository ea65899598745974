"""redis-py and hiredis: what is used of them beyond their documentation is still there, as it was."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

import pytest
from hiredis import pack_command
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tests.waiting import eventually
from twin_sio.redis_connection import client, pool
from twin_sio.runtime.dev_engines.engines import RedisServer


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        # `delivery.pubsub` reads and writes on bare connections
        (ConnectionPool.get_connection, ["self", "command_name", "keys", "options"]),
        (ConnectionPool.release, ["self", "connection"]),
        (AbstractConnection.send_packed_command, ["self", "command", "check_health"]),
        (AbstractConnection.send_command, ["self", "args", "kwargs"]),
        (
            AbstractConnection.read_response,
            ["self", "disable_decoding", "timeout", "disconnect_on_error", "push_request"],
        ),
        (AbstractConnection.disconnect, ["self", "nowait"]),
        # `redis_connection` overrides these
        (AbstractConnection.connect, ["self"]),
        (AbstractConnection.can_read_destructive, ["self"]),
        (ConnectionPool.disconnect, ["self", "inuse_connections"]),
        (SentinelConnectionPool.disconnect, ["self", "inuse_connections"]),
        (SentinelConnectionPool.__init__, ["self", "service_name", "sentinel_manager", "kwargs"]),
        (parse_url, ["url"]),
        (key_slot, ["key", "bucket"]),
    ],
)
def test_private_methods_of_redis_py_are_as_they_were(method: Callable[..., object], parameters: list[str]) -> None:
    assert list(inspect.signature(method).parameters) == parameters


async def test_private_attributes_of_redis_py_are_as_they_were() -> None:
    plain: Redis = client("redis://127.0.0.1:1")
    assert isinstance(plain.connection_pool, ConnectionPool)
    assert plain.connection_pool.connection_kwargs["host"] == "127.0.0.1"
    connection = plain.connection_pool.make_connection()
    assert isinstance(connection, Connection)
    assert (connection.host, connection.port, connection.is_connected) == ("127.0.0.1", 1, False)
    assert connection._reader is None  # before it is connected; an `asyncio.StreamReader` then
    assert not asyncio.StreamReader()._buffer  # type: ignore[attr-defined]
    await plain.aclose()
    sentinels = pool("redis+sentinel://127.0.0.1:1/0")
    assert isinstance(sentinels, SentinelConnectionPool)
    assert isinstance(sentinels.sentinel_manager, Sentinel)
    assert len(sentinels.sentinel_manager.sentinels) == 1
    assert parse_url("rediss://h:1/0")["connection_class"] is SSLConnection
    assert REDIS_CLUSTER_HASH_SLOTS == 16384


async def test_a_command_gets_its_connection_without_waiting(redis_server: RedisServer) -> None:
    """An open one is there at once; one that Redis has closed is opened again."""
    redis = client(redis_server.url)
    await redis.ping()
    taken = redis.connection_pool.get_connection()
    with pytest.raises(StopIteration) as ended:
        taken.send(None)
    connection = ended.value.value
    await redis.connection_pool.release(connection)
    await redis.client_kill_filter(_id=await redis.client_id(), skipme=False)
    await eventually(connection._reader.at_eof)
    assert await redis.ping()
    await redis.aclose()


def test_hiredis_packs_commands_of_text_bytes_and_numbers() -> None:
    assert pack_command(("PUBLISH", b"a", 1)) == b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$1\r\n1\r\n"

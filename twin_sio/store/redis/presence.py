"""Presence in Redis: which sessions are live. With Redis away no session is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
from redis.asyncio import Redis

from twin_sio.clock import Clock, iso
from twin_sio.domain import Caller, Device
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS
from twin_sio.store.ports import LiveSession

# KEYS[1]: the user's hash. ARGV: the session, its value, the limit, the oldest time that counts, the hash's expiry. A
# session that is live keeps its value: its earlier connection is replaced only once the new one has joined.
_RESERVE = """
local others, live = 0, false
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  if cjson.decode(found[i + 1])[2] >= ARGV[4] then
    if found[i] == ARGV[1] then live = true else others = others + 1 end
  else
    redis.call('HDEL', KEYS[1], found[i])
  end
end
if others >= tonumber(ARGV[3]) then return 0 end
if not live then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
"""


class RedisPresence:
    """`Presence`: a hash for each user, a field for each session. A field that was not refreshed in `ttl_s` is gone."""

    def __init__(self, redis: Redis, clock: Clock, ttl_s: int, healthy: Callable[[], bool]) -> None:
        self._redis = redis
        self._healthy = healthy
        self._clock = clock
        self._ttl_s = ttl_s  # three times the silence after which a connection is closed

    async def seen(self, caller: Caller) -> None:
        await self._refresh(caller, and_list=False)

    async def reserve(self, caller: Caller, most: int) -> bool:
        if not self._healthy():
            return True
        # ISO times of one zone and one precision sort as text: the script compares them so.
        oldest = iso(self._clock() - timedelta(seconds=self._ttl_s))
        arguments: Any = [caller.session_id, self._value(caller), most, oldest, self._ttl_s]
        try:
            return bool(await self._redis.eval(_RESERVE, 1, _key(caller.user_id), *arguments))  # type: ignore[misc]
        except REDIS_ERRORS:
            return True

    async def joined(self, caller: Caller) -> Sequence[LiveSession]:
        return self._live(await self._refresh(caller, and_list=True))

    async def _refresh(self, caller: Caller, *, and_list: bool) -> Mapping[bytes, bytes]:
        if not self._healthy():
            return {}
        value = self._value(caller)
        key = _key(caller.user_id)
        pipe = self._redis.pipeline(transaction=True)  # so that no key is without its expiry
        pipe.hset(key, caller.session_id, value)  # type: ignore[arg-type]
        pipe.expire(key, self._ttl_s)
        if and_list:
            pipe.hgetall(key)
        try:
            answers = await pipe.execute()
        except REDIS_ERRORS:
            return {}
        return answers[-1] if and_list else {}

    def _value(self, caller: Caller) -> bytes:
        return orjson.dumps([caller.connection_id, iso(self._clock()), caller.device.as_dict()])

    async def gone(self, caller: Caller) -> None:
        if not self._healthy():
            return
        try:
            found = await self._redis.hget(_key(caller.user_id), caller.session_id)  # type: ignore[misc]
            # A newer connection of the same session may have taken the field: then it is not this one's to remove.
            if found is not None and orjson.loads(found)[0] == caller.connection_id:
                await self._redis.hdel(_key(caller.user_id), caller.session_id)  # type: ignore[misc]
        except REDIS_ERRORS:
            return

    async def erase(self, user_id: str) -> int:
        try:
            return int(await self._redis.delete(_key(user_id)))
        except REDIS_ERRORS:
            return 0

    async def sessions(self, user_id: str) -> Sequence[LiveSession]:
        if not self._healthy():
            return []
        try:
            found = await self._redis.hgetall(_key(user_id))  # type: ignore[misc]
        except REDIS_ERRORS:
            return []
        return self._live(found)

    def _live(self, found: Mapping[bytes, bytes]) -> Sequence[LiveSession]:
        oldest = self._clock() - timedelta(seconds=self._ttl_s)
        # Redis removes whole hashes only: a field whose session has died stays until then.
        live = [_session(name, value) for name, value in found.items()]
        return sorted((one for one in live if one.at >= oldest), key=lambda one: one.session_id)


def _key(user_id: str) -> str:
    return f"{HASH_TAG}:presence:{user_id}"


def _session(name: bytes, value: bytes) -> LiveSession:
    connection_id, at, device = orjson.loads(value)
    return LiveSession(name.decode(), connection_id, Device(**device), datetime.fromisoformat(at))

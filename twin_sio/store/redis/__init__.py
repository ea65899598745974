"""Presence and tickets in Redis: what may be lost. With Redis away nobody is known there."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from redis.asyncio import Redis

from twin_sio.clock import Clock, iso
from twin_sio.domain import Caller, Device, Identity
from twin_sio.errors import StorageUnavailable
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS
from twin_sio.store.ports import TICKET_S, LiveSession

_TICKET_MAX = 128
# KEYS[1]: the user's hash. ARGV: the session, its value, the most, the oldest time that counts, the seconds to keep it.
# A session that is live already keeps its value: its earlier connection is replaced only once the new one is in.
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
    """A hash per user, a field per session; a field that was not refreshed in `ttl_s` counts as gone."""

    def __init__(self, redis: Redis, clock: Clock, ttl_s: int, healthy: Callable[[], bool]) -> None:
        self._redis = redis
        self._healthy = healthy
        self._clock = clock
        self._ttl_s = ttl_s

    async def seen(self, caller: Caller) -> None:
        await self._refresh(caller, and_list=False)

    async def reserve(self, caller: Caller, most: int) -> bool:
        if not self._healthy():
            return True
        oldest = iso(self._clock() - timedelta(seconds=self._ttl_s))
        told: Any = [caller.session_id, self._value(caller), most, oldest, self._ttl_s]
        try:
            return bool(await self._redis.eval(_RESERVE, 1, _key(caller.user_id), *told))  # type: ignore[misc]
        except REDIS_ERRORS:
            return True

    async def joined(self, caller: Caller) -> Sequence[LiveSession]:
        return self._live(await self._refresh(caller, and_list=True))

    async def _refresh(self, caller: Caller, *, and_list: bool) -> Mapping[bytes, bytes]:
        if not self._healthy():
            return {}
        value = self._value(caller)
        key = _key(caller.user_id)
        pipe = self._redis.pipeline(transaction=True)  # so that no key is there without its end
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
        live = [_session(name, value) for name, value in found.items()]
        return sorted((one for one in live if one.at >= oldest), key=lambda one: one.session_id)


class RedisTickets:
    """A key per ticket, named by its hash, so that whoever reads Redis cannot come in with it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def issue(self, identity: Identity) -> str:
        ticket = secrets.token_urlsafe(32)
        try:
            await self._redis.set(_ticket(ticket), orjson.dumps(_claims(identity)), ex=TICKET_S)
        except REDIS_ERRORS:
            raise StorageUnavailable from None
        return ticket

    async def redeem(self, ticket: str) -> Identity | None:
        try:
            found = await self._redis.getdel(_ticket(ticket[:_TICKET_MAX]))
        except REDIS_ERRORS:
            raise StorageUnavailable from None
        return _identity(orjson.loads(found)) if found is not None else None


def _ticket(ticket: str) -> str:
    return f"{HASH_TAG}:ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"


def _claims(identity: Identity) -> dict[str, Any]:
    issued = identity.issued_at
    return {
        "user_id": identity.user_id,
        "scopes": sorted(identity.scopes),
        "expires_at": identity.expires_at.timestamp(),
        "issued_at": issued.timestamp() if issued is not None else None,
        "token_id": identity.token_id,
    }


def _identity(claims: dict[str, Any]) -> Identity:
    issued = claims["issued_at"]
    return Identity(
        claims["user_id"],
        frozenset(claims["scopes"]),
        datetime.fromtimestamp(claims["expires_at"], UTC),
        datetime.fromtimestamp(issued, UTC) if issued is not None else None,
        claims["token_id"],
    )


def _key(user_id: str) -> str:
    return f"{HASH_TAG}:presence:{user_id}"


def _session(name: bytes, value: bytes) -> LiveSession:
    connection_id, at, device = orjson.loads(value)
    return LiveSession(name.decode(), connection_id, Device(**device), datetime.fromisoformat(at))

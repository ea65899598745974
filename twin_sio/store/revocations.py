"""Revocations: kept in MongoDB, looked up in Redis, which is told them again whenever it may have forgotten some."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo.errors import PyMongoError
from redis.asyncio import Redis

from twin_sio.clock import Clock
from twin_sio.domain import Identity
from twin_sio.errors import StorageUnavailable
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS
from twin_sio.store.ids import Ids

log = structlog.get_logger("revocations")

Doc = dict[str, Any]
Found = Mapping[str, float]
"""By name, up to when tokens are revoked; of a single token it says nothing."""

_WHOLE = f"{HASH_TAG}:revoked:whole"  # is there while Redis knows all of them
_WHOLE_S = 300  # what a failover of Redis has lost is lost for so long at most
_TELLING = f"{HASH_TAG}:revoked:telling"
_TELLING_S = 10
_AT_ONCE = 500


class StoredRevocations:
    """`Revocations`. A Redis that is away, or came back empty, makes no token good again: then MongoDB is asked."""

    def __init__(
        self, redis: Redis, db: AsyncIOMotorDatabase[Doc], ids: Ids, clock: Clock, healthy: Callable[[], bool]
    ) -> None:
        self._redis = redis
        self._revocations = db["revocations"]
        self._ids = ids
        self._clock = clock
        self._healthy = healthy
        self._teller: asyncio.Task[None] | None = None

    async def revoke_user(self, user_id: str, at: datetime, for_s: int) -> None:
        await self._revoke(self._user(user_id), at.timestamp(), for_s)

    async def revoke_token(self, token_id: str, for_s: int) -> None:
        await self._revoke(self._token(token_id), 0.0, for_s)

    async def _revoke(self, name: str, upto: float, for_s: int) -> None:
        kept = {"$max": {"upto": upto, "ends_at": self._clock() + timedelta(seconds=for_s)}}
        try:
            await self._revocations.update_one({"_id": name}, kept, upsert=True)
        except PyMongoError as error:
            raise StorageUnavailable from error
        await self._redis.set(_key(name), upto, ex=for_s)

    async def revoked(self, identities: Sequence[Identity]) -> Sequence[bool]:
        if not identities:
            return []
        found = await self._in_redis(identities)
        if found is None:
            found = await self._in_mongodb(identities)
        return [self._is_revoked(one, found) for one in identities]

    def _is_revoked(self, identity: Identity, found: Found) -> bool:
        if identity.token_id is not None and self._token(identity.token_id) in found:
            return True
        upto = found.get(self._user(identity.user_id))
        issued = identity.issued_at.timestamp() if identity.issued_at is not None else 0.0
        return upto is not None and issued <= upto

    async def _in_redis(self, identities: Sequence[Identity]) -> Found | None:
        """None where Redis is away or does not know all."""
        if not self._healthy():
            return None
        names = self._names(identities)
        # An earlier version has written the ids themselves into the keys; these end by themselves.
        users = [f"{HASH_TAG}:revoked:user:{one.user_id}" for one in identities]
        tokens = [f"{HASH_TAG}:revoked:token:{one.token_id or ''}" for one in identities]
        try:
            whole, *told = await self._redis.mget([_WHOLE, *map(_key, names), *users, *tokens])
        except REDIS_ERRORS:
            return None
        before = [self._user(one.user_id) for one in identities] + [
            self._token(one.token_id or "") for one in identities
        ]
        found = {name: float(upto) for name, upto in zip([*names, *before], told, strict=True) if upto is not None}
        if whole is None:
            self._tell()
            found.update(await self._in_mongodb(identities))
        return found

    async def _in_mongodb(self, identities: Sequence[Identity]) -> Found:
        """All are good while both are away: tokens still end by themselves, and without MongoDB nobody gets in."""
        query = {"_id": {"$in": self._names(identities)}, "ends_at": {"$gt": self._clock()}}
        try:
            return {doc["_id"]: doc["upto"] async for doc in self._revocations.find(query)}
        except PyMongoError:
            return {}

    def _names(self, identities: Sequence[Identity]) -> list[str]:
        users = {self._user(one.user_id) for one in identities}
        tokens = {self._token(one.token_id) for one in identities if one.token_id is not None}
        return sorted(users | tokens)

    def _user(self, user_id: str) -> str:
        return f"user:{self._ids.redis(f'user:{user_id}')}"

    def _token(self, token_id: str) -> str:
        return f"token:{self._ids.redis(f'token:{token_id}')}"

    def _tell(self) -> None:
        if self._teller is None or self._teller.done():
            self._teller = asyncio.create_task(self._tell_redis())

    async def _tell_redis(self) -> None:
        """Tell Redis all that MongoDB knows; one instance at a time."""
        try:
            if not await self._redis.set(_TELLING, 1, nx=True, ex=_TELLING_S):
                return
            now, count = self._clock(), 0
            batch: list[Doc] = []
            async for doc in self._revocations.find({"ends_at": {"$gt": now}}, batch_size=_AT_ONCE):
                batch.append(doc)
                count += 1
                if len(batch) == _AT_ONCE:
                    await self._write(batch, now)
                    batch = []
            await self._write(batch, now)
            await self._redis.set(_WHOLE, 1, ex=_WHOLE_S)
            await self._redis.delete(_TELLING)
        except (*REDIS_ERRORS, PyMongoError) as error:
            log.warning("revocations_not_told", error=type(error).__name__)

    async def _write(self, batch: Sequence[Doc], now: datetime) -> None:
        pipe = self._redis.pipeline(transaction=False)
        for doc in batch:
            left_s = int((doc["ends_at"] - now).total_seconds())
            pipe.set(_key(doc["_id"]), doc["upto"], ex=max(1, left_s))
        if batch:
            await pipe.execute()

    async def close(self) -> None:
        """End what is under way."""
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.gather(self._teller, return_exceptions=True)


def _key(name: str) -> str:
    return f"{HASH_TAG}:revoked:{name}"

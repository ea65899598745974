"""Revocations: read from a copy in Redis, which is written again from MongoDB whenever it may have lost some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import structlog
from redis.asyncio import Redis

from twin_sio.background import BackgroundTasks
from twin_sio.clock import Clock
from twin_sio.domain import Identity
from twin_sio.errors import StorageUnavailable
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS
from twin_sio.store.ids import Ids
from twin_sio.store.ports import RevocationRecords

log = structlog.get_logger("revocations")

_COMPLETE = f"{HASH_TAG}:revoked:whole"
"""This key is there while the copy is complete; a failover of Redis that loses a revocation loses it for `_COMPLETE_S`
at most."""
_COMPLETE_S = 300
_COPYING = f"{HASH_TAG}:revoked:telling"  # one instance copies at a time; the others find this key
_COPYING_S = 10  # after which another instance may try, where this one has died
_BATCH = 500  # revocations in a write


class RedisRevocations:
    """`Revocations`. A Redis that is away, or came back empty, makes no token valid again: then MongoDB is asked."""

    def __init__(
        self, redis: Redis, records: RevocationRecords, ids: Ids, clock: Clock, healthy: Callable[[], bool]
    ) -> None:
        self._redis = redis
        self._records = records
        self._ids = ids
        self._clock = clock
        self._healthy = healthy
        self._tasks = BackgroundTasks()  # the copying, at most one at a time

    async def revoke_user(self, user_id: str, at: datetime, for_s: int) -> None:
        await self._revoke(self._user(user_id), at.timestamp(), for_s)

    async def revoke_token(self, token_id: str, for_s: int) -> None:
        await self._revoke(self._token(token_id), 0.0, for_s)

    async def _revoke(self, name: str, upto: float, for_s: int) -> None:
        # MongoDB first: what Redis alone knew would be lost with it.
        await self._records.put(name, upto, for_s)
        await self._redis.set(_key(name), upto, ex=for_s)

    async def revoked(self, identities: Sequence[Identity]) -> Sequence[bool]:
        if not identities:
            return []
        found = await self._in_redis(identities)
        if found is None:
            found = await self._in_mongodb(identities)
        return [self._is_revoked(identity, found) for identity in identities]

    def _is_revoked(self, identity: Identity, found: Mapping[str, float]) -> bool:
        if identity.token_id is not None and self._token(identity.token_id) in found:
            return True
        upto = found.get(self._user(identity.user_id))
        issued = identity.issued_at.timestamp() if identity.issued_at is not None else 0.0
        return upto is not None and issued <= upto

    async def _in_redis(self, identities: Sequence[Identity]) -> Mapping[str, float] | None:
        """By name, the time up to which tokens are revoked; None where Redis is away."""
        if not self._healthy():
            return None
        names = self._names(identities)
        # An earlier version has written the ids themselves into the keys; these expire.
        old_users = [f"{HASH_TAG}:revoked:user:{identity.user_id}" for identity in identities]
        old_tokens = [f"{HASH_TAG}:revoked:token:{identity.token_id or ''}" for identity in identities]
        try:
            is_complete, *values = await self._redis.mget([_COMPLETE, *map(_key, names), *old_users, *old_tokens])
        except REDIS_ERRORS:
            return None
        users = [self._user(identity.user_id) for identity in identities]
        tokens = [self._token(identity.token_id or "") for identity in identities]
        by_name = zip([*names, *users, *tokens], values, strict=True)
        found = {name: float(upto) for name, upto in by_name if upto is not None}
        if is_complete is None:
            if not self._tasks:
                self._tasks.start(self._copy())
            found.update(await self._in_mongodb(identities))
        return found

    async def _in_mongodb(self, identities: Sequence[Identity]) -> Mapping[str, float]:
        """Nothing is revoked while both stores are away: tokens still expire, and without MongoDB nobody connects."""
        try:
            return await self._records.find(self._names(identities))
        except StorageUnavailable:
            return {}

    def _names(self, identities: Sequence[Identity]) -> list[str]:
        users = {self._user(identity.user_id) for identity in identities}
        tokens = {self._token(identity.token_id) for identity in identities if identity.token_id is not None}
        return sorted(users | tokens)

    def _user(self, user_id: str) -> str:
        return f"user:{self._ids.redis(f'user:{user_id}')}"

    def _token(self, token_id: str) -> str:
        return f"token:{self._ids.redis(f'token:{token_id}')}"

    async def _copy(self) -> None:
        """Write all that MongoDB has into Redis."""
        try:
            if not await self._redis.set(_COPYING, 1, nx=True, ex=_COPYING_S):
                return
            now = self._clock()
            batch: list[tuple[str, float, datetime]] = []
            async for record in self._records.current():
                batch.append(record)
                if len(batch) == _BATCH:
                    await self._write(batch, now)
                    batch = []
            await self._write(batch, now)
            # Last, so that nobody believes a copy that was cut short.
            await self._redis.set(_COMPLETE, 1, ex=_COMPLETE_S)
            await self._redis.delete(_COPYING)
        except (*REDIS_ERRORS, StorageUnavailable) as error:
            log.warning("revocations_not_copied", error=type(error).__name__)

    async def _write(self, batch: Sequence[tuple[str, float, datetime]], now: datetime) -> None:
        # No transaction: each key stands for itself, and the mark of a whole copy comes after them.
        pipe = self._redis.pipeline(transaction=False)
        for name, upto, ends_at in batch:
            pipe.set(_key(name), upto, ex=max(1, int((ends_at - now).total_seconds())))
        if batch:
            await pipe.execute()

    async def close(self) -> None:
        """End what is under way."""
        await self._tasks.stop()


def _key(name: str) -> str:
    return f"{HASH_TAG}:revoked:{name}"

"""`RevocationRecords` over MongoDB."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta

from pymongo.errors import PyMongoError

from twin_sio.clock import Clock
from twin_sio.errors import StorageUnavailable
from twin_sio.store.mongo.client import Database, stored

_BATCH = 500


class MongoRevocations:
    """A document for each revocation; an index with an expiry removes it when it ends."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._revocations = db["revocations"]
        self._clock = clock

    @stored
    async def put(self, name: str, upto: float, for_s: int) -> None:
        later = {"$max": {"upto": upto, "ends_at": self._clock() + timedelta(seconds=for_s)}}
        await self._revocations.update_one({"_id": name}, later, upsert=True)

    @stored
    async def find(self, names: Sequence[str]) -> Mapping[str, float]:
        query = {"_id": {"$in": list(names)}, "ends_at": {"$gt": self._clock()}}
        return {doc["_id"]: doc["upto"] async for doc in self._revocations.find(query)}

    async def current(self) -> AsyncIterator[tuple[str, float, datetime]]:
        try:
            async for doc in self._revocations.find({"ends_at": {"$gt": self._clock()}}, batch_size=_BATCH):
                yield doc["_id"], doc["upto"], doc["ends_at"]
        except PyMongoError as error:
            raise StorageUnavailable from error

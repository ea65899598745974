"""What was learnt of endpoints."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from motor.motor_asyncio import AsyncIOMotorCollection

from twin_sio.clock import Clock
from twin_sio.domain import Json
from twin_sio.store.mongo.client import Database, Doc, stored

_HOLDS_FOR: Final = timedelta(days=7)


class MongoModelDialects:
    """`ModelDialects`: a document per model."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._dialects: AsyncIOMotorCollection[Doc] = db["model_dialects"]
        self._clock = clock

    @stored
    async def get(self, model_id: str) -> Json:
        found = await self._dialects.find_one({"_id": model_id, "at": {"$gt": self._clock() - _HOLDS_FOR}})
        return dict(found["learnt"]) if found is not None else {}

    @stored
    async def put(self, model_id: str, learnt: Json) -> None:
        document = {"learnt": dict(learnt), "at": self._clock()}
        await self._dialects.replace_one({"_id": model_id}, document, upsert=True)

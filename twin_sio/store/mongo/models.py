"""`ModelVerdicts` and `ModelDialects` over MongoDB: of each model a document."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Final

from motor.motor_asyncio import AsyncIOMotorCollection

from twin_sio.clock import Clock
from twin_sio.domain import Fitness, Json
from twin_sio.store.mongo.client import Database, Doc, stored
from twin_sio.store.ports import ModelVerdict

_DIALECT_LASTS: Final = timedelta(days=7)


class MongoModelVerdicts:
    def __init__(self, db: Database) -> None:
        self._verdicts: AsyncIOMotorCollection[Doc] = db["model_verdicts"]

    @stored
    async def get(self, model_id: str) -> ModelVerdict | None:
        found = await self._verdicts.find_one({"_id": model_id}, {"_id": 0})
        if found is None:
            return None
        at = found.pop("at")
        return ModelVerdict(Fitness(**found), at)

    @stored
    async def put(self, model_id: str, verdict: ModelVerdict) -> None:
        await self._verdicts.replace_one({"_id": model_id}, asdict(verdict.fitness) | {"at": verdict.at}, upsert=True)


class MongoModelDialects:
    def __init__(self, db: Database, clock: Clock) -> None:
        self._dialects: AsyncIOMotorCollection[Doc] = db["model_dialects"]
        self._clock = clock

    @stored
    async def get(self, model_id: str) -> Json:
        found = await self._dialects.find_one({"_id": model_id, "at": {"$gt": self._clock() - _DIALECT_LASTS}})
        return dict(found["learnt"]) if found is not None else {}

    @stored
    async def put(self, model_id: str, learnt: Json) -> None:
        document = {"learnt": dict(learnt), "at": self._clock()}
        await self._dialects.replace_one({"_id": model_id}, document, upsert=True)

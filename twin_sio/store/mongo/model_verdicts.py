"""Verdicts on models."""

from __future__ import annotations

from dataclasses import asdict

from motor.motor_asyncio import AsyncIOMotorCollection

from twin_sio.domain import Fitness
from twin_sio.store.mongo.client import Database, Doc, stored
from twin_sio.store.ports import ModelVerdict


class MongoModelVerdicts:
    """`ModelVerdicts`: a document per model."""

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

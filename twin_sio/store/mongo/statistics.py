"""Counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ASCENDING

from twin_sio.domain import Json
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.mongo.client import Database, Doc, stored
from twin_sio.store.mongo.fence import Fence, fenced
from twin_sio.store.mongo.queries import not_postponed, off_the_loop, postpone, upsert
from twin_sio.store.ports import Answers

_READ_AT_ONCE = 1_000  # answers


class MongoStatistics:
    """`Statistics`: a document per user, whose counts the database adds up, and one for the sum."""

    _ALL = "all"

    def __init__(self, db: Database, sealer: FieldCipher | None = None, fence: Fence | None = None) -> None:
        self._fence = fence
        self._sealer = sealer or FieldCipher()
        self._statistics: AsyncIOMotorCollection[Doc] = db["statistics"]
        self._profiles: AsyncIOMotorCollection[Doc] = db["profiles"]
        self._events: AsyncIOMotorCollection[Doc] = db["events"]

    @stored
    async def answers(self, user_id: str, epoch: int = 0) -> Answers:
        own: Doc = {"user_id": user_id, "epoch": {"$gte": epoch}} if epoch else {"user_id": user_id}
        found = await self._statistics.find_one(own, {"answers": 1})
        before = Answers(**found["answers"]) if found else Answers()
        query = {**own, "seq": {"$gt": before.through_seq}, "type": "twin_message"}
        # A sealed payload is read whole, of others what is counted.
        kept = {"seq": 1, "payload.sealed": 1, "payload.status": 1, "payload.used_traits": 1}
        cursor = self._events.find(query, kept).sort("seq", ASCENDING).batch_size(_READ_AT_ONCE)
        counted = before
        while docs := await cursor.to_list(_READ_AT_ONCE):
            counted = await off_the_loop(len(docs), partial(self._with, counted, docs))
        return counted

    def _with(self, counted: Answers, docs: Sequence[Doc]) -> Answers:
        payloads = [self._sealer.open(doc["payload"]) for doc in docs]
        told = [payload for payload in payloads if payload["status"] != "failed"]
        using = sum(bool(payload.get("used_traits")) for payload in told)
        return Answers(docs[-1]["seq"], counted.count + len(told), counted.using + using)

    @stored
    async def put(
        self, user_id: str, at: datetime, counts: Json, answers: Answers, stamp: str | None, epoch: int = 0
    ) -> None:
        change = {"$set": {"at": at, "counts": dict(counts), "answers": asdict(answers), "epoch": epoch}}
        with fenced(self._fence, user_id, epoch):
            await upsert(self._statistics, {"user_id": user_id, "epoch": {"$not": {"$gt": epoch}}}, change)
        await self._profiles.update_one(
            {"_id": user_id, "stamp": stamp}, {"$set": {"counted_at": at}, "$unset": {"postponed.count": ""}}
        )

    @stored
    async def due(self, before: datetime, limit: int) -> Sequence[str]:
        query = {"$or": [{"counted_at": None}, {"counted_at": {"$lt": before}}], **not_postponed("count")}
        return [doc["_id"] for doc in await self._profiles.find(query, {"_id": 1}).limit(limit).to_list(limit)]

    @stored
    async def postpone(self, user_id: str) -> None:
        await postpone(self._profiles, user_id, "count")

    @stored
    async def recompute_total(self) -> None:
        users: Doc = {"$match": {"user_id": {"$exists": True}}}
        whole: Doc = {"_id": None, "contradicted": {"$sum": "$counts.contradicted"}}
        whole["answers"] = {"$sum": "$answers.count"}
        whole["answers_using"] = {"$sum": "$answers.using"}
        sums = [doc async for doc in self._statistics.aggregate([users, {"$group": whole}])]
        total: Doc = {"contradicted": 0, "answers": 0, "answers_using": 0} | (sums[0] if sums else {})
        total["traits"] = await self._added_up(users, "traits", ("kind", "extractor", "status"))
        total["within"] = await self._added_up(users, "within", ("bound_s",))
        await self._statistics.replace_one({"_id": self._ALL}, total | {"_id": self._ALL}, upsert=True)

    async def _added_up(self, users: Doc, name: str, by: Sequence[str]) -> list[Doc]:
        group = {"_id": {part: f"$counts.{name}.{part}" for part in by}, "count": {"$sum": f"$counts.{name}.count"}}
        found = self._statistics.aggregate([users, {"$unwind": f"$counts.{name}"}, {"$group": group}])
        return [{**doc["_id"], "count": doc["count"]} async for doc in found]

    @stored
    async def total(self) -> Json:
        return await self._statistics.find_one({"_id": self._ALL}, {"_id": 0}) or {}

"""Titles, summaries and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bson import ObjectId
from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ASCENDING, DESCENDING

from twin_sio.domain import Event
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.mongo.client import MESSAGES, WITHOUT_VECTOR, Database, Doc, stored
from twin_sio.store.mongo.documents import event_of
from twin_sio.store.mongo.queries import off_the_loop
from twin_sio.store.ports import (
    LINE_CHARACTERS,
    MessageVector,
    StoredLine,
    Summary,
    Thread,
)

_LINES_AT_ONCE = 100  # documents of a batch: one may hold 50 KB


class MongoMemories:
    """`Memories`: titles and summaries in the conversation's document, a vector in its message's own.

    So a vector is erased and expires with its message, and can be written to no message that is gone.
    """

    def __init__(self, db: Database, sealer: FieldCipher | None = None) -> None:
        self._sealer = sealer or FieldCipher()
        self._events: AsyncIOMotorCollection[Doc] = db["events"]
        self._conversations: AsyncIOMotorCollection[Doc] = db["conversations"]

    @stored
    async def thread(self, user_id: str, conversation_id: str) -> Thread | None:
        found = await self._conversations.find_one({"user_id": user_id, "conversation_id": conversation_id})
        if found is None:
            return None
        points = tuple(self._sealer.open(found.get("summary")) or ())
        upto = found.get("summary_upto", 0)
        summary = Summary(points, upto, found.get("since") if upto else None)
        title = self._sealer.open(found.get("title"))
        return Thread(user_id, conversation_id, str(found["_id"]), title, summary)

    @stored
    async def set_title(self, thread: Thread, title: str, since: datetime) -> bool:
        change = {"$set": {"title": self._sealer.seal(title)}, "$min": {"since": since}}
        # By the document's own id: after an erasure the same conversation has another, and a late title goes nowhere.
        untitled = {"_id": ObjectId(thread.key), "title": {"$exists": False}}
        return (await self._conversations.update_one(untitled, change)).modified_count == 1

    @stored
    async def set_summary(self, thread: Thread, summary: Summary) -> bool:
        upto = thread.summary.upto or None  # None finds also where there is no such field
        sealed = {"summary": self._sealer.seal(list(summary.points)), "summary_upto": summary.upto}
        change = {"$set": sealed, "$min": {"since": summary.since}}
        same = {"_id": ObjectId(thread.key), "summary_upto": upto}
        return (await self._conversations.update_one(same, change)).modified_count == 1

    @stored
    async def expire(self, before: datetime) -> int:
        fields = dict.fromkeys(("title", "summary", "summary_upto", "since"), "")
        return (await self._conversations.update_many({"since": {"$lt": before}}, {"$unset": fields})).modified_count

    @stored
    async def without_vector(self, user_id: str, model: str, newest: int) -> Sequence[Event]:
        cursor = self._events.find({"user_id": user_id}, {"vector": 0}).sort("seq", DESCENDING).limit(newest)
        return [
            event_of(doc, self._sealer)
            # The newest so many, and of these the oldest first.
            for doc in reversed(await cursor.to_list(newest))
            if doc["type"] in MESSAGES and doc.get("vector_of") != model
        ]

    @stored
    async def embed(self, user_id: str, model: str, vectors: Sequence[MessageVector]) -> None:
        for one in vectors:
            kept = {"vector": self._sealer.seal(one.vector), "vector_of": model}
            await self._events.update_one({"user_id": user_id, "message_id": one.message_id}, {"$set": kept})

    @stored
    async def lines(
        self, user_id: str, model: str | None, limit: int, *, after: int = 0, before: int | None = None
    ) -> Sequence[StoredLine]:
        between = {"$gt": after} if before is None else {"$gt": after, "$lt": before}
        query = {"user_id": user_id, "seq": between, "type": {"$in": list(MESSAGES)}}
        # Without the rest: an index of 50,000 lines is made of this.
        fields = {"seq": 1, "conversation_id": 1, "type": 1, "payload": 1, "vector": 1, "vector_of": 1}
        cursor = self._events.find(query, fields, batch_size=_LINES_AT_ONCE).sort("seq", DESCENDING).limit(limit)
        found = await cursor.to_list(limit)
        # Opening 500 takes over 10 ms where they are sealed: the loop has answers to stream meanwhile.
        return await off_the_loop(len(found), lambda: [self._line(doc, model) for doc in found])

    def _line(self, doc: Doc, model: str | None) -> StoredLine:
        text = str(self._sealer.open(doc["payload"])["text"])[:LINE_CHARACTERS]
        fits = model is not None and doc.get("vector_of") == model
        # A vector of another model says nothing beside those of this one.
        vector = self._sealer.open(doc["vector"]) if fits else None
        return StoredLine(doc["seq"], doc["conversation_id"], doc["type"] == "user_message", text, vector)

    @stored
    async def oldest(self, user_id: str) -> int:
        found = await self._events.find_one({"user_id": user_id}, {"seq": 1}, sort=[("seq", ASCENDING)])
        return int(found["seq"]) if found is not None else 0

    @stored
    async def messages(self, user_id: str, seqs: Sequence[int]) -> Sequence[Event]:
        query = {"user_id": user_id, "seq": {"$in": list(seqs)}, "type": {"$in": list(MESSAGES)}}
        found = await self._events.find(query, WITHOUT_VECTOR).to_list(None)
        return [event_of(doc, self._sealer) for doc in found]

"""The log of events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from twin_sio.clock import monotonic
from twin_sio.domain import Event, Json, NewEvent
from twin_sio.errors import StorageUnavailable
from twin_sio.store.encryption import FieldCipher, is_sealed
from twin_sio.store.ids import Ids
from twin_sio.store.mongo.client import MESSAGES, WITHOUT_VECTOR, Database, Doc, stored
from twin_sio.store.mongo.documents import event_of
from twin_sio.store.mongo.fence import Fence, fenced
from twin_sio.store.mongo.queries import LEARN_WITHIN, few_of_each, user_document
from twin_sio.store.ports import AppendResult, ConversationSummary, Page

# Each is lost to another instance's append: so many in a row take more writers than a user has.
_APPEND_TRIES = 200
_TITLE_CHARACTERS = 60  # of the first message, until there is a title
_HEAD_S = 3600.0  # that a head is believed: shorter than the shortest retention, which may take what came after it
_READ_AT_ONCE = 25  # documents of a batch: one may hold 50 KB
_READ_CHARACTERS = 128 * 1024  # of texts in one answer of `read`


@dataclass(frozen=True, slots=True)
class _Head:
    """The newest seq as this instance has written it, in which epoch and when (monotonic)."""

    seq: int
    epoch: int
    at: float


class MongoLog:
    """`Log` over one collection, `events`; density comes from the unique index, not from a counter."""

    def __init__(
        self, db: Database, sealer: FieldCipher | None = None, fence: Fence | None = None, *, expires: bool = False
    ) -> None:
        """`expires`: events are removed in time, so the head has to be remembered beside them."""
        self._expires = expires
        self._fence = fence
        self._ids = fence.ids if fence is not None else Ids()
        self._sealer = sealer or FieldCipher()
        self._events: AsyncIOMotorCollection[Doc] = db["events"]
        # For whatever a client is told: what only a primary has may be rolled back with it.
        self._majority = self._events.with_options(read_concern=ReadConcern("majority"))
        self._marks: AsyncIOMotorCollection[Doc] = db["conversations"]
        self._users: AsyncIOMotorCollection[Doc] = db["users"]
        # By user, where this instance believes the log to end: a guess that saves a read. The index has the last word,
        # and a wrong guess is forgotten.
        self._heads: dict[str, _Head] = {}
        # By user, for as long as somebody appends.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @stored
    async def append(self, draft: NewEvent) -> AppendResult:
        # The lock only spares this instance from racing itself; against others the index decides.
        lock = self._locks.setdefault(draft.user_id, asyncio.Lock())
        async with lock:
            for _ in range(_APPEND_TRIES):
                with fenced(self._fence, draft.user_id, draft.epoch):
                    stored = await self._try_append(draft)
                if stored is not None:
                    return stored
        raise StorageUnavailable()

    async def _try_append(self, draft: NewEvent) -> AppendResult | None:
        known = self._heads.get(draft.user_id)
        if known is not None and known.epoch == draft.epoch and monotonic() - known.at < _HEAD_S:
            head = known.seq
        else:
            head = await self._newest(draft.user_id)
        doc = {**self._fields(draft), "seq": head + 1}
        try:
            await self._events.insert_one(doc)
        except DuplicateKeyError as error:
            self._heads.pop(draft.user_id, None)
            if "message_id" not in (error.details or {}).get("keyPattern", {}):
                return None  # another instance took this seq: again, with the next
            found = await self._events.find_one({"user_id": draft.user_id, "message_id": draft.message_id})
            if found is None:
                return None
            if found.get("epoch", 0) < draft.epoch:  # of before an erasure: the same id is free again
                await self._remove(draft.user_id, found["seq"])
                return None
            # Acknowledge a repeat only once the first is as safe as an acknowledgement says.
            await self._majority_has(draft.user_id, found["seq"])
            return AppendResult(self._event(found), is_new=False)
        except PyMongoError:
            self._heads.pop(draft.user_id, None)
            raise
        if len(self._heads) > 50_000:
            # All at once: a head costs one read to find again.
            self._heads.clear()
        self._heads[draft.user_id] = _Head(head + 1, draft.epoch, monotonic())
        if self._expires:
            await self._raise_floor(draft.user_id, head + 1)
        return AppendResult(self._event(doc), is_new=True)

    async def _newest(self, user_id: str) -> int:
        return max(await self._last(self._events, user_id), await self._floor(user_id))

    async def _last(self, events: AsyncIOMotorCollection[Doc], user_id: str) -> int:
        found = await events.find_one({"user_id": user_id}, {"seq": 1}, sort=[("seq", DESCENDING)])
        return int(found["seq"]) if found else 0

    async def _floor(self, user_id: str) -> int:
        found = self._users.find({"_id": user_document(self._ids, user_id)}, {"floor": 1})
        return max([int(doc.get("floor", 0)) async for doc in found], default=0)

    async def _raise_floor(self, user_id: str, seq: int) -> None:
        await self._users.update_one({"_id": self._ids.user(user_id)}, {"$max": {"floor": seq}}, upsert=True)

    async def _majority_has(self, user_id: str, seq: int) -> None:
        for _ in range(100):
            # As a rule at the first look: replication takes a few milliseconds.
            if await self._majority.find_one({"user_id": user_id, "seq": seq}, {"_id": 1}):
                return
            await asyncio.sleep(0.01)
        raise StorageUnavailable()

    @stored
    async def read(self, user_id: str, after: int, limit: int) -> Sequence[Event]:
        query = {"user_id": user_id, "seq": {"$gt": after}}
        cursor = self._majority.find(query, WITHOUT_VECTOR).sort("seq", ASCENDING).limit(limit)
        events, size = [], 0
        async for doc in cursor.batch_size(_READ_AT_ONCE):
            events.append(self._event(doc))
            size += _characters(events[-1].payload)
            # A client far behind gets its events page by page; none of them may hold the loop or the memory.
            if size > _READ_CHARACTERS:
                await cursor.close()
                break
        return events

    @stored
    async def head(self, user_id: str) -> int:
        return await self._last(self._majority, user_id) or await self._floor(user_id)

    @stored
    async def remove(self, event: Event) -> None:
        await self._remove(event.user_id, event.seq)

    async def _remove(self, user_id: str, seq: int) -> None:
        # Before the event goes: a seq that is free again could be given to another one.
        await self._raise_floor(user_id, seq)
        await self._events.delete_one({"user_id": user_id, "seq": seq})

    @stored
    async def heads(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        pipeline: list[Doc] = [
            {"$match": {"user_id": {"$in": list(user_ids)}}},
            {"$sort": {"user_id": -1, "seq": -1}},  # as the index has them, so that one entry of each user is read
            {"$group": {"_id": "$user_id", "seq": {"$first": "$seq"}}},
        ]
        return {doc["_id"]: doc["seq"] async for doc in self._majority.aggregate(pipeline)}

    @stored
    async def get(self, user_id: str, message_id: str) -> Event | None:
        found = await self._events.find_one({"user_id": user_id, "message_id": message_id})
        return self._event(found) if found else None

    @stored
    async def page(
        self,
        user_id: str,
        conversation_id: str,
        *,
        before: int | None,
        after: int | None,
        limit: int,
        characters: int | None = None,
    ) -> Page:
        query: Doc = {"user_id": user_id, "conversation_id": conversation_id, "type": {"$in": list(MESSAGES)}}
        bounds = {"$lt": before, "$gt": after}
        if chosen := {op: seq for op, seq in bounds.items() if seq is not None}:
            query["seq"] = chosen
        # From `after` on the oldest come first; towards `before`, or the end, the newest.
        forward = after is not None and before is None
        order = ASCENDING if forward else DESCENDING
        cursor = self._majority.find(query, WITHOUT_VECTOR).sort("seq", order).limit(limit + 1)
        if characters is None:
            docs = await cursor.to_list(limit + 1)
            events, has_more = [self._event(doc) for doc in docs[:limit]], len(docs) > limit
        else:
            events, has_more = await self._fitting(cursor.batch_size(_READ_AT_ONCE), limit, characters)
        return Page(tuple(events if forward else reversed(events)), has_more)

    async def _fitting(self, cursor: Any, limit: int, characters: int) -> tuple[list[Event], bool]:
        """The first of them that are not too much together, and whether there are more."""
        events: list[Event] = []
        async for doc in cursor:
            # One more than fits was asked for: it says that there are more.
            if len(events) == limit or characters < 0:
                await cursor.close()
                return events, True
            events.append(self._event(doc))
            characters -= _characters(events[-1].payload)
        return events, False

    @stored
    async def feedback(self, user_id: str, message_ids: Sequence[str]) -> Mapping[str, Json]:
        query = {"user_id": user_id, "type": "feedback", "payload.message_id": {"$in": list(message_ids)}}
        # As often as somebody likes to rate one answer: of each the index gives the newest, and skips to the next one.
        # That takes an order of all of its fields, and the first of a group.
        order = dict.fromkeys(("user_id", "type", "payload.message_id", "seq"), DESCENDING)
        about = {"$group": {"_id": "$payload.message_id", "seq": {"$first": "$seq"}}}
        pipeline: list[Doc] = [{"$match": query}, {"$sort": order}, about]
        seqs = [doc["seq"] async for doc in self._events.aggregate(pipeline)]
        newest: dict[str, Json] = {}
        if not seqs:
            return newest
        async for doc in self._events.find({"user_id": user_id, "seq": {"$in": seqs}}, batch_size=_READ_AT_ONCE):
            event = self._event(doc)
            newest[event.payload["message_id"]] = event.payload
        return newest

    @stored
    async def to_correct(self, older_than_s: float, limit: int) -> Sequence[tuple[str, str]]:
        age_ms = {"$subtract": ["$$NOW", "$at"]}
        within_ms = LEARN_WITHIN.total_seconds() * 1000
        due = {"$and": [{"$gt": [age_ms, older_than_s * 1000]}, {"$lt": [age_ms, within_ms]}]}
        query = {"to_correct": True, "$expr": due}
        return await few_of_each(self._events, query, "message_id", "at", limit)

    @stored
    async def corrected(self, user_id: str, message_id: str) -> None:
        key = {"user_id": user_id, "message_id": message_id}
        await self._events.update_one(key, {"$unset": {"to_correct": ""}})

    @stored
    async def conversations(
        self, user_id: str, *, before: int | None = None, limit: int = 1_000
    ) -> Sequence[ConversationSummary]:
        ends = {"first": {"$min": "$seq"}, "last": {"$max": "$seq"}}
        pipeline: list[Doc] = [  # of the messages their seqs alone, which stand in an index
            {"$match": {"user_id": user_id, "type": {"$in": list(MESSAGES)}}},
            {"$group": {"_id": "$conversation_id", **ends}},
            *([] if before is None else [{"$match": {"last": {"$lt": before}}}]),
            {"$sort": {"last": -1}},
            {"$limit": limit},
        ]
        found = [doc async for doc in self._majority.aggregate(pipeline)]
        if not found:
            return []
        names = [doc["_id"] for doc in found]
        seqs = {doc[end] for doc in found for end in ends}
        kept = {"conversation_id": 1, "read_seq": 1, "title": 1}
        query = {"user_id": user_id, "conversation_id": {"$in": names}}
        marks = {doc["conversation_id"]: doc async for doc in self._marks.find(query, kept)}
        said = self._majority.find({"user_id": user_id, "seq": {"$in": list(seqs)}}, WITHOUT_VECTOR)
        events = {doc["seq"]: self._event(doc) async for doc in said.batch_size(_READ_AT_ONCE)}
        unread = await self._unread(user_id, {name: marks.get(name, {}).get("read_seq", 0) for name in names})
        return [
            ConversationSummary(
                doc["_id"],
                self._sealer.open(marks.get(doc["_id"], {}).get("title"))
                or events[doc["first"]].payload["text"][:_TITLE_CHARACTERS],
                events[doc["last"]],
                unread.get(doc["_id"], 0),
            )
            for doc in found
            if doc["first"] in events and doc["last"] in events  # not erased meanwhile
        ]

    async def _unread(self, user_id: str, marks: Mapping[str, int]) -> Mapping[str, int]:
        if not marks:
            return {}
        answers = {"user_id": user_id, "type": "twin_message"}
        newer = [{**answers, "conversation_id": name, "seq": {"$gt": seq}} for name, seq in marks.items()]
        pipeline: list[Doc] = [
            {"$match": {"$or": newer}},
            {"$group": {"_id": "$conversation_id", "unread": {"$sum": 1}}},
        ]

        async def counted(**how: str) -> Mapping[str, int]:
            return {doc["_id"]: doc["unread"] async for doc in self._majority.aggregate(pipeline, **how)}

        try:
            # Named: to weigh the indexes for each of two hundred conversations takes longer than to count.
            return await counted(hint="history")
        except OperationFailure:  # it is not there, or not yet
            return await counted()

    @stored
    async def read_up_to(self, user_id: str, conversation_id: str) -> int:
        key = {"user_id": user_id, "conversation_id": conversation_id}
        found = await self._marks.find_one(key, {"read_seq": 1})
        return int(found.get("read_seq", 0)) if found else 0

    @stored
    async def mark_read(self, user_id: str, conversation_id: str, seq: int, epoch: int = 0) -> None:
        key = {"user_id": user_id, "conversation_id": conversation_id}
        # Only where it moves forward: receipts of two devices may overtake each other.
        unread = {**key, "read_seq": {"$not": {"$gte": seq}}}
        change = {"$max": {"read_seq": seq, "epoch": epoch}}
        with fenced(self._fence, user_id, epoch):
            for _ in range(2):
                with contextlib.suppress(DuplicateKeyError):  # it is read so far already, or two upserts met
                    await self._marks.update_one(unread, change, upsert=True)
                    return

    def _fields(self, draft: NewEvent) -> Doc:
        payload = self._sealer.seal(dict(draft.payload))
        if is_sealed(payload) and "message_id" in draft.payload:
            payload["message_id"] = draft.payload["message_id"]  # feedback is found by what it is about
        owed = {"to_correct": True} if draft.type == "feedback" and draft.payload.get("correction") else {}
        return {
            **owed,
            "epoch": draft.epoch,
            "user_id": draft.user_id,
            "type": draft.type,
            "message_id": draft.message_id,
            "conversation_id": draft.conversation_id,
            "session_id": draft.session_id,
            "in_response_to": draft.in_response_to,
            "at": draft.at,
            "payload": payload,
        }

    def _event(self, doc: Doc) -> Event:
        return event_of(doc, self._sealer)


def _characters(payload: Json) -> int:
    """How long the texts of an event are, about."""
    return sum(len(value) for value in payload.values() if isinstance(value, str))

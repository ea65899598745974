"""MongoDB through Motor: the system of record. The only file that knows the driver."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar
from weakref import WeakValueDictionary

import orjson
from bson import ObjectId
from bson.codec_options import CodecOptions
from motor.motor_asyncio import (
    AsyncIOMotorClient,
    AsyncIOMotorClientSession,
    AsyncIOMotorCollection,
    AsyncIOMotorDatabase,
)
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import ConfigurationError, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from twin_sio.clock import Clock, monotonic, new_id, now
from twin_sio.domain import AppendResult, Event, Evidence, Json, NewEvent, Outcome, Profile, Trait, TraitChange, Turn
from twin_sio.errors import StorageUnavailable
from twin_sio.observability.tracing import span
from twin_sio.store.encryption import FieldCipher, is_sealed
from twin_sio.store.fence import LOOKS_S, PERSONAL, Fence, fenced, owner
from twin_sio.store.ids import Ids
from twin_sio.store.ports import (
    Answers,
    ConnectSnapshot,
    ConversationSummary,
    Erased,
    MessageVector,
    Page,
    Projection,
    StoredProfile,
    Summary,
    Thread,
)

Doc = dict[str, Any]
Database = AsyncIOMotorDatabase[Doc]
MESSAGES = ("user_message", "twin_message")
UNFINISHED = ("queued", "running", "settled")
_APPEND_TRIES = 200
_CONTEXTS_MAX = 50
_READ_AT_ONCE = 25  # documents of a batch: one may hold 50 KB
_READ_CHARACTERS = 128 * 1024
_EXPORTED_AT_ONCE = 8  # documents: a batch of the driver's own choice holds 16 MiB
_TITLE_CHARACTERS = 60
_LEARN_WITHIN = timedelta(days=1)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_NOW = WriteConcern(w=1, j=False)
_HELD = timedelta(minutes=1)  # that a version is told by one worker alone: longer than any takes
_HEAD_S = 3600.0  # that a head is believed: shorter than the shortest retention, which may take what came after it
_WITHOUT_VECTOR = {"vector": 0, "vector_of": 0}  # a message's vector stands beside it, and is read by nobody but recall

P = ParamSpec("P")
T = TypeVar("T")
_LOOKED_AT = 50_000  # of what was not learnt from, by a sweep
_OF_EACH = 10  # of one user's, that a sweep finds
_BATCH = 500  # pieces of evidence that are decoded, or removed, at one go
_ON_THE_LOOP = 100  # things that are opened or sealed where answers are streamed; more in a thread
_TRAIT_BYTES = 400  # of a sealed trait, about


def stored(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Whatever the driver raises is `StorageUnavailable` to everybody else."""

    @functools.wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with span(f"store {method.__qualname__}"):
                return await method(*args, **kwargs)
        except PyMongoError as error:
            raise StorageUnavailable() from error

    return call


def connect(url: str, database: str, timeout_ms: int) -> tuple[AsyncIOMotorClient[Doc], Database]:
    """A client and its database. Acknowledged means: on a majority, in the journal. No operation takes longer
    than `timeout_ms`. The caller closes the client. Raises `ValueError` for a URL that is none."""
    try:
        client: AsyncIOMotorClient[Doc] = AsyncIOMotorClient(
            url,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            timeoutMS=timeout_ms,
            tz_aware=True,
            appname="twin_sio",
        )
    except ConfigurationError:
        raise ValueError("no URL of a MongoDB") from None
    db = client.get_database(
        database,
        codec_options=CodecOptions(tz_aware=True, tzinfo=UTC),
        write_concern=WriteConcern(w="majority", j=True),
    )
    return client, db


INDEXES: Mapping[str, Sequence[IndexModel]] = {
    "events": [
        IndexModel([("user_id", ASCENDING), ("message_id", ASCENDING)], name="user_message", unique=True),
        IndexModel([("user_id", ASCENDING), ("seq", ASCENDING)], name="user_seq", unique=True),
        IndexModel(
            [("user_id", ASCENDING), ("conversation_id", ASCENDING), ("type", ASCENDING), ("seq", ASCENDING)],
            name="history",
        ),
        IndexModel(
            [("user_id", ASCENDING), ("payload.message_id", ASCENDING), ("seq", ASCENDING)],
            name="feedback",
            partialFilterExpression={"type": "feedback"},
        ),
        IndexModel([("at", ASCENDING)], name="to_correct", partialFilterExpression={"to_correct": True}),
    ],
    "turns": [
        IndexModel([("user_id", ASCENDING), ("turn_id", ASCENDING)], name="turn", unique=True),
        IndexModel(
            [("user_id", ASCENDING), ("conversation_id", ASCENDING), ("order", ASCENDING)],
            name="unfinished",
            partialFilterExpression={"unfinished": True},
        ),
        IndexModel([("created_at", ASCENDING)], name="waiting", partialFilterExpression={"unfinished": True}),
        IndexModel([("closed_at", ASCENDING)], name="to_learn", partialFilterExpression={"to_learn": True}),
    ],
    "conversations": [
        IndexModel([("user_id", ASCENDING), ("conversation_id", ASCENDING)], name="conversation", unique=True),
        IndexModel([("lease_until", ASCENDING)], name="leases", partialFilterExpression={"leased": True}),
        IndexModel([("since", ASCENDING)], name="since", sparse=True),
    ],
    "contexts": [
        IndexModel([("user_id", ASCENDING), ("session_id", ASCENDING)], name="session", unique=True),
        IndexModel([("user_id", ASCENDING), ("updated_at", DESCENDING)], name="newest"),
        IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
    ],
    "evidence": [IndexModel([("user_id", ASCENDING), ("observed_at", ASCENDING)], name="user")],
    "profiles": [IndexModel([("counted_at", ASCENDING)], name="counted")],
    "revocations": [IndexModel([("ends_at", ASCENDING)], name="end", expireAfterSeconds=0)],
    "statistics": [IndexModel([("user_id", ASCENDING)], name="user", unique=True, sparse=True)],
    "outbox": [
        IndexModel([("user_id", ASCENDING), ("at", ASCENDING), ("version", ASCENDING)], name="oldest"),
        IndexModel([("due_at", ASCENDING)], name="due"),
    ],
}


@stored
async def create_indexes(db: Database) -> None:
    """Make what is missing; running it again, or on several instances at once, changes nothing."""
    for name, models in INDEXES.items():
        if models:
            await db[name].create_indexes(list(models))


@stored
async def apply_retention(db: Database, days: Mapping[str, int]) -> None:
    """Let MongoDB remove what is older than so many days, per kind (`messages`, `evidence`); 0 keeps it for ever.

    Changes what an earlier setting made, while the service runs.
    """
    for kind, name, stamp in _RETAINED:
        seconds = days[kind] * 86_400
        if not seconds:
            with contextlib.suppress(OperationFailure):  # there was none
                await db[name].drop_index("retention")
            continue
        try:
            await db[name].create_index([(stamp, ASCENDING)], name="retention", expireAfterSeconds=seconds)
        except OperationFailure:  # it is there with another time
            await db.command("collMod", name, index={"name": "retention", "expireAfterSeconds": seconds})


_RETAINED: Sequence[tuple[str, str, str]] = (
    ("messages", "events", "at"),
    ("messages", "turns", "created_at"),  # an answer in the making holds its text
    ("evidence", "evidence", "observed_at"),
    ("evidence", "outbox", "at"),
)
"""What is removed in time. Contexts have an end of their own, titles and summaries `Memories.expire`, profiles are made
anew without what is too old; what else there is holds no words."""


@stored
async def ping(db: Database) -> None:
    """Raise `StorageUnavailable` unless a primary answers."""
    await db.command("ping")


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
        self._majority = self._events.with_options(read_concern=ReadConcern("majority"))
        self._marks: AsyncIOMotorCollection[Doc] = db["conversations"]
        self._users: AsyncIOMotorCollection[Doc] = db["users"]
        self._heads: dict[str, _Head] = {}
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
        found = self._users.find({"_id": _named(self._ids, user_id)}, {"floor": 1})
        return max([int(doc.get("floor", 0)) async for doc in found], default=0)

    async def _raise_floor(self, user_id: str, seq: int) -> None:
        await self._users.update_one({"_id": self._ids.user(user_id)}, {"$max": {"floor": seq}}, upsert=True)

    async def _majority_has(self, user_id: str, seq: int) -> None:
        for _ in range(100):
            if await self._majority.find_one({"user_id": user_id, "seq": seq}, {"_id": 1}):
                return
            await asyncio.sleep(0.01)
        raise StorageUnavailable()

    @stored
    async def read(self, user_id: str, after: int, limit: int) -> Sequence[Event]:
        query = {"user_id": user_id, "seq": {"$gt": after}}
        cursor = self._majority.find(query, _WITHOUT_VECTOR).sort("seq", ASCENDING).limit(limit)
        events, size = [], 0
        async for doc in cursor.batch_size(_READ_AT_ONCE):
            events.append(self._event(doc))
            size += _characters(events[-1].payload)
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
        await self._raise_floor(user_id, seq)
        await self._events.delete_one({"user_id": user_id, "seq": seq})

    @stored
    async def heads(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        pipeline: list[Doc] = [
            {"$match": {"user_id": {"$in": list(user_ids)}}},
            {"$sort": {"user_id": 1, "seq": -1}},
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
        forward = after is not None and before is None
        order = ASCENDING if forward else DESCENDING
        cursor = self._majority.find(query, _WITHOUT_VECTOR).sort("seq", order).limit(limit + 1)
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
            if len(events) == limit or characters < 0:
                await cursor.close()
                return events, True
            events.append(self._event(doc))
            characters -= _characters(events[-1].payload)
        return events, False

    @stored
    async def feedback(self, user_id: str, message_ids: Sequence[str]) -> Mapping[str, Json]:
        query = {"user_id": user_id, "type": "feedback", "payload.message_id": {"$in": list(message_ids)}}
        # As often as somebody likes to rate one answer: the newest of each is chosen by the index alone.
        about = {"$group": {"_id": "$payload.message_id", "seq": {"$max": "$seq"}}}
        seqs = [doc["seq"] async for doc in self._events.aggregate([{"$match": query}, about])]
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
        within_ms = _LEARN_WITHIN.total_seconds() * 1000
        due = {"$and": [{"$gt": [age_ms, older_than_s * 1000]}, {"$lt": [age_ms, within_ms]}]}
        query = {"to_correct": True, "$expr": due}
        return await _few_of_each(self._events, query, "message_id", "at", limit)

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
        names, seqs = [doc["_id"] for doc in found], {doc[end] for doc in found for end in ends}
        kept = {"conversation_id": 1, "read_seq": 1, "title": 1}
        query = {"user_id": user_id, "conversation_id": {"$in": names}}
        marks = {doc["conversation_id"]: doc async for doc in self._marks.find(query, kept)}
        said = self._majority.find({"user_id": user_id, "seq": {"$in": list(seqs)}}, _WITHOUT_VECTOR)
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
        newer = [{"conversation_id": name, "seq": {"$gt": seq}} for name, seq in marks.items()]
        pipeline: list[Doc] = [
            {"$match": {"user_id": user_id, "type": "twin_message", "$or": newer}},
            {"$group": {"_id": "$conversation_id", "unread": {"$sum": 1}}},
        ]
        return {doc["_id"]: doc["unread"] async for doc in self._majority.aggregate(pipeline)}

    @stored
    async def read_up_to(self, user_id: str, conversation_id: str) -> int:
        key = {"user_id": user_id, "conversation_id": conversation_id}
        found = await self._marks.find_one(key, {"read_seq": 1})
        return int(found.get("read_seq", 0)) if found else 0

    @stored
    async def mark_read(self, user_id: str, conversation_id: str, seq: int, epoch: int = 0) -> bool:
        key = {"user_id": user_id, "conversation_id": conversation_id}
        unread = {**key, "read_seq": {"$not": {"$gte": seq}}}
        change = {"$max": {"read_seq": seq, "epoch": epoch}}
        with fenced(self._fence, user_id, epoch):
            for _ in range(2):
                with contextlib.suppress(DuplicateKeyError):  # it is read so far already, or two upserts met
                    result = await self._marks.update_one(unread, change, upsert=True)
                    return bool(result.modified_count or result.upserted_id)
        return False

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
        return _event(doc, self._sealer)


def _characters(payload: Json) -> int:
    """How long the texts of an event are, about."""
    return sum(len(value) for value in payload.values() if isinstance(value, str))


def _event(doc: Doc, sealer: FieldCipher) -> Event:
    return Event(
        user_id=doc["user_id"],
        seq=doc["seq"],
        type=doc["type"],
        message_id=doc["message_id"],
        conversation_id=doc["conversation_id"],
        at=doc["at"],
        payload=sealer.open(doc["payload"]),
        session_id=doc["session_id"],
        in_response_to=doc["in_response_to"],
        epoch=doc.get("epoch", 0),
    )


@dataclass(frozen=True, slots=True)
class _Head:
    """The newest seq as this instance has written it, in which epoch and when (monotonic)."""

    seq: int
    epoch: int
    at: float


def _named(ids: Ids, user_id: str) -> Doc:
    """The user's documents in `users`: named by their hash, or by an earlier version by the id itself."""
    return {"$in": [ids.user(user_id), user_id]}


async def _upsert(collection: AsyncIOMotorCollection[Doc], key: Doc, update: Doc) -> bool:
    """Whether a document was made."""
    try:
        return (await collection.update_one(key, update, upsert=True)).upserted_id is not None
    except DuplicateKeyError:  # two upserts met; the document is there now
        await collection.update_one(key, update)
        return False


_EXPIRED = {"$lte": [{"$ifNull": ["$lease_until", _EVER]}, "$$NOW"]}


def _until(lease_s: float) -> Doc:
    return {"$add": ["$$NOW", int(lease_s * 1000)]}


class MongoTurns:
    """`Turns`: a document per answer, a lease per conversation on the database's clock.

    Beginning an answer waits for neither the majority nor the journal: it is done under a lease, which has waited for
    both; and where a crash of MongoDB takes it back, the answer cannot be settled (which asks for the generation) and
    is made again.
    """

    def __init__(
        self, db: Database, clock: Clock, sealer: FieldCipher | None = None, fence: Fence | None = None
    ) -> None:
        self._fence = fence
        self._sealer = sealer or FieldCipher()
        self._turns: AsyncIOMotorCollection[Doc] = db["turns"]
        self._leases: AsyncIOMotorCollection[Doc] = db["conversations"]
        self._turns_now = self._turns.with_options(write_concern=_NOW)
        self._clock = clock

    @stored
    async def ensure(self, turn: Turn) -> Turn:
        doc = {**asdict(turn), "partial": self._sealer.seal(turn.partial), "unfinished": True}
        try:
            with fenced(self._fence, turn.user_id, turn.epoch):
                await self._turns.insert_one(doc)
        except DuplicateKeyError:
            found = await self._turns.find_one({"user_id": turn.user_id, "turn_id": turn.turn_id})
            return self._turn(found) if found else turn
        return turn

    @stored
    async def get(self, user_id: str, turn_id: str) -> Turn | None:
        found = await self._turns.find_one({"user_id": user_id, "turn_id": turn_id})
        return self._turn(found) if found else None

    @stored
    async def pending_counts(self, user_id: str, limit: int) -> Mapping[str, int]:
        found = self._turns.find({"user_id": user_id, "unfinished": True}, {"conversation_id": 1}).limit(limit)
        return Counter([doc["conversation_id"] async for doc in found])

    @stored
    async def answering(self, user_id: str) -> int:
        held = {"user_id": user_id, "leased": True, "$expr": {"$not": [_EXPIRED]}}
        return await self._leases.count_documents(held)

    @stored
    async def acquire(self, user_id: str, conversation_id: str, owner: str, lease_s: float, epoch: int = 0) -> bool:
        key = {"user_id": user_id, "conversation_id": conversation_id}
        free = {"$or": [{"$in": [{"$ifNull": ["$owner", None]}, [None, owner]]}, _EXPIRED]}
        taken = {"owner": owner, "leased": True, "lease_until": _until(lease_s)}
        granted: Doc = {name: {"$cond": [free, value, f"${name}"]} for name, value in taken.items()}
        grant = [{"$set": {**granted, "epoch": {"$max": ["$epoch", epoch]}}}]
        for _ in range(2):
            # Two upserts that met: the document is there now.
            with contextlib.suppress(DuplicateKeyError), fenced(self._fence, user_id, epoch):
                found = await self._leases.find_one_and_update(
                    key, grant, {"owner": 1}, upsert=True, return_document=ReturnDocument.AFTER
                )
                return bool(found is not None and found["owner"] == owner)
        return False

    @stored
    async def renew(self, user_id: str, conversation_id: str, owner: str, lease_s: float) -> bool:
        key = {"user_id": user_id, "conversation_id": conversation_id, "owner": owner}
        result = await self._leases.update_one(key, [{"$set": {"lease_until": _until(lease_s)}}])
        return result.matched_count == 1

    @stored
    async def release(self, user_id: str, conversation_id: str, owner: str) -> None:
        key = {"user_id": user_id, "conversation_id": conversation_id, "owner": owner}
        await self._leases.update_one(key, {"$set": {"owner": None, "leased": False}})

    @stored
    async def next(self, user_id: str, conversation_id: str) -> Turn | None:
        query = {"user_id": user_id, "conversation_id": conversation_id, "unfinished": True}
        found = await self._turns.find_one(query, sort=[("order", ASCENDING)])
        return self._turn(found) if found else None

    @stored
    async def begin(self, turn: Turn, generation_id: str) -> Turn | None:
        if turn.state not in ("queued", "running"):
            return None
        found = await self._turns_now.find_one_and_update(
            {**_key(turn), "state": turn.state, "generation_id": turn.generation_id},
            {
                "$set": {"state": "running", "generation_id": generation_id},
                "$inc": {"attempts": 1, "lost": int(turn.state == "running")},
            },
            return_document=ReturnDocument.AFTER,
        )
        return self._turn(found) if found else None

    @stored
    async def hand_over(self, turn: Turn) -> None:
        running = {**_key(turn), "state": "running", "generation_id": turn.generation_id}
        await self._turns.update_one(running, {"$set": {"state": "queued"}})

    @stored
    async def checkpoint(self, turn: Turn, partial: str) -> Turn | None:
        found = await self._turns.find_one_and_update(
            {**_key(turn), "state": "running", "generation_id": turn.generation_id},
            {"$set": {"partial": self._sealer.seal(partial)}},
            return_document=ReturnDocument.AFTER,
        )
        return self._turn(found) if found else None

    @stored
    async def settle(self, turn: Turn, outcome: Outcome) -> bool:
        result = await self._turns.update_one(
            {**_key(turn), "state": {"$in": ["queued", "running"]}, "generation_id": turn.generation_id},
            {"$set": {"state": "settled", "outcome": self._sealer.seal(asdict(outcome))}},
        )
        return result.modified_count == 1

    @stored
    async def outcome(self, turn: Turn) -> Outcome | None:
        found = await self._turns.find_one(_key(turn), {"outcome": 1})
        if not found or not found.get("outcome"):
            return None
        fields = self._sealer.open(found["outcome"])
        return Outcome(**{**fields, "used_traits": tuple(fields["used_traits"])})

    @stored
    async def close(self, turn: Turn, status: str) -> bool:
        change = {
            "state": status,
            "unfinished": False,
            "partial": "",  # it stands in the log, and is kept for as long as that
            "closed_at": self._clock(),
            "to_learn": status in ("complete", "stopped") and turn.turn_id == turn.message_id,
        }
        done = {"$set": change, "$unset": {"outcome": ""}}
        if (await self._turns.update_one({**_key(turn), "unfinished": True}, done)).matched_count:
            return True
        # Closed before by somebody else is as good; only a turn that is gone has been erased.
        return await self._turns.find_one(_key(turn), {"_id": 1}) is not None

    @stored
    async def request_stop(self, user_id: str, message_id: str) -> Turn | None:
        found = await self._turns.find_one_and_update(
            {"user_id": user_id, "message_id": message_id, "state": {"$in": ["queued", "running"]}},
            {"$set": {"stop_requested": True}},
            sort=[("order", ASCENDING)],
            return_document=ReturnDocument.AFTER,
        )
        return self._turn(found) if found else None

    @stored
    async def abandoned(self, older_than_s: float, limit: int) -> Sequence[tuple[str, str]]:
        expired = self._leases.find({"leased": True, "$expr": _EXPIRED}, {"user_id": 1, "conversation_id": 1})
        found = {(doc["user_id"], doc["conversation_id"]) for doc in await expired.limit(limit).to_list(limit)}
        before = self._clock() - timedelta(seconds=older_than_s)
        waiting = self._turns.find({"unfinished": True, "created_at": {"$lt": before}})
        found.update((doc["user_id"], doc["conversation_id"]) for doc in await waiting.limit(limit).to_list(limit))
        return sorted(found)

    @stored
    async def unlearned(self, older_than_s: float, limit: int) -> Sequence[tuple[str, str]]:
        now = self._clock()
        closed = {"$lt": now - timedelta(seconds=older_than_s), "$gt": now - _LEARN_WITHIN}
        query = {"to_learn": True, "closed_at": closed}
        return await _few_of_each(self._turns, query, "turn_id", "closed_at", limit)

    @stored
    async def learned(self, user_id: str, turn_id: str) -> None:
        await self._turns.update_one({"user_id": user_id, "turn_id": turn_id}, {"$set": {"to_learn": False}})

    def _turn(self, doc: Doc) -> Turn:
        fields = {name: doc[name] for name in Turn.__slots__ if name in doc}  # older turns have not all of them
        return Turn(**{**fields, "partial": self._sealer.open(doc["partial"])})


def _key(turn: Turn) -> Doc:
    return {"user_id": turn.user_id, "turn_id": turn.turn_id}


class MongoContexts:
    """`Contexts`: one document a session, expired by the database. Kept as JSON text: hosts name fields `$x`, `a.b`."""

    def __init__(
        self, db: Database, clock: Clock, ttl_s: int, sealer: FieldCipher | None = None, fence: Fence | None = None
    ) -> None:
        self._fence = fence
        self._sealer = sealer or FieldCipher()
        self._contexts: AsyncIOMotorCollection[Doc] = db["contexts"]
        self._clock = clock
        self._ttl = timedelta(seconds=ttl_s)

    @stored
    async def get(self, user_id: str, session_id: str) -> Json:
        query = {"user_id": user_id, "session_id": session_id, "expires_at": {"$gt": self._clock()}}
        found = await self._contexts.find_one(query)
        return self._loaded(found["context"]) if found else {}

    @stored
    async def put(self, user_id: str, session_id: str, context: Json, epoch: int = 0) -> datetime:
        at = self._clock()
        expires_at = at + self._ttl
        change = {
            "$set": {
                "context": self._sealer.seal(orjson.dumps(context).decode()),
                "updated_at": at,
                "expires_at": expires_at,
                "epoch": epoch,
            }
        }
        mine = {"user_id": user_id, "session_id": session_id, "epoch": {"$not": {"$gt": epoch}}}
        with fenced(self._fence, user_id, epoch):
            if await _upsert(self._contexts, mine, change):
                await self._forget_oldest(user_id)
        return expires_at

    async def _forget_oldest(self, user_id: str) -> None:
        """A user may have as many sessions as they like; contexts are kept of the newest."""
        order = [("updated_at", DESCENDING)]
        async for doc in self._contexts.find({"user_id": user_id}, {"_id": 1}).sort(order).skip(_CONTEXTS_MAX):
            await self._contexts.delete_one({"_id": doc["_id"]})

    @stored
    async def newest(self, user_id: str) -> Json | None:
        query = {"user_id": user_id, "expires_at": {"$gt": self._clock()}}
        found = await self._contexts.find_one(query, sort=[("updated_at", DESCENDING)])
        return self._loaded(found["context"]) if found else None

    def _loaded(self, stored: Any) -> Json:
        loaded: Json = orjson.loads(self._sealer.open(stored))
        return loaded


class MongoStandings:
    """`Standings` by one aggregation: a trip through the driver costs a connection more than all that it reads."""

    def __init__(self, db: Database, fence: Fence | None = None) -> None:
        self._events = db["events"].with_options(read_concern=ReadConcern("majority"))
        self._ids = fence.ids if fence is not None else Ids()

    @stored
    async def of(self, user_id: str) -> ConnectSnapshot:
        mine = {"$match": {"_id": user_id}}
        named = {"$match": {"_id": _named(self._ids, user_id)}}
        kept = {"$group": {"_id": None, "floor": {"$max": "$floor"}, "epoch": {"$max": "$epoch"}}}
        owed = {"$match": {"user_id": user_id, "unfinished": True}}
        pipeline: list[Doc] = [
            {"$match": {"user_id": user_id}},
            {"$sort": {"seq": DESCENDING}},
            {"$limit": 1},
            {"$project": {"_id": 0, "seq": 1}},
            {"$unionWith": {"coll": "users", "pipeline": [named, kept]}},
            {"$unionWith": {"coll": "profiles", "pipeline": [mine, {"$project": {"_id": 0, "version": 1}}]}},
            {"$unionWith": {"coll": "turns", "pipeline": [owed, {"$limit": 1}, {"$project": {"unfinished": 1}}]}},
        ]
        found: dict[str, Any] = {}
        for doc in await self._events.aggregate(pipeline).to_list(None):
            found.update(doc)
        head = found["seq"] if "seq" in found else found.get("floor") or 0
        return ConnectSnapshot(head, found.get("version", 0), "unfinished" in found, found.get("epoch") or 0)


class MongoProfiles:
    """`Profiles`: evidence by its own id, the profile in one document that is replaced by version."""

    def __init__(
        self,
        db: Database,
        sealer: FieldCipher | None = None,
        outbox: MongoOutbox | None = None,
        fence: Fence | None = None,
        *,
        kept_for: timedelta | None = None,
        clock: Clock = now,
    ) -> None:
        """`outbox` is told every version, in one transaction with it. `kept_for`: evidence counts no longer than
        that, whenever the database removes it; None: for ever."""
        self._kept_for = kept_for
        self._clock = clock
        self._db = db
        self._fence = fence
        self._ids = fence.ids if fence is not None else Ids()
        self._outbox = outbox
        self._sealer = sealer or FieldCipher()
        self._evidence: AsyncIOMotorCollection[Doc] = db["evidence"]
        self._profiles: AsyncIOMotorCollection[Doc] = db["profiles"]

    @stored
    async def add_evidence(self, evidence: Sequence[Evidence], epoch: int = 0) -> int:
        new = 0
        for piece in evidence:
            name = self._ids.evidence(piece.user_id, piece.evidence_id)
            try:
                index = {"user_id": piece.user_id, "observed_at": piece.observed_at, "epoch": epoch}
                with fenced(self._fence, piece.user_id, epoch):
                    await self._evidence.insert_one({"_id": name, **index, "piece": self._sealer.seal(asdict(piece))})
                new += 1
            except DuplicateKeyError:
                continue
        return new

    @stored
    async def evidence(self, user_id: str, epoch: int = 0) -> Sequence[Evidence]:
        query: Doc = {"user_id": user_id}
        if self._kept_for is not None:
            query["observed_at"] = {"$gt": self._clock() - self._kept_for}
        if epoch:  # of before it there may be some that is being removed
            query["epoch"] = {"$gte": epoch}
        # In batches, each of which the driver decodes at one go: the loop has answers to stream meanwhile.
        docs = await self._evidence.find(query, batch_size=_BATCH).sort("observed_at", ASCENDING).to_list(None)
        return await _off_the_loop(len(docs), lambda: [Evidence(**self._sealer.open(doc["piece"])) for doc in docs])

    @stored
    async def remove_evidence(self, evidence: Sequence[Evidence]) -> None:
        names = [self._ids.evidence(piece.user_id, piece.evidence_id) for piece in evidence]
        for at in range(0, len(names), _BATCH):
            await self._evidence.delete_many({"_id": {"$in": names[at : at + _BATCH]}})

    @stored
    async def get(self, user_id: str) -> StoredProfile:
        found = await self._profiles.find_one({"_id": user_id})
        if found is None:
            return StoredProfile(Profile(user_id, 0, ()), ())
        size = len(found["traits"]["sealed"]) // _TRAIT_BYTES if is_sealed(found["traits"]) else len(found["traits"])
        return await _off_the_loop(size, lambda: self._opened(user_id, found))

    def _opened(self, user_id: str, found: Doc) -> StoredProfile:
        traits = tuple(Trait(**trait) for trait in self._sealer.open(found["traits"]))
        changes = self._sealer.open(found["untold"])
        untold = tuple(TraitChange(**{**change, "trait": Trait(**change["trait"])}) for change in changes)
        profile = Profile(user_id, found["version"], traits)
        return StoredProfile(
            profile, untold, found.get("stamp"), found.get("epoch", 0), self._good_until(found.get("oldest", _EVER))
        )

    def _good_until(self, oldest: datetime | None) -> datetime | None:
        if self._kept_for is None or oldest is None:
            return None
        return oldest + self._kept_for

    @stored
    async def revision(self, user_id: str) -> str | None:
        found = await self._profiles.find_one({"_id": user_id}, {"_id": 0, "stamp": 1})
        return found.get("stamp") if found else None

    @stored
    async def refresh(self, profile: StoredProfile, traits: Sequence[Trait], oldest: datetime | None) -> None:
        user_id = profile.profile.user_id
        same = {"_id": user_id, "version": profile.profile.version, "stamp": profile.revision}
        fresh = {"traits": self._sealer.seal([asdict(trait) for trait in traits]), "stamp": new_id(), "oldest": oldest}
        await self._profiles.update_one(same, {"$set": {**fresh, "keyed": self._ids.are_keyed}})

    @stored
    async def replace(
        self, profile: Profile, untold: Sequence[TraitChange], epoch: int = 0, oldest: datetime | None = None
    ) -> bool:
        with fenced(self._fence, profile.user_id, epoch):
            if self._outbox is None:
                return await self._replace(profile, untold, epoch, oldest, None)
            outbox = self._outbox

            async def both(session: AsyncIOMotorClientSession) -> bool:
                if not await self._replace(profile, untold, epoch, oldest, session):
                    return False
                await outbox.add(profile, session, epoch)
                return True

            try:
                async with await self._db.client.start_session() as session:
                    return await session.with_transaction(both, write_concern=self._db.write_concern)
            except DuplicateKeyError:
                return False

    async def _replace(
        self,
        profile: Profile,
        untold: Sequence[TraitChange],
        epoch: int,
        oldest: datetime | None,
        session: AsyncIOMotorClientSession | None,
    ) -> bool:
        def sealed() -> Doc:
            return {
                "traits": self._sealer.seal([asdict(trait) for trait in profile.traits]),
                "untold": self._sealer.seal([asdict(change) for change in untold]),
            }

        doc = {
            "epoch": epoch,
            "keyed": self._ids.are_keyed,
            "oldest": oldest,
            "version": profile.version + 1,
            "stamp": new_id(),
            **await _off_the_loop(len(profile.traits), sealed),
        }
        if profile.version == 0:
            try:
                await self._profiles.insert_one({"_id": profile.user_id, **doc}, session=session)
            except DuplicateKeyError:
                if session is not None:  # it has ended the transaction
                    raise
                return False
            return True
        # An erasure may have been followed by a new profile of the same version.
        same = {"_id": profile.user_id, "version": profile.version, "epoch": {"$not": {"$gt": epoch}}}
        return (await self._profiles.replace_one(same, doc, session=session)).modified_count == 1

    @stored
    async def users(self) -> Sequence[str]:
        return [doc["_id"] async for doc in self._profiles.find({}, {"_id": 1})]

    @stored
    async def told(self, user_id: str, version: int) -> None:
        await self._profiles.update_one({"_id": user_id, "version": version}, {"$set": {"untold": []}})


async def _few_of_each(
    collection: AsyncIOMotorCollection[Doc], query: Doc, name: str, at: str, limit: int
) -> list[tuple[str, str]]:
    """`(user_id, name)` of what is found, the newest first, and of a user no more than a few: one who has many does not
    stand in the others' way."""
    pipeline: list[Doc] = [
        {"$match": query},
        {"$sort": {at: DESCENDING}},
        {"$limit": _LOOKED_AT},
        {"$group": {"_id": "$user_id", "names": {"$push": f"${name}"}, "newest": {"$first": f"${at}"}}},
        {"$project": {"names": {"$slice": ["$names", _OF_EACH]}, "newest": 1}},
        {"$sort": {"newest": DESCENDING}},
    ]
    found = [(doc["_id"], doc["names"]) async for doc in collection.aggregate(pipeline)]
    turns = ((user_id, names[nth]) for nth in range(_OF_EACH) for user_id, names in found if nth < len(names))
    return list(itertools.islice(turns, limit))


async def _off_the_loop(size: int, work: Callable[[], T]) -> T:
    """What `work` gives; of more than a few things it is done in a thread."""
    return await asyncio.to_thread(work) if size > _ON_THE_LOOP else work()


class MongoOutbox:
    """`Outbox`: a document per version; an erasure that is to be carried out stands in `graph_erasures`."""

    def __init__(
        self, db: Database, clock: Clock, sealer: FieldCipher | None = None, fence: Fence | None = None
    ) -> None:
        self.clock = clock
        self._ids = fence.ids if fence is not None else Ids()
        self._sealer = sealer or FieldCipher()
        self._entries: AsyncIOMotorCollection[Doc] = db["outbox"]
        self._erasures: AsyncIOMotorCollection[Doc] = db["graph_erasures"]

    async def add(self, before: Profile, session: AsyncIOMotorClientSession, epoch: int = 0) -> None:
        """The version that comes after `before`'s, with its traits."""
        at = self.clock()
        traits = self._sealer.seal([asdict(trait) for trait in before.traits])
        key = {"user_id": before.user_id, "version": before.version + 1}
        entry = {**key, "at": at, "traits": traits, "due_at": at, "tries": 0, "epoch": epoch}
        await self._entries.insert_one(entry, session=session)

    @stored
    async def due(self, limit: int) -> Sequence[str]:
        due = {"$lte": self.clock()}
        erased = await self._erasures.find({"due_at": due}, {"who": 1}).limit(limit).to_list(limit)
        gone = [user_id for doc in erased if (user_id := self._ids.shown(doc["who"])) is not None]
        behind = await self._entries.find({"due_at": due}, {"user_id": 1}).sort("due_at").limit(limit).to_list(limit)
        return list(dict.fromkeys(gone + [doc["user_id"] for doc in behind]))

    @stored
    async def take(self, user_id: str) -> Projection | None:
        now = self.clock()
        oldest = await self._oldest(user_id)
        if oldest is None or oldest["due_at"] > now:
            return None
        free = {"_id": oldest["_id"], "due_at": oldest["due_at"]}
        held = {"$set": {"due_at": now + _HELD}}
        if not (await self._entries.update_one(free, held)).modified_count:
            return None
        traits = tuple(Trait(**trait) for trait in self._sealer.open(oldest["traits"]))
        return Projection(user_id, oldest["version"], oldest["at"], traits)

    async def _oldest(self, user_id: str) -> Doc | None:
        order = [("at", ASCENDING), ("version", ASCENDING)]  # versions begin anew after an erasure
        return await self._entries.find_one({"user_id": user_id}, sort=order)

    @stored
    async def done(self, projection: Projection) -> bool:
        key = {"user_id": projection.user_id, "version": projection.version, "at": projection.at}
        return (await self._entries.delete_one(key)).deleted_count == 1

    @stored
    async def postpone(self, user_id: str, first_s: float, most_s: float) -> None:
        now = self.clock()
        oldest = await self._oldest(user_id)
        if oldest is not None:
            wait = timedelta(seconds=min(most_s, first_s * 2 ** min(oldest["tries"], 20)))
            change = {"$set": {"due_at": now + wait}, "$inc": {"tries": 1}}
            await self._entries.update_one({"_id": oldest["_id"]}, change)
        waiting = {"_id": self._ids.user(user_id), "due_at": {"$lte": now}}
        await self._erasures.update_one(waiting, {"$set": {"due_at": now + timedelta(seconds=first_s)}})

    @stored
    async def length(self) -> int:
        return await self._entries.estimated_document_count()

    @stored
    async def erase(self, user_id: str, at: datetime) -> None:
        await self._entries.delete_many({"user_id": user_id, "at": {"$lte": at}})
        due = {"who": self._ids.hide(user_id), "erased_at": at, "due_at": at, "looked": False}
        await _upsert(self._erasures, {"_id": self._ids.user(user_id)}, {"$set": due})

    @stored
    async def erasure(self, user_id: str) -> datetime | None:
        found = await self._erasures.find_one({"_id": self._ids.user(user_id), "due_at": {"$lte": self.clock()}})
        return found["erased_at"] if found else None

    @stored
    async def erased(self, user_id: str, at: datetime) -> None:
        same = {"_id": self._ids.user(user_id), "erased_at": at}
        once_more = {"$set": {"due_at": self.clock() + _HELD, "looked": True}}
        if not (await self._erasures.delete_one({**same, "looked": True})).deleted_count:
            await self._erasures.update_one(same, once_more)


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
            _event(doc, self._sealer)
            for doc in reversed(await cursor.to_list(newest))
            if doc["type"] in MESSAGES and doc.get("vector_of") != model
        ]

    @stored
    async def embed(self, user_id: str, model: str, vectors: Sequence[MessageVector]) -> None:
        for one in vectors:
            kept = {"vector": self._sealer.seal(one.vector), "vector_of": model}
            await self._events.update_one({"user_id": user_id, "message_id": one.message_id}, {"$set": kept})

    @stored
    async def vectors(self, user_id: str, model: str, limit: int, *, after: int = 0) -> Sequence[MessageVector]:
        query = {"user_id": user_id, "seq": {"$gt": after}, "type": {"$in": list(MESSAGES)}, "vector_of": model}
        cursor = self._events.find(query, {"message_id": 1, "seq": 1, "vector": 1}).sort("seq", DESCENDING).limit(limit)
        found = await cursor.to_list(limit)
        # Opening 2,000 takes 25 ms where they are sealed: the loop has answers to stream meanwhile.
        return await asyncio.to_thread(
            lambda: [MessageVector(doc["message_id"], self._sealer.open(doc["vector"]), doc["seq"]) for doc in found]
        )

    @stored
    async def messages(self, user_id: str, message_ids: Sequence[str]) -> Sequence[Event]:
        query = {"user_id": user_id, "message_id": {"$in": list(message_ids)}, "type": {"$in": list(MESSAGES)}}
        found = await self._events.find(query, _WITHOUT_VECTOR).to_list(None)
        return [_event(doc, self._sealer) for doc in found]


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
    async def answers(self, user_id: str) -> Answers:
        found = await self._statistics.find_one({"user_id": user_id}, {"answers": 1})
        before = Answers(**found["answers"]) if found else Answers()
        through, count, using = before.through_seq, before.count, before.using
        query = {"user_id": user_id, "seq": {"$gt": through}, "type": "twin_message"}
        async for doc in self._events.find(query, {"seq": 1, "payload": 1}).sort("seq", ASCENDING):
            payload = self._sealer.open(doc["payload"])
            through = doc["seq"]
            if payload["status"] != "failed":
                count += 1
                using += bool(payload.get("used_traits"))
        return Answers(through, count, using)

    @stored
    async def put(
        self, user_id: str, at: datetime, counts: Json, answers: Answers, stamp: str | None, epoch: int = 0
    ) -> None:
        change = {"$set": {"at": at, "counts": dict(counts), "answers": asdict(answers), "epoch": epoch}}
        with fenced(self._fence, user_id, epoch):
            await _upsert(self._statistics, {"user_id": user_id, "epoch": {"$not": {"$gt": epoch}}}, change)
        await self._profiles.update_one({"_id": user_id, "stamp": stamp}, {"$set": {"counted_at": at}})

    @stored
    async def due(self, before: datetime, limit: int) -> Sequence[str]:
        query = {"$or": [{"counted_at": None}, {"counted_at": {"$lt": before}}]}
        return [doc["_id"] for doc in await self._profiles.find(query, {"_id": 1}).limit(limit).to_list(limit)]

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


class MongoPersonalData:
    """`PersonalData`: the epochs and the floors of the seqs stand in `users`, which names nobody. Erasures that are to
    be carried out again stand in `erasures`, with the user's id hidden, until the last time."""

    def __init__(
        self,
        db: Database,
        sealer: FieldCipher | None = None,
        fence: Fence | None = None,
        outbox: MongoOutbox | None = None,
    ) -> None:
        """`outbox`: there is a graph, which has to go, too."""
        self._db = db
        self._outbox = outbox
        self._fence = fence or Fence(db, Ids())
        self._ids = self._fence.ids
        self._sealer = sealer or FieldCipher()
        self._users: AsyncIOMotorCollection[Doc] = db["users"]
        self._erasures: AsyncIOMotorCollection[Doc] = db["erasures"]

    async def export(self, user_id: str) -> AsyncGenerator[Json, None]:
        try:
            for kind, name in PERSONAL.items():
                cursor = self._db[name].find(owner(name, user_id), _WITHOUT_VECTOR, batch_size=_EXPORTED_AT_ONCE)
                async for doc in cursor:
                    yield {"kind": kind, **self._readable(name, doc)}
        except PyMongoError as error:
            raise StorageUnavailable() from error

    def _readable(self, name: str, doc: Doc) -> Doc:
        sealed = _SEALED_FIELDS.get(name, ())
        for unread in ("_id", "epoch"):
            doc.pop(unread, None)
        return {field: self._sealer.open(value) if field in sealed else value for field, value in doc.items()}

    @stored
    async def epoch(self, user_id: str) -> int:
        return await self._fence.epoch(user_id)

    @stored
    async def erase(self, user_id: str) -> Erased:
        name = self._ids.user(user_id)
        # The fence first: whoever writes after the removal is behind it, whoever wrote before is removed.
        risen = [{"$set": {"epoch": {"$add": [{"$ifNull": ["$epoch", 0]}, 1]}, "erased_at": "$$NOW"}}]
        found = None
        for _ in range(2):
            with contextlib.suppress(DuplicateKeyError):  # two upserts met
                found = await self._users.find_one_and_update(
                    {"_id": name}, risen, upsert=True, return_document=ReturnDocument.AFTER
                )
                break
        if found is None:
            raise StorageUnavailable
        epoch = found["epoch"]
        again = {"who": self._ids.hide(user_id), "epoch": epoch, "looks": 0}
        await self._erasures.update_one({"_id": name}, [{"$set": {**again, "due_at": _until(LOOKS_S[0])}}], upsert=True)
        self._fence.rise(user_id, epoch)
        if self._outbox is not None:
            await self._outbox.erase(user_id, self._outbox.clock())
        return Erased(epoch, await self._fence.remove(user_id, epoch))

    @stored
    async def erase_late(self, user_id: str, epoch: int) -> int:
        return sum((await self._fence.remove(user_id, epoch)).values())

    @stored
    async def erasures_due(self, limit: int) -> Sequence[tuple[str, int]]:
        held = [{"$set": {"due_at": _until(_HELD.total_seconds())}}]
        due: list[tuple[str, int]] = []
        while len(due) < limit:
            found = await self._erasures.find_one_and_update({"$expr": {"$lte": ["$due_at", "$$NOW"]}}, held)
            if found is None:
                break
            user_id = self._ids.shown(found["who"])
            if user_id is None:  # hidden by a key that is lost
                await self._erasures.delete_one({"_id": found["_id"]})
            else:
                due.append((user_id, found["epoch"]))
        return due

    @stored
    async def erased(self, user_id: str, epoch: int) -> None:
        same = {"_id": self._ids.user(user_id), "epoch": epoch}
        found = await self._erasures.find_one_and_update(same, {"$inc": {"looks": 1}})
        looks = found["looks"] + 1 if found else 0
        if looks >= len(LOOKS_S):
            await self._erasures.delete_one({**same, "looks": looks})
        elif found:
            await self._erasures.update_one(same, [{"$set": {"due_at": _until(LOOKS_S[looks])}}])


_SEALED_FIELDS: Mapping[str, Sequence[str]] = {
    "events": ("payload", "vector"),
    "conversations": ("title", "summary"),
    "turns": ("partial", "outcome"),
    "contexts": ("context",),
    "evidence": ("piece",),
    "profiles": ("traits", "untold"),
    "outbox": ("traits",),
    "keys": ("key",),
}


@stored
async def reencrypt(db: Database, sealer: FieldCipher, on_progress: Callable[[str, int, int], None]) -> int:
    """Bring everything that is stored under the first key, while the service runs; how many values were rewritten.

    `on_progress(collection, done, of)` is called now and then. Stopping in the middle loses nothing.
    """
    rewritten = 0
    for name, fields in _SEALED_FIELDS.items():
        collection: AsyncIOMotorCollection[Doc] = db[name]
        total, done = await collection.estimated_document_count(), 0
        async for doc in collection.find({}, dict.fromkeys(fields, 1)):
            for field in (one for one in fields if one in doc):
                fresh = _resealed(sealer, doc[field])
                # Only where it still reads the same: whoever has written since has used the first key already.
                result = await collection.update_one({"_id": doc["_id"], field: doc[field]}, {"$set": {field: fresh}})
                rewritten += result.modified_count
            done += 1
            if done % 500 == 0:
                on_progress(name, done, total)
        on_progress(name, done, max(total, done))
    return rewritten


def _resealed(sealer: FieldCipher, stored: Any) -> Any:
    value = sealer.open(stored)
    fresh = sealer.seal(value)
    if is_sealed(fresh) and isinstance(value, Mapping) and "message_id" in value:
        fresh["message_id"] = value["message_id"]
    return fresh

"""The connection, the indexes, and retention."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from bson.codec_options import CodecOptions
from motor.motor_asyncio import (
    AsyncIOMotorClient,
    AsyncIOMotorCollection,
    AsyncIOMotorDatabase,
)
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import ConfigurationError, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from twin_sio.domain import Event, Json
from twin_sio.errors import StorageUnavailable
from twin_sio.observability.tracing import span
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.ids import Ids

Doc = dict[str, Any]
Database = AsyncIOMotorDatabase[Doc]
_DATABASE = "twin_sio"  # where neither a setting nor the URL names one
# The events that people read: history, recall and search are made of these.
MESSAGES = ("user_message", "twin_message")
# Before all that is stored, in the place of a time that is missing.
EVER = datetime(1970, 1, 1, tzinfo=UTC)
RESERVED_FOR = timedelta(minutes=1)  # a version is reserved for one worker: longer than any takes
WITHOUT_VECTOR = {"vector": 0, "vector_of": 0}  # a message's vector is in its document, and only recall reads it

P = ParamSpec("P")
T = TypeVar("T")
_LOOKED_AT = 50_000  # of what was not learnt from, by a sweep
_OF_EACH = 10  # of one user's, that a sweep finds
_ON_THE_LOOP = 100  # things that are opened or sealed where answers are streamed; more in a thread


def stored(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Raise the driver's errors as `StorageUnavailable`."""

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
    than `timeout_ms`. Without a `database` it is the one that the URL names, else `twin_sio`. The caller closes the
    client. Raises `ValueError` for a URL that is none, or names a file that cannot be read."""
    try:
        client: AsyncIOMotorClient[Doc] = AsyncIOMotorClient(
            url,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            timeoutMS=timeout_ms,
            tz_aware=True,
            appname="twin_sio",
            # A URL may say otherwise, as those that providers give for their clusters: what was just written is read.
            readPreference="primary",
        )
    except (ConfigurationError, OSError):  # OSError: a file of certificates that cannot be read
        raise ValueError("no URL of a MongoDB") from None
    db = client.get_database(
        database or client.get_default_database(_DATABASE).name,
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
        IndexModel(
            [("user_id", ASCENDING), ("absorbed_by", ASCENDING), ("order", ASCENDING)],
            name="absorbed",
            partialFilterExpression={"absorbed_by": {"$exists": True}},
        ),
    ],
    "run_entries": [
        IndexModel([("user_id", ASCENDING), ("kind", ASCENDING), ("key", ASCENDING)], name="entry", unique=True),
        IndexModel([("user_id", ASCENDING), ("turn_id", ASCENDING)], name="turn"),
    ],
    "host_tools": [
        IndexModel([("user_id", ASCENDING), ("session_id", ASCENDING)], name="session", unique=True),
        IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
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
    ("messages", "run_entries", "at"),
    ("evidence", "evidence", "observed_at"),
    ("evidence", "outbox", "at"),
)
"""What is removed in time. Contexts have an end of their own, titles and summaries `Memories.expire`, profiles are made
anew without what is too old; what else there is holds no words."""


@stored
async def ping(db: Database) -> None:
    """Raise `StorageUnavailable` unless a primary answers."""
    await db.command("ping")


@stored
async def check_rights(db: Database) -> None:
    """Raise `StorageUnavailable` unless the user of the URL may read this database."""
    await db["keys"].find_one({}, {"_id": 1})


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


def _until(lease_s: float) -> Doc:
    return {"$add": ["$$NOW", int(lease_s * 1000)]}


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

"""Queries and updates that several collections share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import DESCENDING
from pymongo.errors import DuplicateKeyError

from twin_sio.store.ids import Ids
from twin_sio.store.mongo.client import Doc, T

LEARN_WITHIN = timedelta(days=1)  # what was closed longer ago, and was not learnt from, no sweep finds
_LOOKED_AT = 50_000  # of what was not learnt from, by a sweep
_OF_EACH = 10  # of one user's, that a sweep finds
_ON_THE_LOOP = 100  # things that are opened or sealed where answers are streamed; more in a thread


def user_document(ids: Ids, user_id: str) -> Doc:
    """What `_id` the user's documents in `users` have: a hash of the id, of an earlier version the id."""
    return {"$in": [ids.user(user_id), user_id]}


async def upsert(collection: AsyncIOMotorCollection[Doc], key: Doc, update: Doc) -> bool:
    """Whether a document was made."""
    try:
        return (await collection.update_one(key, update, upsert=True)).upserted_id is not None
    except DuplicateKeyError:  # two upserts met; the document is there now
        await collection.update_one(key, update)
        return False


def until(lease_s: float) -> Doc:
    """The instant so many seconds from now, on the database's clock."""
    return {"$add": ["$$NOW", int(lease_s * 1000)]}


async def few_of_each(
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


async def off_the_loop(size: int, work: Callable[[], T]) -> T:
    """What `work` gives; of more than a few things it is done in a thread."""
    return await asyncio.to_thread(work) if size > _ON_THE_LOOP else work()


# -- work on documents that has failed, and is tried again ever later ------------------------------------------------
# Until when it is postponed stands in the document itself, by the name of the work, on the database's clock: where the
# document is written anew, and so may have been repaired, it is looked at at once.

_FIRST_MS = 60_000  # a store that was away is back by then
_MOST_MS = 6 * 3_600_000  # what was repaired manually is looked at within a working day
_DOUBLINGS = 9  # from the first to the most


def not_postponed(work: str) -> Doc:
    """The part of a query that leaves out what is postponed; documents that never were come with it."""
    return {"$expr": {"$lte": [{"$ifNull": [f"$postponed.{work}.until", None]}, "$$NOW"]}}


async def postpone(collection: AsyncIOMotorCollection[Doc], key: Any, work: str) -> None:
    """Leave the document of this `_id` alone: for a minute, then two, up to six hours."""
    tries = {"$ifNull": [f"$postponed.{work}.tries", 0]}
    wait_ms = {"$min": [_MOST_MS, {"$multiply": [_FIRST_MS, {"$pow": [2, {"$min": [tries, _DOUBLINGS]}]}]}]}
    later = {"tries": {"$add": [tries, 1]}, "until": {"$add": ["$$NOW", wait_ms]}}
    await collection.update_one({"_id": key}, [{"$set": {f"postponed.{work}": later}}])

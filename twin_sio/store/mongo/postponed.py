"""Work on documents that has failed and is tried again ever later, so that it stands in nobody else's way.

Until when stands in the document itself, by the name of the work, on the database's clock: where the document is
written anew, and so may have been repaired, it is looked at at once.
"""

from __future__ import annotations

from typing import Any

from motor.motor_asyncio import AsyncIOMotorCollection

from twin_sio.store.mongo.fence import Doc

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

"""Sealing all text again under the newest key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from motor.motor_asyncio import AsyncIOMotorCollection

from twin_sio.store.encryption import FieldCipher, is_sealed
from twin_sio.store.mongo.client import Database, Doc, stored

SEALED_FIELDS: Mapping[str, Sequence[str]] = {
    "events": ("payload", "vector"),
    "conversations": ("title", "summary"),
    "turns": ("partial", "outcome", "run"),
    "run_entries": ("value",),
    "host_tools": ("tools",),
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
    for name, fields in SEALED_FIELDS.items():
        collection: AsyncIOMotorCollection[Doc] = db[name]
        total, done = await collection.estimated_document_count(), 0
        async for doc in collection.find({}, dict.fromkeys(fields, 1)):
            for field in (one for one in fields if one in doc):
                fresh = _resealed(sealer, doc[field])
                # Only where it is unchanged: a write since has used the first key already.
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

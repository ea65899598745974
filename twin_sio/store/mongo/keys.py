"""The keys that ids are made with: made once, kept beside the data, sealed where text is."""

from __future__ import annotations

from typing import Any

from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from twin_sio.errors import StorageUnavailable
from twin_sio.store.encryption import FieldCipher, is_sealed
from twin_sio.store.ids import Ids, new_key

Database = AsyncIOMotorDatabase[dict[str, Any]]


async def load_ids(db: Database, sealer: FieldCipher) -> Ids:
    """The ids of this database, the same for every instance. Where there is a sealing key there are names by a key,
    too (see `Ids`); a rotation changes neither. Raises `StorageUnavailable`, also where no sealing key fits."""
    try:
        users = await _key(db, sealer, "users")
        return Ids(users, await _key(db, sealer, "names") if sealer.seals else None)
    except PyMongoError as error:
        raise StorageUnavailable from error


async def _key(db: Database, sealer: FieldCipher, name: str) -> bytes:
    keys = db["keys"]
    found = await keys.find_one({"_id": name})
    while found is None:
        fresh = {"$setOnInsert": {"key": sealer.seal(new_key())}}
        try:
            found = await keys.find_one_and_update(
                {"_id": name}, fresh, upsert=True, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError:  # another instance was first
            found = await keys.find_one({"_id": name})
    if sealer.seals and not is_sealed(found["key"]):
        same = {"_id": name, "key": found["key"]}
        await keys.update_one(same, {"$set": {"key": sealer.seal(found["key"])}})
    return bytes(sealer.open(found["key"]))

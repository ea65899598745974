"""Export and erasure."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from twin_sio.domain import Json
from twin_sio.errors import StorageUnavailable
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.ids import Ids
from twin_sio.store.mongo.client import RESERVED_FOR, WITHOUT_VECTOR, Database, Doc, stored
from twin_sio.store.mongo.fence import LOOKS_S, PERSONAL, Fence, owner
from twin_sio.store.mongo.outbox import MongoOutbox
from twin_sio.store.mongo.queries import until
from twin_sio.store.mongo.reencryption import SEALED_FIELDS
from twin_sio.store.ports import Erased

_EXPORTED_AT_ONCE = 8  # documents: a batch of the driver's own choice holds 16 MiB


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
                cursor = self._db[name].find(owner(name, user_id), WITHOUT_VECTOR, batch_size=_EXPORTED_AT_ONCE)
                async for doc in cursor:
                    yield {"kind": kind, **self._readable(name, doc)}
        except PyMongoError as error:
            raise StorageUnavailable() from error

    def _readable(self, name: str, doc: Doc) -> Doc:
        sealed = SEALED_FIELDS.get(name, ())
        for unread in ("_id", "epoch", "postponed"):
            doc.pop(unread, None)
        return {field: self._sealer.open(value) if field in sealed else value for field, value in doc.items()}

    @stored
    async def epoch(self, user_id: str) -> int:
        return await self._fence.epoch(user_id)

    @stored
    async def erase(self, user_id: str) -> Erased:
        name = self._ids.user(user_id)
        # Before all else that it is to be done: where this process dies the worker does it.
        planned = await self._fence.epoch(user_id) + 1
        await self._plan(user_id, planned)
        # The epoch before the removal: a write after it is refused, a write before is removed.
        begun = {"erased_at": "$$NOW", "erasing": "$$NOW"}
        risen = [{"$set": {"epoch": {"$add": [{"$ifNull": ["$epoch", 0]}, 1]}, **begun}}]
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
        if epoch > planned:  # two erase at once
            await self._plan(user_id, epoch)
        self._fence.rise(user_id, epoch)
        await self._erase_graph(user_id)
        removed = await self._fence.remove(user_id, epoch)
        await self._erase_graph(user_id)  # once more: it may have been made anew of what was still there
        return Erased(epoch, removed)

    async def _erase_graph(self, user_id: str) -> None:
        if self._outbox is not None:
            await self._outbox.erase(user_id, self._outbox.clock())

    async def _plan(self, user_id: str, epoch: int) -> None:
        again = {"who": self._ids.hide(user_id), "epoch": {"$max": ["$epoch", epoch]}, "looks": 0}
        planned = [{"$set": {**again, "due_at": until(LOOKS_S[0])}}]
        await self._erasures.update_one({"_id": self._ids.user(user_id)}, planned, upsert=True)

    @stored
    async def allow_connections(self, user_id: str, epoch: int) -> None:
        await self._users.update_one({"_id": self._ids.user(user_id), "epoch": epoch}, {"$unset": {"erasing": ""}})

    @stored
    async def erase_late(self, user_id: str, epoch: int) -> int:
        await self._users.update_one({"_id": self._ids.user(user_id)}, {"$max": {"epoch": epoch}}, upsert=True)
        return sum((await self._fence.remove(user_id, epoch)).values())

    @stored
    async def erasures_due(self, limit: int) -> Sequence[tuple[str, int]]:
        held = [{"$set": {"due_at": until(RESERVED_FOR.total_seconds())}}]
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
            await self._erasures.update_one(same, [{"$set": {"due_at": until(LOOKS_S[looks])}}])

"""Profiles and evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from motor.motor_asyncio import AsyncIOMotorClientSession, AsyncIOMotorCollection
from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError

from twin_sio.clock import Clock, new_id, now
from twin_sio.domain import Evidence, Profile, Trait, TraitChange
from twin_sio.store.encryption import FieldCipher, is_sealed
from twin_sio.store.ids import Ids
from twin_sio.store.mongo.client import EVER, Database, Doc, stored
from twin_sio.store.mongo.documents import piece_of, trait_of
from twin_sio.store.mongo.fence import Fence, fenced
from twin_sio.store.mongo.outbox import MongoOutbox
from twin_sio.store.mongo.queries import off_the_loop
from twin_sio.store.ports import SCORING_VERSION, StoredProfile

_BATCH = 500  # pieces of evidence that are decoded, or removed, at one go
_TRAIT_BYTES = 400  # of a sealed trait, about


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
        """`outbox` gets every version, in one transaction with it. `kept_for`: evidence counts no longer than
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
        return await off_the_loop(len(docs), lambda: [piece_of(self._sealer.open(doc["piece"])) for doc in docs])

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
        return await off_the_loop(size, lambda: self._opened(user_id, found))

    def _opened(self, user_id: str, found: Doc) -> StoredProfile:
        traits = tuple(map(trait_of, self._sealer.open(found["traits"])))
        changes = self._sealer.open(found["untold"])
        unpublished = tuple(TraitChange(**{**change, "trait": trait_of(change["trait"])}) for change in changes)
        profile = Profile(user_id, found["version"], traits)
        return StoredProfile(
            profile, unpublished, found.get("stamp"), found.get("epoch", 0), self._good_until(found.get("oldest", EVER))
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
        fresh = {
            "traits": self._sealer.seal([asdict(trait) for trait in traits]),
            "keyed": self._ids.are_keyed,
            "reading": SCORING_VERSION,
            "oldest": oldest,
            "stamp": new_id(),
        }
        await self._profiles.update_one(same, {"$set": fresh})

    @stored
    async def replace(
        self, profile: Profile, unpublished: Sequence[TraitChange], epoch: int = 0, oldest: datetime | None = None
    ) -> bool:
        with fenced(self._fence, profile.user_id, epoch):
            if self._outbox is None:
                return await self._replace(profile, unpublished, epoch, oldest, None)
            outbox = self._outbox

            async def both(session: AsyncIOMotorClientSession) -> bool:
                if not await self._replace(profile, unpublished, epoch, oldest, session):
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
        unpublished: Sequence[TraitChange],
        epoch: int,
        oldest: datetime | None,
        session: AsyncIOMotorClientSession | None,
    ) -> bool:
        def sealed() -> Doc:
            return {
                "traits": self._sealer.seal([asdict(trait) for trait in profile.traits]),
                "untold": self._sealer.seal([asdict(change) for change in unpublished]),
            }

        doc = {
            "epoch": epoch,
            "keyed": self._ids.are_keyed,
            "reading": SCORING_VERSION,
            "oldest": oldest,
            "version": profile.version + 1,
            "stamp": new_id(),
            **await off_the_loop(len(profile.traits), sealed),
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
    async def mark_published(self, user_id: str, version: int) -> None:
        await self._profiles.update_one({"_id": user_id, "version": version}, {"$set": {"untold": []}})

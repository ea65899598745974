"""The answers that are owed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ASCENDING, ReturnDocument
from pymongo.errors import DuplicateKeyError
from pymongo.write_concern import WriteConcern

from twin_sio.clock import Clock
from twin_sio.domain import Outcome, Step, Turn
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.mongo.client import EVER, Database, Doc, stored
from twin_sio.store.mongo.fence import Fence, fenced
from twin_sio.store.mongo.queries import LEARN_WITHIN, few_of_each, until

_NOW = WriteConcern(w=1, j=False)
_OPEN = ["queued", "running", "suspended"]  # it can be settled, and stopped
_EXPIRED = {"$lte": [{"$ifNull": ["$lease_until", EVER]}, "$$NOW"]}


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
        taken = {"owner": owner, "leased": True, "lease_until": until(lease_s)}
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
        result = await self._leases.update_one(key, [{"$set": {"lease_until": until(lease_s)}}])
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
            {**turn_key(turn), "state": turn.state, "generation_id": turn.generation_id},
            {
                "$set": {"state": "running", "generation_id": generation_id},
                "$inc": {"attempts": 1, "lost": int(turn.state == "running")},
            },
            return_document=ReturnDocument.AFTER,
        )
        return self._turn(found) if found else None

    @stored
    async def hand_over(self, turn: Turn) -> None:
        running = {**turn_key(turn), "state": "running", "generation_id": turn.generation_id}
        await self._turns.update_one(running, {"$set": {"state": "queued"}})

    @stored
    async def checkpoint(self, turn: Turn, partial: str) -> Turn | None:
        found = await self._turns.find_one_and_update(
            {**turn_key(turn), "state": "running", "generation_id": turn.generation_id},
            {"$set": {"partial": self._sealer.seal(partial)}},
            return_document=ReturnDocument.AFTER,
        )
        return self._turn(found) if found else None

    @stored
    async def settle(self, turn: Turn, outcome: Outcome) -> bool:
        result = await self._turns.update_one(
            {**turn_key(turn), "state": {"$in": _OPEN}, "generation_id": turn.generation_id},
            {"$set": {"state": "settled", "outcome": self._sealer.seal(_stored_fields(outcome))}},
        )
        return result.modified_count == 1

    @stored
    async def outcome(self, turn: Turn) -> Outcome | None:
        found = await self._turns.find_one(turn_key(turn), {"outcome": 1})
        if not found or not found.get("outcome"):
            return None
        fields = self._sealer.open(found["outcome"])
        known = {
            name: value for name, value in fields.items() if name in Outcome.__slots__
        }  # a newer one may have more
        sequences = {name: tuple(known.get(name, ())) for name in ("used_traits", "steered_by")}
        steps = tuple(Step(**step) for step in known.get("steps", ()))
        return Outcome(**{**known, **sequences, "steps": steps})

    @stored
    async def close(self, turn: Turn, status: str) -> bool:
        change = {
            "state": status,
            "unfinished": False,
            "partial": "",  # it stands in the log, and is kept for as long as that
            "closed_at": self._clock(),
            "to_learn": status in ("complete", "stopped") and turn.turn_id == turn.message_id,
        }
        done = {"$set": change, "$unset": {"outcome": "", "run": ""}}
        if (await self._turns.update_one({**turn_key(turn), "unfinished": True}, done)).matched_count:
            return True
        # Closed before by somebody else is as good; only a turn that is gone has been erased.
        return await self._turns.find_one(turn_key(turn), {"_id": 1}) is not None

    @stored
    async def request_stop(self, user_id: str, message_id: str) -> Turn | None:
        found = await self._turns.find_one_and_update(
            {"user_id": user_id, "message_id": message_id, "unfinished": True, "state": {"$in": _OPEN}},
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
        # The oldest turn of a conversation decides: where that waits for its user, the ones behind it wait as well.
        key = {"user_id": "$user_id", "conversation_id": "$conversation_id"}
        first: Doc = {name: {"$first": f"${name}"} for name in ("state", "due_at", "stop_requested")}
        held = {"$and": [{"$eq": ["$state", "suspended"]}, {"$gt": ["$due_at", "$$NOW"]}, {"$not": "$stop_requested"}]}
        pipeline: list[Doc] = [
            {"$match": {"unfinished": True, "created_at": {"$lt": before}}},
            {"$sort": {"order": ASCENDING}},
            {"$group": {"_id": key, **first}},
            {"$match": {"$expr": {"$not": held}}},
            {"$limit": limit},
        ]
        waiting = [doc["_id"] async for doc in self._turns.aggregate(pipeline)]
        found.update((one["user_id"], one["conversation_id"]) for one in waiting)
        return sorted(found)

    @stored
    async def unlearned(self, older_than_s: float, limit: int) -> Sequence[tuple[str, str]]:
        now = self._clock()
        closed = {"$lt": now - timedelta(seconds=older_than_s), "$gt": now - LEARN_WITHIN}
        query = {"to_learn": True, "closed_at": closed}
        return await few_of_each(self._turns, query, "turn_id", "closed_at", limit)

    @stored
    async def to_learn(self, turn: Turn, limit: int) -> Sequence[Turn]:
        query = {
            "user_id": turn.user_id,
            "conversation_id": turn.conversation_id,
            "to_learn": True,
            "closed_at": {"$exists": True},
            # Not others of its place: each of these would find another one first, and none would ever be learned.
            "$or": [{"turn_id": turn.turn_id}, {"order": {"$gt": turn.order}}],
        }
        docs = await self._turns.find(query).sort("order", ASCENDING).to_list(limit)
        return [self._turn(doc) for doc in docs] if docs and docs[0]["turn_id"] == turn.turn_id else []

    @stored
    async def learned(self, user_id: str, turn_id: str) -> None:
        await self._turns.update_one({"user_id": user_id, "turn_id": turn_id}, {"$set": {"to_learn": False}})

    def _turn(self, doc: Doc) -> Turn:
        return turn_of(doc, self._sealer)


def turn_of(doc: Doc, sealer: FieldCipher) -> Turn:
    """A stored turn; older ones have not all of the fields."""
    fields = {name: doc[name] for name in Turn.__slots__ if name in doc}
    return Turn(**{**fields, "partial": sealer.open(doc["partial"]), "awaiting": tuple(doc.get("awaiting", ()))})


def _stored_fields(outcome: Outcome) -> Doc:
    """Without what it does not tell: an instance of an older version knows less, and may finish the turn."""
    return {name: value for name, value in asdict(outcome).items() if value is not None}


def turn_key(turn: Turn) -> Doc:
    return {"user_id": turn.user_id, "turn_id": turn.turn_id}

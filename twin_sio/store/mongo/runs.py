"""What answers in several steps leave between their attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import orjson
from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.errors import DuplicateKeyError

from twin_sio.clock import Clock
from twin_sio.domain import Caller, Decision, HostTool, Json, SavedRun, Turn
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.mongo.client import Database, Doc, stored
from twin_sio.store.mongo.fence import Fence, fenced
from twin_sio.store.mongo.queries import until, upsert
from twin_sio.store.mongo.turns import turn_key, turn_of

_OFFERED_FOR = timedelta(days=1)
_ACTIVE = ["running", "suspended"]


class MongoRuns:
    """`Runs`: the agent's state stands in the turn's document; each decision, and each result of a host tool, in a
    document of its own, whose unique key makes it count once. All of it as JSON text: arguments name fields `$x`."""

    def __init__(self, db: Database, clock: Clock, sealer: FieldCipher, fence: Fence) -> None:
        self._turns: AsyncIOMotorCollection[Doc] = db["turns"]
        self._entries: AsyncIOMotorCollection[Doc] = db["run_entries"]
        self._clock = clock
        self._sealer = sealer
        self._fence = fence

    def _seal(self, value: Any) -> Any:
        return self._sealer.seal(orjson.dumps(value).decode())

    def _open(self, stored: Any) -> Any:
        return orjson.loads(self._sealer.open(stored))

    @stored
    async def load(self, turn: Turn) -> SavedRun:
        found = await self._turns.find_one(turn_key(turn), {"run": 1}) or {}
        decisions: dict[str, Decision] = {}
        async for entry in self._entries.find({**turn_key(turn), "kind": "decision"}):
            decisions[entry["key"]] = Decision(**self._open(entry["value"]))
        steered = tuple((one, "") for one in await self._absorbed(turn))
        return SavedRun(self._open(found["run"]) if found.get("run") else None, decisions, steered)

    @stored
    async def save(self, turn: Turn, state: Json) -> bool:
        change = {"$set": {"run": self._seal(state), "has_run": True}}
        return (await self._turns.update_one(_running(turn), change)).matched_count == 1

    @stored
    async def suspend(self, turn: Turn, awaiting: Sequence[str], due_s: float, partial: str) -> Turn | None:
        mine = {**turn_key(turn), "kind": "decision", "key": {"$in": list(awaiting)}}
        known = {entry["key"] async for entry in self._entries.find(mine, {"key": 1})}
        left = [one for one in awaiting if one not in known]
        change = {
            "state": "suspended" if left else "queued",
            "awaiting": left,
            "due_at": until(due_s),
            "partial": {"$literal": self._sealer.seal(partial)},
            "attempts": 0,
            "lost": 0,
            "has_run": True,
        }
        found = await self._turns.find_one_and_update(
            {**_running(turn), "stop_requested": False}, [{"$set": change}], return_document=ReturnDocument.AFTER
        )
        return turn_of(found, self._sealer) if found else None

    @stored
    async def waiting_for(self, user_id: str, approval_id: str) -> Turn | None:
        found = await self._turns.find_one({"user_id": user_id, "unfinished": True, "awaiting": approval_id})
        return turn_of(found, self._sealer) if found else None

    @stored
    async def suspended(self, user_id: str, conversation_id: str) -> Turn | None:
        query = {"user_id": user_id, "conversation_id": conversation_id, "unfinished": True, "state": "suspended"}
        found = await self._turns.find_one(query, sort=[("order", ASCENDING)])
        return turn_of(found, self._sealer) if found else None

    @stored
    async def decide(self, turn: Turn, approval_id: str, decision: Decision) -> Decision:
        fields = {name: value for name, value in asdict(decision).items() if value is not None}
        if await self._enter(turn, "decision", approval_id, fields):
            return decision
        found = await self._entry(turn.user_id, "decision", approval_id)
        return Decision(**found) if found else decision

    @stored
    async def decided(self, turn: Turn, approval_id: str) -> Turn | None:
        left = {"$setDifference": ["$awaiting", [approval_id]]}
        ready = {"$and": [{"$eq": ["$state", "suspended"]}, {"$eq": ["$awaiting", []]}]}
        change: list[Doc] = [{"$set": {"awaiting": left}}, {"$set": {"state": {"$cond": [ready, "queued", "$state"]}}}]
        found = await self._turns.find_one_and_update(
            {**turn_key(turn), "unfinished": True}, change, return_document=ReturnDocument.AFTER
        )
        return turn_of(found, self._sealer) if found else None

    @stored
    async def lease_call(self, turn: Turn, call_id: str, session_id: str) -> str:
        if await self._enter(turn, "lease", call_id, {"session_id": session_id}):
            return session_id
        found = await self._entry(turn.user_id, "lease", call_id)
        return str(found["session_id"]) if found else session_id

    @stored
    async def record_result(self, caller: Caller, call_id: str, result: Json) -> tuple[Turn | None, bool]:
        query = {"user_id": caller.user_id, "kind": "lease", "key": call_id}
        lease = await self._entries.find_one(query)
        if lease is None or self._open(lease["value"])["session_id"] != caller.session_id:
            return None, False
        found = await self._turns.find_one({"user_id": caller.user_id, "turn_id": lease["turn_id"]})
        if found is None:
            return None, False
        turn = turn_of(found, self._sealer)
        return turn, await self._enter(turn, "result", call_id, result)

    @stored
    async def result(self, user_id: str, call_id: str) -> Json | None:
        return await self._entry(user_id, "result", call_id)

    async def _entry(self, user_id: str, kind: str, key: str) -> Json | None:
        found = await self._entries.find_one({"user_id": user_id, "kind": kind, "key": key})
        value: Json | None = self._open(found["value"]) if found else None
        return value

    async def _enter(self, turn: Turn, kind: str, key: str, value: Json) -> bool:
        """Whether it was the first under this key."""
        entry = {**turn_key(turn), "kind": kind, "key": key, "at": self._clock(), "epoch": turn.epoch}
        try:
            with fenced(self._fence, turn.user_id, turn.epoch):
                await self._entries.insert_one({**entry, "value": self._seal(value)})
        except DuplicateKeyError:
            return False
        return True

    @stored
    async def waiting_to_steer(self, user_id: str, conversation_id: str) -> str | None:
        query = _waiting_to_steer(user_id, conversation_id)
        found = await self._turns.find_one(query, {"message_id": 1}, sort=[("order", ASCENDING)])
        return str(found["message_id"]) if found else None

    @stored
    async def absorb(self, turn: Turn) -> Sequence[str]:
        waiting = {**_waiting_to_steer(turn.user_id, turn.conversation_id), "order": {"$gt": turn.order}}
        over = {"state": "absorbed", "absorbed_by": turn.turn_id, "unfinished": False, "to_learn": True}
        if await self._turns.find_one(waiting, {"_id": 1}) is not None:
            # Only while this attempt is the turn's: another one takes them in itself.
            if await self._turns.find_one(_running(turn), {"_id": 1}) is None:
                return ()
            await self._turns.update_many(waiting, {"$set": {**over, "closed_at": self._clock()}})
        return await self._absorbed(turn)

    async def _absorbed(self, turn: Turn) -> list[str]:
        query = {"user_id": turn.user_id, "absorbed_by": turn.turn_id}
        found = self._turns.find(query, {"message_id": 1}).sort("order", ASCENDING)
        return [doc["message_id"] async for doc in found]

    @stored
    async def interrupt(self, user_id: str, conversation_id: str, by: str) -> Turn | None:
        query = {
            "user_id": user_id,
            "conversation_id": conversation_id,
            "unfinished": True,
            "state": {"$in": _ACTIVE},
            "message_id": {"$ne": by},
        }
        found = await self._turns.find_one_and_update(
            query,
            {"$set": {"stop_requested": True, "stopped_by": by}},
            sort=[("order", ASCENDING)],
            return_document=ReturnDocument.AFTER,
        )
        return turn_of(found, self._sealer) if found else None


class MongoHostTools:
    """`HostTools`: one document a session."""

    def __init__(self, db: Database, clock: Clock, sealer: FieldCipher, fence: Fence) -> None:
        self._tools: AsyncIOMotorCollection[Doc] = db["host_tools"]
        self._clock = clock
        self._sealer = sealer
        self._fence = fence

    @stored
    async def put(self, caller: Caller, tools: Sequence[HostTool]) -> None:
        at = self._clock()
        change = {
            "connection_id": caller.connection_id,
            "tools": self._sealer.seal(orjson.dumps([asdict(tool) for tool in tools]).decode()),
            "at": at,
            "expires_at": at + _OFFERED_FOR,
            "epoch": caller.epoch,
        }
        mine = {"user_id": caller.user_id, "session_id": caller.session_id}
        with fenced(self._fence, caller.user_id, caller.epoch):
            await upsert(self._tools, mine, {"$set": change})

    @stored
    async def remove(self, caller: Caller) -> None:
        await self._tools.delete_one(
            {"user_id": caller.user_id, "session_id": caller.session_id, "connection_id": caller.connection_id}
        )

    @stored
    async def all(self, user_id: str) -> Sequence[HostTool]:
        found = self._tools.find({"user_id": user_id, "expires_at": {"$gt": self._clock()}}).sort("at", DESCENDING)
        return [HostTool(**tool) async for doc in found for tool in orjson.loads(self._sealer.open(doc["tools"]))]


def _waiting_to_steer(user_id: str, conversation_id: str) -> Doc:
    return {
        "user_id": user_id,
        "conversation_id": conversation_id,
        "unfinished": True,
        "mode": "steer",
        "state": "queued",
    }


def _running(turn: Turn) -> Doc:
    return {**turn_key(turn), "state": "running", "generation_id": turn.generation_id}

"""The indexes, and how long what is stored is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import OperationFailure

from twin_sio.store.mongo.client import Database, stored

INDEXES: Mapping[str, Sequence[IndexModel]] = {
    "events": [
        IndexModel([("user_id", ASCENDING), ("message_id", ASCENDING)], name="user_message", unique=True),
        IndexModel([("user_id", ASCENDING), ("seq", ASCENDING)], name="user_seq", unique=True),
        IndexModel(
            [("user_id", ASCENDING), ("conversation_id", ASCENDING), ("type", ASCENDING), ("seq", ASCENDING)],
            name="history",
        ),
        IndexModel(
            [("user_id", ASCENDING), ("type", ASCENDING), ("payload.message_id", ASCENDING), ("seq", ASCENDING)],
            name="ratings",
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
        IndexModel(  # not by their ends, which the database's clock is compared with: no index serves that
            [("leased", ASCENDING), ("user_id", ASCENDING)], name="leased", partialFilterExpression={"leased": True}
        ),
        IndexModel([("since", ASCENDING)], name="since", sparse=True),
    ],
    "contexts": [
        IndexModel([("user_id", ASCENDING), ("session_id", ASCENDING)], name="session", unique=True),
        IndexModel([("user_id", ASCENDING), ("updated_at", DESCENDING)], name="newest"),
        IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
    ],
    "evidence": [IndexModel([("user_id", ASCENDING), ("observed_at", ASCENDING)], name="user")],
    "profiles": [
        IndexModel([("counted_at", ASCENDING)], name="counted"),
        # Of nearly all the same: looked through is what is not so.
        IndexModel([("reading", ASCENDING)], name="reading"),
        IndexModel([("keyed", ASCENDING)], name="keyed"),
    ],
    "revocations": [IndexModel([("ends_at", ASCENDING)], name="end", expireAfterSeconds=0)],
    "statistics": [IndexModel([("user_id", ASCENDING)], name="user", unique=True, sparse=True)],
    "outbox": [
        IndexModel([("user_id", ASCENDING), ("at", ASCENDING), ("version", ASCENDING)], name="oldest"),
        IndexModel([("due_at", ASCENDING)], name="due"),
    ],
}


@stored
async def create_indexes(db: Database) -> None:
    """Make what is missing, and drop what an earlier version made in its place; running it again, or on several
    instances at once, changes nothing."""
    for name, models in INDEXES.items():
        if models:
            await db[name].create_indexes(list(models))
    for name, index in _REPLACED:
        with contextlib.suppress(OperationFailure):  # there is none
            await db[name].drop_index(index)


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


_REPLACED: Sequence[tuple[str, str]] = (("conversations", "leases"), ("events", "feedback"))
"""Indexes of earlier versions, whose queries are served by those of today as well."""

_RETAINED: Sequence[tuple[str, str, str]] = (
    ("messages", "events", "at"),
    ("messages", "turns", "created_at"),  # an answer in the making holds its text
    ("messages", "run_entries", "at"),
    ("evidence", "evidence", "observed_at"),
    ("evidence", "outbox", "at"),
)
"""What is removed in time. Contexts have an end of their own, titles and summaries `Memories.expire`, profiles are made
anew without what is too old; what else there is holds no words."""

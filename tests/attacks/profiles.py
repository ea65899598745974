"""A user whose profile is already as large as an attacker can make it in days."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from tests.attacks.site import Site
from tests.faults.cluster import DATABASE
from twin_sio.agent.scoring import score
from twin_sio.clock import new_id, now
from twin_sio.domain import Evidence, EvidenceKind, Profile
from twin_sio.store import mongo
from twin_sio.store.ids import Ids


@asynccontextmanager
async def database(site: Site) -> AsyncIterator[mongo.Database]:
    client, db = mongo.connect(site.cluster.mongod.url, DATABASE, 20_000)
    try:
        yield db
    finally:
        client.close()


def said(user: str, key: str, value: str, kind: EvidenceKind, at: datetime) -> Evidence:
    """A piece of evidence in a session of its own."""
    polarity = -1 if kind == "rejected" else 1
    return Evidence(user, key, value, polarity, kind, at, new_id(), new_id(), "", "user")  # type: ignore[arg-type]


async def profiled(site: Site, user: str, count: int, make: Callable[[int, datetime], Evidence]) -> None:
    """Store so many pieces of evidence, and the profile that follows from them."""
    began = now() - timedelta(days=1)
    evidence = [make(n, began + timedelta(seconds=n)) for n in range(count)]
    async with database(site) as db:
        await db["evidence"].insert_many([_row(piece) for piece in evidence], ordered=False)
        await mongo.MongoProfiles(db).replace(Profile(user, 0, score(user, evidence, now())), [])


def _row(piece: Evidence) -> dict[str, Any]:
    name = Ids().evidence(piece.user_id, piece.evidence_id)
    index = {"user_id": piece.user_id, "observed_at": piece.observed_at, "epoch": 0}
    return {"_id": name, **index, "piece": asdict(piece)}

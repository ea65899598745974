"""A user whose profile is already as large as an attacker can make it in days."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from tests.attacks.site import Site
from tests.faults.cluster import DATABASE
from twin_sio.agent.scoring import score
from twin_sio.clock import new_id, now
from twin_sio.domain import Evidence, EvidenceKind, Profile
from twin_sio.store import mongo


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
        rows = mongo.MongoProfiles(db)
        for piece in evidence:
            await rows.add_evidence([piece])
        await rows.replace(Profile(user, 0, score(user, evidence, now())), [])

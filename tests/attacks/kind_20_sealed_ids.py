"""Somebody has a copy of the database and no key, and guesses what sealed evidence says by the hashes that name it.

The names of evidence and traits are made with a key of their own, which is sealed itself. What was stored under the old
names is renamed beside the running service.
"""

from __future__ import annotations

import hashlib

from cryptography.fernet import Fernet

from tests.attacks.site import Site
from tests.test_store import evidence
from twin_sio.agent.traits import trait_id
from twin_sio.clock import now
from twin_sio.domain import Profile, Trait
from twin_sio.services.migration import MigrationService
from twin_sio.services.trait_ids import TraitIds
from twin_sio.store import mongo
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.mongo.fence import Fence
from twin_sio.store.mongo.keys import load_ids
from twin_sio.store.mongo.migrations import MongoMigrations

BEFORE = "4 of 4 values guessed in 0.01 s"
VALUES = ("green tea", "coffee", "diabetes", "the Greens")
"""None so short that sealed text may have it by chance."""


async def attack(site: Site, until: float) -> str:
    return "judged afterwards, on the database"


async def check(site: Site) -> list[str]:
    sealer = FieldCipher([Fernet.generate_key().decode()])
    client, db = mongo.connect(site.cluster.mongod.url, f"sealed_{site.mark}", 5000)
    try:
        user = site.user()
        await _stored(mongo.MongoProfiles(db, sealer), TraitIds(), f"{user}-old")  # as the version before named it
        fence = Fence(db, await load_ids(db, sealer))
        profiles, ids = mongo.MongoProfiles(db, sealer, None, fence), TraitIds(fence.ids.subject)
        migration = MigrationService(MongoMigrations(db, sealer, fence), profiles, ids, _no_rescore)
        while await migration.step():
            pass
        await _stored(profiles, ids, user)
        guessed = await _guessed(db, user) + await _guessed(db, f"{user}-old")
        return [f"guessed: {', '.join(sorted(guessed))}"] if guessed else []
    finally:
        await client.drop_database(db.name)
        client.close()


async def _no_rescore(user_id: str) -> None:
    raise AssertionError(f"{user_id} is scored as evidence reads today")


async def _stored(profiles: mongo.MongoProfiles, ids: TraitIds, user: str) -> None:
    at = now()
    pieces = [evidence(user, value) for value in VALUES]
    await profiles.add_evidence(pieces)
    traits = tuple(
        Trait(ids.of(user, piece.key, piece.value), piece.key, piece.value, "applied", 0.9, 8, 0, at, None, at)
        for piece in pieces
    )
    await profiles.replace(Profile(user, 0, traits), [])


async def _guessed(db: mongo.Database, user: str) -> list[str]:
    """The values whose hashes, made as anybody could, stand anywhere in the database."""
    dump = str([[doc async for doc in db[name].find({})] for name in await db.list_collection_names()])
    found = []
    for value in VALUES:
        piece = evidence(user, value)
        names = (
            hashlib.sha256(f"{user}\x1e{piece.evidence_id}".encode()).hexdigest(),
            trait_id(user, piece.key, value),
            trait_id(user, piece.key, value).removeprefix("trait-"),
        )
        if value in dump or any(name in dump for name in names):
            found.append(value)
    return found

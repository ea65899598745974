"""Words outlive their retention: in answers in the making, and in the prompt for up to a day.

Everything that holds words has an end in the database, an answer that is over keeps nothing of how it was made, and
evidence that is too old counts for nothing from that moment on, whenever the database removes it.
"""

from __future__ import annotations

import json
from datetime import timedelta

from tests.attacks.site import Site
from tests.test_store import evidence
from twin_sio.clock import now
from twin_sio.domain import Profile, Trait
from twin_sio.store import mongo

BEFORE = "text in turns.partial for ever; expired evidence in the prompt for up to a day"
_ENDLESS = {"conversations", "profiles", "keys"}  # ended by the service itself, with what they are made of


async def attack(site: Site, until: float) -> str:
    return "judged afterwards, on a database whose evidence is too old"


async def check(site: Site) -> list[str]:
    user, word, database = site.user("old"), f"word{site.mark}", f"kept_{site.mark}"
    client, db = mongo.connect(site.cluster.mongod.url, database, 5000)
    days = {"TWIN_RETENTION_MESSAGES_DAYS": 30, "TWIN_RETENTION_EVIDENCE_DAYS": 30}
    try:
        async with site.cluster.one_more(TWIN_MONGODB_DATABASE=database, **days) as number:
            await _stored(db, user, word)
            async with site.socket(user, number) as device:
                message = {"payload": {"text": "what do I like?"}, "metadata": {"message_id": "m1"}}
                await device.ask("user_message", message)
                await device.until(lambda: device.of("twin_message"))
                shown = await device.ask("profile_get", {"payload": {}, "metadata": {}})
            seen = json.dumps((await site.cluster.model_seen())["requests"])
            broken = [
                f"{name} has no end" for name in mongo.SEALED_FIELDS.keys() - _ENDLESS if not await _ends(db, name)
            ]
            broken += ["expired evidence in a prompt"] if word in seen else []
            broken += ["expired evidence in the profile"] if word in json.dumps(shown) else []
            partial = [doc["partial"] async for doc in db["turns"].find({"user_id": user, "unfinished": False})]
            return broken + (["an answer that is over keeps its parts"] if any(partial) else [])
    finally:
        await client.drop_database(database)
        client.close()


async def _stored(db: mongo.Database, user: str, word: str) -> None:
    """A trait whose only evidence is a day too old, as it is until the database comes round to it."""
    at = now() - timedelta(days=31)
    profiles = mongo.MongoProfiles(db)
    piece = evidence(user, word)
    trait = Trait("t", piece.key, word, "applied", 0.9, 8, 0, at, None, at)
    await profiles.add_evidence([piece])
    await db["evidence"].update_many({"user_id": user}, {"$set": {"observed_at": at}})
    await profiles.replace(Profile(user, 0, (trait,)), [], oldest=at)


async def _ends(db: mongo.Database, name: str) -> bool:
    return any("expireAfterSeconds" in one for one in (await db[name].index_information()).values())

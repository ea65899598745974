"""Looks at the settings and engines that the environment names: `python -m twin_sio.runtime.engine_check` prints a
JSON object a line, `{check, ok, text, advice}`, as `twin-sio doctor --server` shows them."""

from __future__ import annotations

import asyncio
import importlib.util
import sys

from twin_sio.config import ConfigError, Settings, refused_as
from twin_sio.errors import StorageUnavailable
from twin_sio.redis_connection import CLUSTERS, HASH_TAG, REDIS_ERRORS, client
from twin_sio.redis_connection.failures import explain
from twin_sio.runtime.checks import print_check
from twin_sio.runtime.wiring import check_http_environment, sealer_of
from twin_sio.store import mongo

# Begins as the service's own channels do: rights may be given by this pattern.
_CHANNEL = "twin:instance:doctor"


def main() -> int:
    """Exit code 0 where a server could start here, else 1."""
    try:
        settings = Settings.from_environment()
        sealer_of(settings)
        check_http_environment()
    except ConfigError as error:
        print_check("settings", False, str(error))
        return 1
    print_check("settings", True, f"they can be served, in {settings.process.env}")
    return 0 if asyncio.run(_all_well(settings)) else 1


async def _all_well(settings: Settings) -> bool:
    well = [await _mongodb(settings), await _redis(settings)]
    has_vectors = bool(settings.embeddings.url) or importlib.util.find_spec("wordllama") is not None
    advice = "" if has_vectors else "pip install wordllama, or set TWIN_EMBEDDINGS_URL."
    how = "by their meaning" if has_vectors else "by their words alone"
    print_check("recall", True, f"earlier messages are found {how}", advice)
    return all(well)


async def _mongodb(settings: Settings) -> bool:
    url = settings.storage.mongodb_url
    if not url:
        return print_check("mongodb", True, "the server starts one of its own")
    with refused_as("TWIN_MONGODB_URL"):
        connection, db = mongo.connect(url, settings.storage.mongodb_database, settings.storage.mongodb_timeout_ms)
    try:
        await mongo.ping(db)
        await mongo.check_rights(db)
    except StorageUnavailable as error:
        return print_check("mongodb", False, mongo.explain(error).sentence)
    finally:
        connection.close()
    return print_check("mongodb", True, f"it answers, for the database {db.name}")


async def _redis(settings: Settings) -> bool:
    url = settings.storage.redis_url
    if not url:
        return print_check("redis", True, "the server starts one of its own")
    with refused_as("TWIN_REDIS_URL"):
        redis = client(url)
    try:
        # What the service does: a user may have the right to write and none to publish, or Redis may be full.
        await redis.set(f"{HASH_TAG}:doctor", b"", px=1000)
        if not url.startswith(CLUSTERS):
            async with redis.pubsub() as channel:
                await channel.subscribe(_CHANNEL)
            await redis.publish(_CHANNEL, b"")
    except REDIS_ERRORS as error:
        return print_check("redis", False, explain(error).sentence)
    finally:
        await redis.aclose()
    return print_check("redis", True, "it takes writes, and delivers")


if __name__ == "__main__":
    sys.exit(main())

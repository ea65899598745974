"""Looks at the settings, engines and agent that the environment names: `python -m twin_sio.runtime.engine_check` prints
a JSON object a line, `{check, ok, text, advice}`, as `twin-sio doctor --server` shows them."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from twin_sio.agent import ChatMessage, ProfileContext, RecalledMemory
from twin_sio.config import ConfigError, Settings, refused_as, unknown_settings
from twin_sio.domain import Json
from twin_sio.errors import StorageUnavailable
from twin_sio.observability.logging import configure_logs
from twin_sio.redis_connection import CLUSTERS, HASH_TAG, REDIS_ERRORS, client
from twin_sio.redis_connection.failures import explain
from twin_sio.runtime.agents import made_agent
from twin_sio.runtime.checks import print_check
from twin_sio.runtime.wiring import check_http_environment, model_of, sealer_of
from twin_sio.store import mongo

# Begins as the service's own channels do: rights may be given by this pattern.
_CHANNEL = "twin:instance:doctor"


def main() -> int:
    """Exit code 0 where a server could start here, else 1."""
    configure_logs("error")  # what is wrong is a line of ours
    try:
        settings = Settings.from_environment()
        sealer_of(settings)
        check_http_environment()
    except ConfigError as error:
        print_check("settings", False, str(error))
        return 1
    print_check("settings", True, f"they can be served, in {settings.process.env}")
    for unknown in unknown_settings():
        print_check("variable", True, f"{unknown.name} is no setting and is ignored", unknown.advice)
    return 0 if asyncio.run(_all_well(settings)) else 1


async def _all_well(settings: Settings) -> bool:
    well = [await _mongodb(settings), await _redis(settings), await _agent(settings), *await _mcp(settings)]
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


async def _agent(settings: Settings) -> bool:
    """Makes it as the start does, over a model that nobody asks and a memory of nothing."""
    chosen = settings.agent
    model = model_of(settings)
    try:
        with redirect_stdout(sys.stderr):  # each line of ours is JSON, whatever a module of others prints
            made_agent(settings, _NoMemory(), model, tuple if chosen.mcp_servers else None)
    except ConfigError as error:
        return print_check("agent", False, str(error))
    finally:
        await model.close()
    return print_check("agent", True, f"{chosen.graph or chosen.factory or 'our own'} can be made")


class _NoMemory:
    """`Memory` of nothing; an agent asks it when it answers, which it does not do here."""

    async def history(self, *_: object, **__: object) -> Sequence[ChatMessage]:
        return ()

    async def known(self, *_: object, **__: object) -> ProfileContext:
        return ProfileContext((), (), lambda _: False)

    async def context(self, *_: object, **__: object) -> Json | None:
        return None

    async def past(self, *_: object, **__: object) -> RecalledMemory:
        return RecalledMemory()


async def _mcp(settings: Settings) -> list[bool]:
    """A line for each server of tools."""
    servers = settings.agent.mcp_servers
    if not servers:
        return []
    try:
        from twin_sio.agent.tools.mcp import McpTools  # an optional extra
    except ImportError:
        return [print_check("mcp", False, "TWIN_MCP_SERVERS needs the extra `mcp`", "pip install 'twin-sio[mcp]'")]
    found = []
    for name, server in servers.items():
        tools = McpTools({name: server})
        try:
            await tools.start()
            count = len(tools.tools())
        finally:
            await tools.close()
        advice = "" if count else "Look at its command or its url, and at what it prints when you start it by hand."
        text = f"{name}: {count} tools" if count else f"{name}: it cannot be reached, or has no tools"
        found.append(print_check("mcp", bool(count), text, advice))
    return found


if __name__ == "__main__":
    sys.exit(main())

"""For operators: `python -m twin_sio.admin COMMAND`, in the environment of the service."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing

import orjson
from jose import jwt
from jose.exceptions import JOSEError

from twin_sio.clock import now
from twin_sio.config import ConfigError, Settings
from twin_sio.domain import Json
from twin_sio.errors import StorageUnavailable
from twin_sio.http.exports import line_of
from twin_sio.protocol import bare_token
from twin_sio.redis_connection import REDIS_ERRORS, client
from twin_sio.redis_connection.failures import explain
from twin_sio.runtime.wiring import build_services, facts_of, sealer_of
from twin_sio.services.graph_projection import GraphProjectionService
from twin_sio.services.trait_ids import TraitIds
from twin_sio.standard_output import output_that_may_fail
from twin_sio.store import mongo
from twin_sio.store.mongo.fence import Fence
from twin_sio.store.mongo.keys import load_ids
from twin_sio.store.ports import GraphUnavailable
from twin_sio.store.redis.revocations import RedisRevocations

_EVERYBODY = 10_000_000  # users at once


async def reseal(settings: Settings) -> int:
    """Seal everything with the first of TWIN_ENCRYPTION_KEYS; how many values were rewritten."""
    database, db = mongo.connect(
        settings.storage.mongodb_url, settings.storage.mongodb_database, settings.storage.mongodb_timeout_ms
    )
    try:
        return await mongo.reencrypt(db, sealer_of(settings), _show)
    finally:
        database.close()


async def revoke(settings: Settings, user: str | None, token: str | None, for_s: int) -> int:
    """Let a user's tokens so far, or one token, count no longer, on every instance within five seconds."""
    redis = client(settings.storage.redis_url)
    database, db = mongo.connect(
        settings.storage.mongodb_url, settings.storage.mongodb_database, settings.storage.mongodb_timeout_ms
    )
    try:
        ids = await load_ids(db, sealer_of(settings))
        # Healthy without a look: here a Redis that is away has to be an error, and not a detour.
        revocations = RedisRevocations(redis, mongo.MongoRevocations(db, now), ids, now, lambda: True)
        if user is not None:
            await revocations.revoke_user(user, now(), for_s)
        if token is not None:
            await revocations.revoke_token(token, for_s)
    finally:
        database.close()
        await redis.aclose()
    return (user is not None) + (token is not None)


async def rebuild(settings: Settings, user: str | None) -> int:
    """Make the graph anew from the evidence, of one user or of all; how many facts it holds."""
    async with AsyncExitStack() as stack:
        client, db = mongo.connect(
            settings.storage.mongodb_url, settings.storage.mongodb_database, settings.storage.mongodb_timeout_ms
        )
        stack.callback(client.close)
        sealer = sealer_of(settings)
        facts = facts_of(settings, sealer, stack)
        if facts is None:
            raise ConfigError("TWIN_GRAPH_URL is not set: say which graph.")
        fence = Fence(db, await load_ids(db, sealer))
        profiles = mongo.MongoProfiles(db, sealer, None, fence)
        outbox = mongo.MongoOutbox(db, now, sealer, fence)
        trait_ids = TraitIds(fence.ids.subject)
        projector = GraphProjectionService(outbox, facts, profiles, now, settings.scoring.weights, trait_ids)
        users = [user] if user is not None else await profiles.users()
        held = 0
        for done, one in enumerate(users, 1):
            held += await projector.rebuild(one)
            _show("users", done, len(users))
        return held


async def rebuild_profiles(settings: Settings, user: str | None) -> int:
    """Score profiles anew from their evidence, one user's or all; how many. What reads otherwise is published."""
    async with build_services(settings) as services:
        profiles = services.profiles
        if user is None:
            users = await profiles.users()
        else:
            known = (await profiles.get(user)).profile.version or await profiles.evidence(user)
            users = [user] if known else []
        for done, one in enumerate(users, 1):
            await services.profile_service.rescore(one)
            _show("profiles", done, len(users))
        return len(users)


async def statistics(settings: Settings) -> Json:
    """Count everybody whose profile has changed since they were counted; what became of all that was learnt."""
    async with build_services(settings) as services:
        await services.statistics_service.count_due(_EVERYBODY)
        return await services.statistics_service.totals()


async def export(settings: Settings, user: str) -> int:
    """Write what `GET /v1/export` gives the user to stdout, a line each, the last one `end`; how many there were."""
    lines = 0
    async with build_services(settings) as services, aclosing(services.personal.export(user)) as values:
        async for value in values:
            _print_line(value)
            lines += 1
    _print_line({"kind": "end", "lines": lines})
    return lines


def _print_line(value: Mapping[str, object]) -> None:
    with output_that_may_fail():  # here alone: other errors of the system are an engine's
        sys.stdout.write(line_of(value).decode())


async def erase(settings: Settings, user: str) -> Mapping[str, int]:
    """Remove everything of a user, and end their sessions, as `DELETE /v1/data` does; how much there was, per store."""
    async with build_services(settings) as services:
        return await services.erasure.erase(user)


def _show(name: str, done: int, of: int) -> None:
    print(f"\r{name}: {done} of {of}   ", end="\n" if done >= of else "", file=sys.stderr, flush=True)


def _nothing_of(user: str) -> int:
    print(f"Nothing is stored of {user!r}: see --user.", file=sys.stderr)
    return 1


def _named(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it must not be empty")
    return text


def _token_id(text: str) -> str:
    """The `jti` of a token, where the token itself is given; else the text, which is one."""
    found = _named(bare_token(text))
    if not found.startswith("eyJ"):  # as every JWT does: it is base64 of `{"`
        return found
    try:
        token_id = jwt.get_unverified_claims(found).get("jti")
    except JOSEError:
        raise argparse.ArgumentTypeError("it is not a whole token: give all three parts, or its `jti`") from None
    if not isinstance(token_id, str) or not token_id:
        raise argparse.ArgumentTypeError("this token has no `jti` to revoke it by: use --user with its `sub`")
    return token_id


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("it must be a whole number of seconds, 1 or more")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; `arguments` in place of the command line's."""
    parser = argparse.ArgumentParser(prog="python -m twin_sio.admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "reseal",
        help="seal all stored text with the first of TWIN_ENCRYPTION_KEYS",
        description="Rotation: put the new key first in TWIN_ENCRYPTION_KEYS, restart, run this (and graph-rebuild "
        "where there is a graph), remove the old key.",
    )
    out = commands.add_parser(
        "revoke",
        help="let tokens count no longer before they end",
        description="Example: python -m twin_sio.admin revoke --user ada. Tokens issued later are good again.",
    )
    out.add_argument("--user", type=_named, help="all tokens of this user (`sub`) that were issued up to now")
    out.add_argument("--token", type=_token_id, help="the one token with this `jti`, or that token itself")
    out.add_argument("--for", dest="for_s", type=_seconds, default=86_400, help="seconds; as long as your tokens live")
    graph = commands.add_parser(
        "graph-rebuild",
        help="make the graph of TWIN_GRAPH_URL anew from the evidence",
        description="After the graph was lost, a first start with it, or a new key. May run beside the service.",
    )
    graph.add_argument("--user", type=_named, help="of this user alone; else of all")
    anew = commands.add_parser(
        "profile-rebuild",
        help="score profiles anew from the stored evidence",
        description="After a change of TWIN_SCORE_WEIGHTS, or where a profile is in doubt: evidence is never lost, so "
        "that every profile can be made again. May run beside the service, and be ended at any time (Ctrl-C); what "
        "reads otherwise is published to the devices.",
    )
    anew.add_argument("--user", type=_named, help="of this user alone; else of all")
    commands.add_parser(
        "statistics", help="count now what became of what was learnt of all users, and print it as JSON"
    )
    given = commands.add_parser(
        "export",
        help="print all that is kept of a user, as JSON lines",
        description="Example: python -m twin_sio.admin export --user ada > ada.jsonl. It is what GET /v1/export gives "
        "the user; the last line is `end`.",
    )
    given.add_argument("--user", type=_named, required=True, help="whose (`sub`)")
    gone = commands.add_parser(
        "erase",
        help="remove all that is kept of a user, for good",
        description="Example: python -m twin_sio.admin erase --user ada --yes. It does what DELETE /v1/data does for "
        "the user: in MongoDB, Redis, the queue and the graph, while the service runs; their sessions end. "
        "Their tokens stay good: see `revoke`. Backups are yours.",
    )
    gone.add_argument("--user", type=_named, required=True, help="whose (`sub`)")
    gone.add_argument("--yes", action="store_true", help="it cannot be undone, and asks for this")
    asked = parser.parse_args(arguments)
    if asked.command == "erase" and not asked.yes:
        gone.error("it cannot be undone: say --yes as well (`export` first, where the user is to have it)")
    if asked.command == "revoke" and asked.user is None and asked.token is None:
        out.error("say whose tokens, --user USER, or which one, --token JTI")
    try:
        settings = Settings.from_environment()
        # All but two tell running instances, or devices, what has changed.
        if asked.command not in ("reseal", "graph-rebuild") and not settings.storage.redis_url:
            raise ConfigError("TWIN_REDIS_URL is not set: say which Redis.")
        if not settings.storage.mongodb_url:
            raise ConfigError("TWIN_MONGODB_URL is not set: say which database.")
        if asked.command == "revoke":
            print(f"{asyncio.run(revoke(settings, asked.user, asked.token, asked.for_s))} revoked")
            return 0
        if asked.command == "graph-rebuild":
            print(f"{asyncio.run(rebuild(settings, asked.user))} facts held")
            return 0
        if asked.command == "profile-rebuild":
            scored = asyncio.run(rebuild_profiles(settings, asked.user))
            print(f"{scored} profiles scored")
            if asked.user is not None and not scored:
                return _nothing_of(asked.user)
            return 0
        if asked.command == "export":
            return 0 if asyncio.run(export(settings, asked.user)) else _nothing_of(asked.user)
        if asked.command == "erase":
            counts = asyncio.run(erase(settings, asked.user))
            print(orjson.dumps(counts).decode())
            return 0 if any(counts.values()) else _nothing_of(asked.user)
        if asked.command == "statistics":
            print(orjson.dumps(asyncio.run(statistics(settings)), option=orjson.OPT_INDENT_2).decode())
            return 0
        print(f"{asyncio.run(reseal(settings))} values rewritten")
    except KeyboardInterrupt:
        print("\nEnded. What was done stays; run it again for the rest.", file=sys.stderr)
        return 130
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except StorageUnavailable as error:
        print(mongo.explain(error).sentence, file=sys.stderr)
        return 1
    except GraphUnavailable:
        print("FalkorDB cannot be reached: see TWIN_GRAPH_URL.", file=sys.stderr)
        return 1
    except REDIS_ERRORS as error:
        print(explain(error).sentence, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

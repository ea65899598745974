"""The connection, and what all adapters are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
from pymongo.errors import ConfigurationError, PyMongoError
from pymongo.write_concern import WriteConcern

from twin_sio.errors import StorageUnavailable
from twin_sio.observability.tracing import span

Doc = dict[str, Any]
Database = AsyncIOMotorDatabase[Doc]
_DATABASE = "twin_sio"  # where neither a setting nor the URL names one
# The events that people read: history, recall and search are made of these.
MESSAGES = ("user_message", "twin_message")
# Before all that is stored, in the place of a time that is missing.
EVER = datetime(1970, 1, 1, tzinfo=UTC)
RESERVED_FOR = timedelta(minutes=1)  # a version is reserved for one worker: longer than any takes
WITHOUT_VECTOR = {"vector": 0, "vector_of": 0}  # a message's vector is in its document, and only recall reads it

P = ParamSpec("P")
T = TypeVar("T")


def stored(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Raise the driver's errors as `StorageUnavailable`."""

    @functools.wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with span(f"store {method.__qualname__}"):
                return await method(*args, **kwargs)
        except PyMongoError as error:
            raise StorageUnavailable() from error

    return call


def connect(url: str, database: str, timeout_ms: int) -> tuple[AsyncIOMotorClient[Doc], Database]:
    """A client and its database. Acknowledged means: on a majority, in the journal. No operation takes longer
    than `timeout_ms`. Without a `database` it is the one that the URL names, else `twin_sio`. The caller closes the
    client. Raises `ValueError` for a URL that is none, or names a file that cannot be read."""
    try:
        client: AsyncIOMotorClient[Doc] = AsyncIOMotorClient(
            url,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            timeoutMS=timeout_ms,
            tz_aware=True,
            appname="twin_sio",
            # A URL may say otherwise, as those that providers give for their clusters: what was just written is read.
            readPreference="primary",
        )
    except (ConfigurationError, OSError):  # OSError: a file of certificates that cannot be read
        raise ValueError("no URL of a MongoDB") from None
    db = client.get_database(
        database or client.get_default_database(_DATABASE).name,
        codec_options=CodecOptions(tz_aware=True, tzinfo=UTC),
        write_concern=WriteConcern(w="majority", j=True),
    )
    return client, db


@stored
async def ping(db: Database) -> None:
    """Raise `StorageUnavailable` unless a primary answers."""
    await db.command("ping")


@stored
async def check_rights(db: Database) -> None:
    """Raise `StorageUnavailable` unless the user of the URL may read this database."""
    await db["keys"].find_one({}, {"_id": 1})

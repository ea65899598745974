"""For operators: `python -m twin_sio.admin COMMAND`, in the environment of the service."""

from __future__ import annotations

import argparse
import asyncio
import sys

from twin_sio.app import sealer_of
from twin_sio.config import ConfigError, Settings
from twin_sio.errors import StorageUnavailable
from twin_sio.store import mongo


async def reseal(settings: Settings) -> int:
    """Seal everything with the first of TWIN_ENCRYPTION_KEYS; how many values were rewritten."""
    client, db = mongo.connect(settings.mongodb_url, settings.mongodb_database, settings.mongodb_timeout_ms)
    try:
        return await mongo.reseal(db, sealer_of(settings), _show)
    finally:
        client.close()


def _show(name: str, done: int, of: int) -> None:
    print(f"\r{name}: {done} of {of}   ", end="\n" if done >= of else "", file=sys.stderr, flush=True)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m twin_sio.admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "reseal",
        help="seal all stored text with the first of TWIN_ENCRYPTION_KEYS",
        description="Rotation: put the new key first in TWIN_ENCRYPTION_KEYS, restart, run this, remove the old key.",
    )
    parser.parse_args()
    try:
        settings = Settings.from_environment()
        if not settings.mongodb_url:
            raise ConfigError("TWIN_MONGODB_URL is not set: say which database.")
        print(f"{asyncio.run(reseal(settings))} values rewritten")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except StorageUnavailable as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The operators' commands: what they refuse, and what they say where an engine or a key is missing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import IO, Any

import jwt
import pytest
from cryptography.fernet import Fernet

from tests.conftest import Connect, token_of
from tests.raw import RawSocket
from tests.waiting import eventually
from twin_sio.admin import main
from twin_sio.config import Settings
from twin_sio.dev_tokens import DEV_SECRET
from twin_sio.store import mongo
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.mongo.keys import load_ids

NOBODY_LISTENS = "mongodb://127.0.0.1:9/?replicaSet=rs0"

Admin = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]


@pytest.fixture
def admin(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Admin:
    """Runs a command over the engines of the tests: its exit code, and what it says on both streams."""
    environment = {"TWIN_MONGODB_URL": settings.storage.mongodb_url, "TWIN_REDIS_URL": settings.storage.redis_url}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    async def run(*arguments: str, **more: str) -> tuple[int, str, str]:
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        try:
            code = await asyncio.to_thread(main, arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


def marked(user: str, **claims: Any) -> str:
    return jwt.encode({"sub": user, "exp": 4102444800, **claims}, DEV_SECRET, algorithm="HS256")


async def test_a_token_is_revoked_where_it_is_given_itself(admin: Admin, url: str, user: str) -> None:
    token = marked(user, jti=f"jti-{user}")
    assert (await admin("revoke", "--token", f" Bearer {token}\n"))[:2] == (0, "1 revoked\n")
    async with RawSocket(url, token) as again:
        assert again.refusal is not None
    async with RawSocket(url, token_of(user)) as other:
        assert other.refusal is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "--user USER"),
        (("--user", ""), "must not be empty"),
        (("--token", " "), "must not be empty"),
        (("--token", marked("ada")), "use --user"),
        (("--token", marked("ada", jti="j")[:-80]), "not a whole token"),
        (("--user", "ada", "--for", "0"), "1 or more"),
    ],
)
async def test_what_names_nothing_to_revoke_is_refused(admin: Admin, arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = await admin("revoke", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.parametrize("command", [("revoke", "--user", "ada"), ("profile-rebuild",), ("statistics",), ("reseal",)])
async def test_an_engine_that_is_away_is_named(admin: Admin, command: tuple[str, ...]) -> None:
    code, _, err = await admin(*command, TWIN_MONGODB_URL=NOBODY_LISTENS, TWIN_MONGODB_TIMEOUT_MS="300")
    assert code == 1
    assert "TWIN_MONGODB_URL" in err


async def test_a_redis_that_is_away_is_named(admin: Admin) -> None:
    code, _, err = await admin("revoke", "--user", "ada", TWIN_REDIS_URL="redis://127.0.0.1:9")
    assert code == 1
    assert "TWIN_REDIS_URL" in err


@pytest.mark.parametrize("command", [("revoke", "--user", "ada"), ("profile-rebuild",), ("reseal",)])
async def test_a_key_that_is_missing_is_named(
    admin: Admin, settings: Settings, user: str, command: tuple[str, ...]
) -> None:
    database = f"keyless_{user[-6:]}"
    client, db = mongo.connect(settings.storage.mongodb_url, database, 5000)
    await load_ids(db, FieldCipher([Fernet.generate_key().decode()]))
    client.close()
    code, _, err = await admin(*command, TWIN_MONGODB_DATABASE=database)
    assert code == 1
    assert "TWIN_ENCRYPTION_KEYS" in err


async def test_a_profile_of_nobody_is_not_made_anew(admin: Admin, user: str) -> None:
    code, out, err = await admin("profile-rebuild", "--user", user)
    assert (code, out) == (1, "0 profiles scored\n")
    assert user in err


async def test_an_operator_exports_and_erases_a_user(admin: Admin, connect: Connect, url: str, user: str) -> None:
    """What a user may do with their data an operator does for one who writes a letter."""
    client = await connect()
    await client.ask("hello")
    code, out, _ = await admin("export", "--user", user)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert lines[-1] == {"kind": "end", "lines": len(lines) - 1}
    assert [line["payload"]["text"] for line in lines if line.get("type") == "user_message"] == ["hello"]
    code, out, _ = await admin("erase", "--user", user, "--yes")
    assert code == 0
    assert json.loads(out)["events"] > 0
    await eventually(lambda: not client.is_connected)
    code, out, err = await admin("export", "--user", user)
    assert (code, out) == (1, '{"kind":"end","lines":0}\n')
    assert user in err


async def test_an_erasure_asks_to_be_sure(admin: Admin, user: str) -> None:
    code, _, err = await admin("erase", "--user", user)
    assert code == 2
    assert "--yes" in err


@pytest.fixture
def full_disk() -> Iterator[IO[str]]:
    with Path("/dev/full").open("w") as full:
        yield full


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
async def test_an_export_that_cannot_be_written_says_so(
    admin: Admin, full_disk: IO[str], monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """And not that an engine is away, as the errors of its connection are the system's, too."""
    monkeypatch.setattr(sys, "stdout", full_disk)
    code, _, err = await admin("export", "--user", user)
    monkeypatch.undo()
    assert code == 1
    assert "The output cannot be written" in err

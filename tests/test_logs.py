"""What the log says of a failure that nobody foresaw: its kind and its place, and nothing of what was worked on."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator

import aiohttp
import pytest
import structlog

from tests.conftest import token_of
from tests.raw import RawSocket
from twin_sio.config import Settings
from twin_sio.jobs.functions import JobStats, learn
from twin_sio.observability.logging import configure_logs
from twin_sio.store import mongo

WORD = "a word of the user"


@pytest.fixture(params=[False, True], ids=["json", "for people"])
def logs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Lines for machines or for people; what was printed so far."""
    printed, before = io.StringIO(), structlog.get_config()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", printed)
        configure_logs("debug", for_people=request.param)
    yield printed.getvalue
    structlog.configure(**before)


def fail() -> None:
    try:
        int(WORD)
    except ValueError as error:
        raise KeyError(WORD) from error


async def test_failures_are_logged_without_their_text(logs: Callable[[], str]) -> None:
    """An unforeseen failure is logged by kind and place and without its text."""
    try:
        fail()
    except KeyError:
        structlog.get_logger("test").exception("it_failed", error_id="e-1")
    printed = logs()
    for part in ("it_failed", "e-1", "ValueError", "KeyError", "in fail"):
        assert part in printed
    assert WORD not in printed


async def test_so_is_one_that_only_a_library_has_seen(logs: Callable[[], str]) -> None:
    try:
        fail()
    except KeyError as error:
        logging.getLogger("arq.worker").exception("%s failed: %s", "learn", error)
    printed = logs()
    assert "KeyError" in printed
    assert "in fail" in printed
    assert WORD not in printed


async def test_so_is_one_of_a_task_that_nobody_waits_for(logs: Callable[[], str]) -> None:
    async def work() -> None:
        fail()

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    del task
    gc.collect()
    printed = logs()
    assert "Task exception was never retrieved" in printed
    assert "KeyError" in printed
    assert WORD not in printed


@pytest.mark.parametrize("logs", [False], indirect=True)
async def test_a_job_that_fails_is_named_with_its_user(logs: Callable[[], str]) -> None:
    class Deps:
        stats = JobStats()
        job_timeout_s = 60.0
        turns = property(lambda _: fail())

    with pytest.raises(KeyError):
        await learn({"deps": Deps(), "job_id": "j-1"}, "ada", "t-1")
    printed = [json.loads(one) for one in logs().splitlines()]
    (line,) = [one for one in printed if one["event"] == "job_failed"]  # others may log what is left of their tests
    assert (line["user"], line["job"]) == ("ada", "j-1")
    assert WORD not in str(line)


@pytest.mark.parametrize("logs", [False], indirect=True)
async def test_internal_errors_are_logged_with_their_ids(
    logs: Callable[[], str], url: str, user: str, settings: Settings
) -> None:
    """An error sent as internal is in the log with the ids of what it asked for."""
    client, db = mongo.connect(settings.storage.mongodb_url, settings.storage.mongodb_database, 5000)
    await db["profiles"].insert_one({"_id": user, "version": 1})  # and nothing else, which nobody foresees
    try:
        await _fails_as_internal(logs, url, user)
    finally:  # the sweeps of other tests come past it
        await db["profiles"].delete_one({"_id": user})
        client.close()


async def _fails_as_internal(logs: Callable[[], str], url: str, user: str) -> None:
    headers = {"Authorization": f"Bearer {token_of(user)}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{url}/v1/profile") as answer:
        assert answer.status == 500
        over_http = await answer.json()
    async with RawSocket(url, token_of(user), session_id="mine") as raw:
        received = await raw.ask("profile_get", {"metadata": {"message_id": "m-1"}})
    over_socket = received["payload"]
    lines = [json.loads(one) for one in logs().splitlines()]
    failed = {line["error_id"]: line for line in lines if "error_id" in line}
    assert failed.keys() == {over_http["error_id"], over_socket["error_id"]}
    asked = failed[over_http["error_id"]]
    assert (asked["event"], asked["route"], asked["user"]) == ("request_failed", "profile", user)
    assert asked["request"]
    said = failed[over_socket["error_id"]]
    names = ("event", "event_type", "user", "session", "message")
    assert [said[name] for name in names] == ["event_failed", "profile_get", user, "mine", "m-1"]
    assert said["connection"]

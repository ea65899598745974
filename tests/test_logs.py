"""What the log says of a failure that nobody foresaw: its kind and its place, and nothing of what was worked on."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from twin_sio.app import configure_logs
from twin_sio.jobs import JobStats, learn

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


async def test_an_unforeseen_failure_is_logged_by_kind_and_place_and_without_its_text(logs: Callable[[], str]) -> None:
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
    class Desk:
        stats = JobStats()
        turns = property(lambda _: fail())

    with pytest.raises(KeyError):
        await learn({"desk": Desk(), "job_id": "j-1"}, "ada", "t-1")
    (line,) = [json.loads(one) for one in logs().splitlines()]
    assert (line["event"], line["user"], line["job"]) == ("job_failed", "ada", "j-1")
    assert WORD not in str(line)

"""The watchdog finds steps that hold the loop, says where, and takes nothing else for one."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import uvloop

from tests.waiting import eventually
from twin_sio.observability.watchdog import LongStep, Watchdog


def busy(seconds: float) -> None:
    """Use so much CPU, whatever else runs."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def hold(seconds: float) -> None:
    busy(seconds)


@pytest.fixture
async def watchdog() -> AsyncIterator[Watchdog]:
    watching = Watchdog(60, on_step=lambda _: None)
    watching.start()
    yield watching
    watching.stop()


async def test_without_a_clock_of_other_threads_nothing_is_watched(
    monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, str]]
) -> None:
    """As on macOS: it is said in the log, and the service runs."""
    monkeypatch.delattr(time, "pthread_getcpuclockid")
    watching = Watchdog(60)
    watching.start()
    watching.stop()
    assert [line["event"] for line in logged] == ["watchdog_unavailable"]


async def test_a_long_step_is_found_with_its_place(watchdog: Watchdog) -> None:
    await asyncio.sleep(0.02)
    hold(0.15)
    await eventually(lambda: any(step.place.endswith(" busy") for step in watchdog.steps))
    assert all(step.ms < 300 for step in watchdog.steps)


async def test_what_holds_the_interpreter_is_found_too(watchdog: Watchdog) -> None:
    """A regular expression that backtracks lets no other thread run. The place is where it was as the watchdog's thread
    got a core: on a machine whose cores are taken that can be later, so it may take more than one."""

    async def is_named() -> bool:
        assert re.match("(a+)+b", "a" * 24) is None
        await asyncio.sleep(0.02)
        return any(step.place.endswith(" match") for step in watchdog.steps)

    await asyncio.sleep(0.02)
    await eventually(is_named)


async def test_many_short_steps_of_many_tasks_are_none(watchdog: Watchdog) -> None:
    async def work() -> None:
        for _ in range(5):
            busy(0.008)
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(20)))
    assert not watchdog.steps


async def test_waiting_is_none(watchdog: Watchdog) -> None:
    await asyncio.sleep(0.1)
    time.sleep(0.1)  # noqa: ASYNC251 - holds the loop, and uses no CPU: another process may have had the core
    await asyncio.sleep(0.02)
    assert not watchdog.steps


async def test_the_collector_is_named(watchdog: Watchdog) -> None:
    many: list[object] = [[[] for _ in range(10)] for _ in range(150_000)]
    await asyncio.sleep(0.02)
    watchdog.steps.clear()
    gc.collect()
    await eventually(lambda: watchdog.steps)
    assert any(step.place == "the garbage collector" for step in watchdog.steps)
    del many


def _under_uvloop() -> Iterator[LongStep]:
    watching = Watchdog(on_step=lambda _: None)

    async def work() -> None:
        watching.start()
        await asyncio.sleep(0.02)
        hold(0.1)
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().call_soon(hold, 0.1)
        await asyncio.sleep(0.05)
        watching.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
    yield from watching.steps


def test_it_works_under_uvloop() -> None:
    import threading

    found: list[LongStep] = []
    thread = threading.Thread(target=lambda: found.extend(_under_uvloop()))
    thread.start()
    thread.join()
    assert [step.place.rpartition(" ")[2] for step in found] == ["busy", "busy"]

"""The short form of the soak, and its verdict; `make soak` runs the full one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests.faults import leak_detection
from tests.faults.cluster import Cluster
from tests.faults.leak_detection import ProcessSamples, Sample
from tests.faults.soak import Plan, Soak

HALF_HOUR = 30 * 60


@pytest.mark.xdist_group("faults")  # one cluster is enough
async def test_the_short_soak_loses_nothing(
    cluster: Cluster,
) -> None:
    """Under load with a killed server and a redis that stands still nothing is lost or left over."""
    plan = Plan(
        length_s=20,
        people=12,
        pause_s=1.0,
        lights_s=0.5,
        fault_s=(1.0, 3.0),
        sample_s=1.0,
        kinds=("server killed", "Redis stopped"),
    )
    outcome = await Soak(cluster, plan).run()
    assert outcome.is_whole
    assert outcome.figures.passed, outcome.figures
    assert {kind for _, kind, _ in outcome.marks} == {"server killed", "Redis stopped"}


def a_life(
    memory: Callable[[float], float],
    *,
    length_s: float = HALF_HOUR,
    tasks: Callable[[float], float] = lambda _: 100.0,
    connections: Callable[[float], float] = lambda _: 70.0,
) -> ProcessSamples:
    """A server's life with a sample each 5 s, whose figures are these functions of the time."""
    life = ProcessSamples("server 1", 1)
    for at in range(0, int(length_s), 5):
        life.samples.append(Sample(at, memory(at), 100, tasks(at), connections(at)))
    return life


def noise(seed: int, width: float) -> Callable[[], float]:
    choose = random.Random(seed)
    return lambda: choose.gauss(0, width)


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_shows_through_noise(seed: int) -> None:
    """A leak of a mib a minute is seen through noise."""
    shake = noise(seed, 3.0)
    found = leak_detection.memory(a_life(lambda at: 110 + at / 60 + shake()))
    assert found is not None
    assert not found.is_flat
    assert found.slope_h == pytest.approx(60, abs=10)


@pytest.mark.parametrize("seed", range(5))
def test_a_flat_and_noisy_memory_is_no_leak(seed: int) -> None:
    shake = noise(seed, 3.0)
    found = leak_detection.memory(
        a_life(lambda at: 110 + 4 * math.sin(at / 90) + shake() + (30 if at % 400 < 10 else 0))
    )
    assert found is not None
    assert found.is_flat


def test_warming_up_is_no_leak() -> None:
    """What a process takes until it is warm is no leak."""
    found = leak_detection.memory(a_life(lambda at: 80 + min(at, 600) / 10))
    assert found is not None
    assert found.is_flat


def test_one_step_is_no_leak() -> None:
    """One step after which all stays as it is is no leak but a rising staircase is."""
    one = leak_detection.memory(a_life(lambda at: 110 + (5 if at > 1200 else 0)))
    stairs = leak_detection.memory(a_life(lambda at: 110 + 4 * (at // 240)))
    assert one is not None
    assert one.is_flat
    assert stairs is not None
    assert not stairs.is_flat


def test_search_indexes_are_no_leak() -> None:
    """The indexes that a server may keep are no leak and what grows beside them is."""
    kept, beside = (a_life(lambda at, mib=mib: 110 + mib * at / HALF_HOUR) for mib in (20, 40))
    for life in (kept, beside):
        life.samples = [replace(one, search_index_bytes=one.at * 20 / HALF_HOUR * 2**20) for one in life.samples]
    found = [leak_detection.memory(life) for life in (kept, beside)]
    assert [one is not None and one.is_flat for one in found] == [True, False]


def test_a_life_that_was_too_short_is_not_judged() -> None:
    assert leak_detection.memory(a_life(lambda at: 100 + at, length_s=200)) is None


def test_tasks_may_follow_the_connections_and_not_grow_beside_them() -> None:
    def rising(at: float) -> float:
        return 50 + 10 * (at // 180)

    follows = leak_detection.tasks(a_life(lambda _: 100, tasks=lambda at: 20 + 4 * rising(at), connections=rising))
    leaks = leak_detection.tasks(
        a_life(lambda _: 100, tasks=lambda at: 20 + 4 * rising(at) + at / 30, connections=rising)
    )
    assert follows is not None
    assert follows.is_flat
    assert leaks is not None
    assert not leaks.is_flat


def test_the_picture_shows_every_process_and_fault() -> None:
    """The picture has a line for each life and a mark for each fault."""
    lives = [a_life(lambda at: 110 + at / 600), a_life(lambda _: 90, length_s=600)]
    drawn = ElementTree.fromstring(leak_detection.picture(lives, [(60, "1"), (700, "2")]))
    names = [one.tag.rpartition("}")[2] for one in drawn.iter()]
    texts = [one.text for one in drawn.iter() if one.tag.endswith("text")]
    assert names.count("polyline") == len(lives) * len(leak_detection.PANELS)
    assert {"1", "2", "minutes", *(title for title, _ in leak_detection.PANELS)} <= set(texts)

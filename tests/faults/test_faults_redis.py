"""The short forms of F2, F3 and F10; `make faults` runs the full ones."""

from __future__ import annotations

import pytest

from tests.faults.cluster import Cluster
from tests.faults.figures import Scale
from tests.faults.group_redis import hung_redis, killed_redis, lost_listeners

pytestmark = pytest.mark.xdist_group("faults")  # one cluster is enough


async def test_a_redis_that_stands_still_holds_up_nobody_and_is_caught_up_with(cluster: Cluster, short: Scale) -> None:
    figures = await hung_redis(cluster, short)
    assert figures.passed, figures


async def test_a_redis_that_comes_back_empty_costs_nobody_an_event(cluster: Cluster, short: Scale) -> None:
    figures = await killed_redis(cluster, short)
    assert figures.passed, figures


async def test_a_server_whose_listener_is_killed_or_blocked_says_so_and_listens_anew(
    cluster: Cluster, short: Scale
) -> None:
    figures = await lost_listeners(cluster, short)
    assert figures.passed, figures

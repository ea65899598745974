"""The short forms of F2, F3 and F10; `make faults` runs the full ones."""

from __future__ import annotations

import pytest

from tests.faults.cluster import Cluster
from tests.faults.figures import Scale
from tests.faults.group_redis import hung_redis, killed_redis, lost_listeners

pytestmark = pytest.mark.xdist_group("faults")  # one cluster is enough


async def test_a_hung_redis_delays_nobody(cluster: Cluster, short: Scale) -> None:
    """A redis that stands still holds up nobody and is caught up with."""
    figures = await hung_redis(cluster, short)
    assert figures.passed, figures


async def test_a_redis_that_comes_back_empty_costs_nobody_an_event(cluster: Cluster, short: Scale) -> None:
    figures = await killed_redis(cluster, short)
    assert figures.passed, figures


async def test_a_lost_listener_is_reported_and_replaced(cluster: Cluster, short: Scale) -> None:
    """A server whose listener is killed or blocked says so and listens anew."""
    figures = await lost_listeners(cluster, short)
    assert figures.passed, figures

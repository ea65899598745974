"""The short forms of F6 and F12; `make faults` runs the full ones."""

from __future__ import annotations

import pytest

from tests.faults.cluster import Cluster
from tests.faults.figures import Scale
from tests.faults.group_order import bad_network, one_order_for_all

pytestmark = pytest.mark.xdist_group("faults")  # one cluster is enough


async def test_events_of_all_servers_reach_all_devices_in_one_order(cluster: Cluster, short: Scale) -> None:
    figures = await one_order_for_all(cluster, short)
    assert figures.passed, figures


async def test_a_bad_network_leaves_all_clients_equal(cluster: Cluster, short: Scale) -> None:
    """Whatever a network does all clients end with what the server knows."""
    figures = await bad_network(cluster, short)
    assert figures.passed, figures

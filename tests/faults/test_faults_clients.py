"""The short forms of F4, F5, F8, F9 and F11; `make faults` runs the full ones."""

from __future__ import annotations

import pytest

from tests.faults.cluster import Cluster
from tests.faults.figures import Scale
from tests.faults.group_clients import drain_with_many_clients, long_absence, slow_reader, unauthenticated_sockets
from tests.faults.group_mongo import killed_mongodb

pytestmark = pytest.mark.xdist_group("faults")  # one cluster is enough


async def test_a_slow_reader_is_closed_unnoticed(cluster: Cluster, short: Scale) -> None:
    """A device that stops reading is cut and the other one notices nothing."""
    figures = await slow_reader(cluster, short)
    assert figures.passed, figures


async def test_drained_clients_miss_nothing(cluster: Cluster, short: Scale) -> None:
    """All clients of a server that is sent away come back elsewhere and miss nothing."""
    figures = await drain_with_many_clients(cluster, short)
    assert figures.passed, figures


async def test_a_long_absence_is_made_up_for(cluster: Cluster, short: Scale) -> None:
    """A long absence is made up for soon and a newcomer is abreast at once."""
    figures = await long_absence(cluster, short)
    assert figures.passed, figures


async def test_unauthenticated_sockets_are_closed_in_time(cluster: Cluster, short: Scale) -> None:
    """Who never authenticates is gone in time and nobody waits long for a store that is away."""
    figures = await unauthenticated_sockets(cluster, short)
    assert figures.passed, figures


async def test_a_killed_mongodb_loses_nothing(cluster: Cluster, short: Scale) -> None:
    """A killed mongodb costs no acknowledged message and no answer twice."""
    figures = await killed_mongodb(cluster, short)
    assert figures.passed, figures

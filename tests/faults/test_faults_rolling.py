"""The short form of F13; `make faults` runs the full one."""

from __future__ import annotations

import pytest

from tests.faults.cluster import Cluster
from tests.faults.figures import Scale
from tests.faults.group_rolling import rolling_restart

pytestmark = pytest.mark.xdist_group("faults")  # one cluster is enough


async def test_a_rolling_restart_loses_nothing(cluster: Cluster, short: Scale) -> None:
    """An upgrade of all servers behind haproxy under load loses nothing."""
    figures = await rolling_restart(cluster, short)
    print(figures)
    assert figures.passed, figures

"""The short forms of F1 and F7; `make faults` runs the full ones."""

from __future__ import annotations

import pytest

from tests.faults.cluster import Cluster
from tests.faults.figures import Scale
from tests.faults.group_death import killed_server, repeats_past_a_death

pytestmark = pytest.mark.xdist_group("faults")  # one cluster is enough


async def test_streams_survive_the_death_of_their_server(cluster: Cluster, short: Scale) -> None:
    figures = await killed_server(cluster, short)
    assert figures.passed, figures


async def test_repeats_past_a_death_are_answered_once(cluster: Cluster, short: Scale) -> None:
    """A message sent many times over and past a death is answered once."""
    figures = await repeats_past_a_death(cluster, short)
    assert figures.passed, figures

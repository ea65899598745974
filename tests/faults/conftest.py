"""One cluster for all faults of a test process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.faults.cluster import Cluster
from tests.faults.cluster import cluster as running_cluster
from tests.faults.figures import Scale


@pytest.fixture(scope="package")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def short() -> Scale:
    return Scale(full=False)

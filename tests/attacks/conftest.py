"""One production service for all attacks; stopped when they are over, as its watchdog takes a tenth of a core."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.attacks.site import production
from tests.faults.cluster import Cluster


@pytest.fixture(scope="package")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with production(tmp_path_factory.mktemp("attacks")) as started:
        yield started

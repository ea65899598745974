"""One production service for all attacks of a test process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.attacks.site import production
from tests.faults.cluster import Cluster


@pytest.fixture(scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with production(tmp_path_factory.mktemp("attacks")) as started:
        yield started

"""The short form of every attack: two seconds each, judged by what does not depend on the machine's speed."""

from __future__ import annotations

import pytest

from tests.attacks.site import SHORT_S, kinds, run_kind, title, under_attack
from tests.faults.cluster import Cluster

pytestmark = pytest.mark.xdist_group("attacks")  # one service is enough
KINDS = kinds()


@pytest.mark.parametrize("number", KINDS, ids=[title(kind) for kind in KINDS.values()])
async def test_an_attack_reaches_nobody_else(running: Cluster, number: int) -> None:
    async with under_attack(running, number, SHORT_S) as site:
        outcome = await run_kind(site, KINDS[number])
    assert not outcome.broken, outcome

"""The short forms of F4, F5, F8, F9 and F11; `make faults` runs the full ones."""

from __future__ import annotations

from tests.faults.cluster import Cluster
from tests.faults.figures import Scale
from tests.faults.group_clients import drain_with_many_clients, long_absence, slow_reader, unauthenticated_sockets
from tests.faults.group_mongo import killed_mongodb


async def test_a_device_that_stops_reading_is_cut_and_the_other_one_notices_nothing(
    cluster: Cluster, short: Scale
) -> None:
    figures = await slow_reader(cluster, short)
    assert figures.passed, figures


async def test_all_clients_of_a_server_that_is_sent_away_come_back_elsewhere_and_miss_nothing(
    cluster: Cluster, short: Scale
) -> None:
    figures = await drain_with_many_clients(cluster, short)
    assert figures.passed, figures


async def test_a_long_absence_is_made_up_for_soon_and_a_newcomer_is_abreast_at_once(
    cluster: Cluster, short: Scale
) -> None:
    figures = await long_absence(cluster, short)
    assert figures.passed, figures


async def test_who_never_authenticates_is_gone_in_time_and_nobody_waits_long_for_a_store_that_is_away(
    cluster: Cluster, short: Scale
) -> None:
    figures = await unauthenticated_sockets(cluster, short)
    assert figures.passed, figures


async def test_a_killed_mongodb_costs_no_acknowledged_message_and_no_answer_twice(
    cluster: Cluster, short: Scale
) -> None:
    figures = await killed_mongodb(cluster, short)
    assert figures.passed, figures

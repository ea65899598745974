"""What is to be held of a profile's past, whatever order its versions come in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from twin_sio.domain import Fact, Trait
from twin_sio.services.graph_projection import advance

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def day(n: float) -> datetime:
    return START + n * DAY


def trait(value: str, since: float = 0, until: float | None = None, status: str = "applied", **more: Any) -> Trait:
    ended = None if until is None else day(until)
    fields = {"key": "location.city", "as_of": day(50), **more}
    return Trait(value, fields["key"], value, status, 0.9, 8, 0, day(since), ended, fields["as_of"])  # type: ignore[arg-type]


def held(facts: dict[str, Fact]) -> list[tuple[str, float, float | None]]:
    """`(value, since, until)` in days, the oldest first."""
    rows = [
        (fact.value, (fact.valid_at - START) / DAY, fact.invalid_at and (fact.invalid_at - START) / DAY)
        for fact in facts.values()
    ]
    return sorted(rows, key=lambda row: (row[1], row[0]))


def test_what_is_applied_holds_and_what_was_superseded_held():
    facts = advance({}, [trait("Berlin", 0, 3, "superseded"), trait("Lisbon", 3)], day(3))
    assert held(facts) == [("Berlin", 0, 3), ("Lisbon", 3, None)]


def test_what_is_only_supposed_is_not_held():
    assert advance({}, [trait("Berlin", status="tentative"), trait("Rome", status="unused")], day(1)) == {}


def test_projecting_again_changes_nothing():
    """Telling it again changes nothing and keeps when it became known."""
    traits = [trait("Berlin", 0, 3, "superseded"), trait("Lisbon", 3)]
    facts = advance({}, traits, day(4))
    assert advance(facts, traits, day(9)) == facts
    assert {fact.created_at for fact in facts.values()} == {day(4)}
    assert [fact.expired_at for fact in facts.values()] == [day(4), None]


def test_an_end_becomes_known_later_than_it_was():
    facts = advance({}, [trait("Berlin", 0)], day(1))
    facts = advance(facts, [trait("Berlin", 0, 3, "superseded"), trait("Lisbon", 3)], day(5))
    berlin = next(fact for fact in facts.values() if fact.value == "Berlin")
    assert (berlin.created_at, berlin.invalid_at, berlin.expired_at) == (day(1), day(3), day(5))


def test_who_comes_back_has_been_there_twice():
    facts = advance({}, [trait("Berlin", 0)], day(1))
    facts = advance(facts, [trait("Berlin", 0, 3, "superseded"), trait("Lisbon", 3)], day(4))
    facts = advance(facts, [trait("Berlin", 7), trait("Lisbon", 3, 7, "superseded")], day(8))
    assert held(facts) == [("Berlin", 0, 3), ("Lisbon", 3, 7), ("Berlin", 7, None)]


def test_a_late_interval_ends_the_earlier():
    """The job of day 3 runs after the job of day 7."""
    facts = advance({}, [trait("Berlin", 0)], day(7))
    facts = advance(facts, [trait("Berlin", 7), trait("Lisbon", 3, 7, "superseded")], day(8))
    assert held(facts) == [("Berlin", 0, 3), ("Lisbon", 3, 7), ("Berlin", 7, None)]


def test_a_wrong_beginning_is_corrected():
    facts = advance({}, [trait("Berlin", 5)], day(5))
    others = [trait("Rome", 6, status="unused"), trait("Lisbon", 7)]
    assert held(advance(facts, [trait("Berlin", 2), *others], day(6))) == [("Berlin", 2, None), ("Lisbon", 7, None)]


def test_a_faded_fact_may_hold_again():
    """What faded held until it was seen to have faded and may hold again."""
    facts = advance({}, [trait("jazz", key="interests.likes")], day(1))
    faded = trait("jazz", status="unused", key="interests.likes", as_of=day(40))
    facts = advance(facts, [faded], day(40))
    assert held(facts) == [("jazz", 0, 40)]
    assert held(advance(facts, [trait("jazz", key="interests.likes")], day(41))) == [("jazz", 0, None)]


def test_rejected_facts_leave_no_trace():
    """What was rejected or has no evidence any more leaves no trace."""
    facts = advance({}, [trait("Berlin", 0, 3, "superseded"), trait("Lisbon", 3), trait("tea", key="x.y")], day(4))
    left = advance(facts, [trait("Berlin", status="rejected"), trait("Lisbon", 3)], day(5))
    assert held(left) == [("Lisbon", 3, None)]


def test_ids_are_of_trait_and_beginning_alone():
    facts = list(advance({}, [trait("Berlin")], day(1)).values())
    assert replace(facts[0], invalid_at=day(9), expired_at=day(9)).fact_id == facts[0].fact_id
    assert len({fact.fact_id for fact in advance({}, [trait("a"), trait("b"), trait("c", 1)], day(2)).values()}) == 3

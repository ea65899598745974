"""What a life reads as that is told one day after the other: what ends, what takes its place, what brings it back.

A life is a line, `0 Volvo, 5 ended Volvo, 20 car`: the day, how it was said (else plainly), the value.
"""

from __future__ import annotations

import pytest

from tests.factories import least_cpu_s
from tests.test_scoring import DAY, START, seen
from twin_sio.agent.explanation import Explainer
from twin_sio.agent.scoring import score
from twin_sio.domain import Entity, Evidence, Trait

ROLE, EMPLOYER, CITY, NAME = "work.role", "work.employer", "location.city", "identity.name"
CAR, PHONE, HAS = "possessions.car", "possessions.phone", "possessions.has"
FRIENDS = "people.friends"
_KINDS = {
    "change": ("change", 1),
    "ended": ("ended", 1),
    "not": ("explicit", -1),
    "guess": ("inferred", 1),
    "confirmed": ("confirmed", 1),
    "rejected": ("rejected", -1),
}


def told(key: str, life: str, of: Entity | None = None) -> list[Evidence]:
    """The evidence of a life under one key."""
    found = []
    for at, said in enumerate(life.split(", ")):
        day, _, rest = said.partition(" ")
        first, _, more = rest.partition(" ")
        kind, polarity = _KINDS.get(first, ("explicit", 1))
        value = (more if first in _KINDS else rest).replace(";", ",")
        found.append(seen(kind, value, key=key, day=float(day), polarity=polarity, message=f"{key}{at}", of=of))
    return found


def held(evidence: list[Evidence], day: float = 100) -> list[Trait]:
    return list(score("u1", evidence, START + day * DAY))


def applied(evidence: list[Evidence], day: float = 100) -> set[str]:
    return {trait.value for trait in held(evidence, day) if trait.status == "applied"}


# -- a part of several


@pytest.mark.parametrize(
    ("key", "life", "now"),
    [
        (NAME, "0 Ada Byron, 3 change Ada Lovelace, 5 Ada", {"Ada Lovelace"}),
        (NAME, "0 Robin Smith, 5 change Alex Smith, 6 Smith", {"Alex Smith"}),
        (CAR, "0 Volvo, 5 ended Volvo, 6 change Tesla, 20 car", {"Tesla"}),
        (CAR, "0 car, 1 Volvo, 5 ended Volvo, 6 change Tesla, 20 my car", {"Tesla"}),
        (CAR, "0 Volvo, 5 ended Volvo, 20 car", {"car"}),
        (CAR, "0 Volvo, 5 ended Volvo, 20 guess car", set()),
        (CAR, "0 Volvo V60, 5 ended Volvo V60, 5 change Volvo XC90, 20 volvo", {"Volvo XC90"}),
        (CAR, "0 Volvo, 5 ended Volvo, 20 car, 30 Tesla", {"Tesla"}),
        (ROLE, "0 data engineer, 5 change software engineer, 20 engineer", {"software engineer"}),
        (ROLE, "0 data engineer, 5 change nurse, 20 engineer", {"nurse", "engineer"}),
        (ROLE, "0 data engineer, 5 change nurse, 20 engineer, 25 data engineer", {"nurse", "data engineer"}),
        (ROLE, "0 engineer, 1 data engineer, 5 change nurse, 20 engineer", {"nurse", "engineer"}),
        (ROLE, "0 engineer, 5 change lead engineer, 20 engineer", {"lead engineer"}),
        (EMPLOYER, "0 Google Cloud, 5 change Google Ads, 20 Google", {"Google Ads"}),
        (CITY, "0 Lisbon; Portugal, 5 change Porto; Portugal, 20 Portugal", {"Porto, Portugal"}),
        (CITY, "0 Lisbon; Portugal, 5 change Berlin, 20 Lisbon", {"Lisbon"}),
        (PHONE, "0 iPhone 13, 5 ended iPhone 13, 5 change iPhone 15, 9 iPhone, 20 phone", {"iPhone 15"}),
        ("projects.current", "0 app, 5 weather app, 9 ended weather app, 20 chess app, 30 app", {"chess app"}),
        ("goals.current", "0 half marathon, 5 ended half marathon, 20 marathon", {"marathon"}),
    ],
)
def test_a_part_means_the_whole_that_holds(key, life, now):
    assert applied(told(key, life)) == now


def test_a_part_that_several_were_called_leaves_each_its_own_trait():
    evidence = told(ROLE, "0 engineer, 1 data engineer, 5 change nurse, 20 engineer")
    found = held(evidence)
    assert len({trait.trait_id for trait in found}) == len(found) == 3
    explainer = Explainer("u1", evidence, START + 100 * DAY)
    assert [explainer.explain(trait.trait_id).trait for trait in found] == found


def test_a_friends_first_name_is_the_friend_who_is_there():
    work = [seen("explicit", "nurse", key=ROLE, day=6, of=Entity("person", "friend", "Anna"))]
    for life, who in (
        ("0 Anna Berg, 2 Anna Schmidt, 5 Anna", "Anna Schmidt"),
        ("0 Anna Berg, 2 ended Anna Berg, 5 change Anna", "Anna"),
        ("0 Anna Berg, 1 Anna Schmidt, 2 ended Anna Schmidt, 5 Anna", "Anna Berg"),
    ):
        found = held([*told(FRIENDS, life), *work])
        assert [trait.entity.name for trait in found if trait.key == ROLE] == [who]
        assert next(trait.status for trait in found if trait.value == who) == "applied"


def test_a_fact_brings_nobody_back():
    evidence = told(FRIENDS, "0 Anna Berg, 2 ended Anna Berg")
    evidence += told(ROLE, "5 nurse", Entity("person", "friend", "Anna"))
    assert {trait.entity.name for trait in held(evidence)} == {"Anna Berg"}


def test_reading_parts_is_linear():
    """Ten times the evidence takes no more than some ten times as long, also where all of it may be part of all."""

    def cost(count: int) -> float:
        said = [
            seen(
                ("explicit", "change", "ended", "explicit")[n % 4],
                "engineer" if n % 4 == 3 else f"w{n % 97} w{n // 4 % 31} engineer",
                key=ROLE,
                day=n / 1000,
                message=f"m{n}",
            )
            for n in range(count)
        ]
        return least_cpu_s(lambda: score("u1", said, START + 40 * DAY), times=3)

    assert cost(5_000) < 40 * max(cost(500), 0.01)

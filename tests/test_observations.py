"""What evidence is about: dislikes, ends, several at once, one value in other words, people and animals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import least_cpu_s
from tests.test_scoring import DAY, START, days, number, seen, steady
from twin_sio.agent.capacity import PER_USER
from twin_sio.agent.eviction import evicted
from twin_sio.agent.explanation import Explainer
from twin_sio.agent.mentions import entity_of
from twin_sio.agent.scoring import score
from twin_sio.agent.traits import EXISTENCE, OF, normal, trait_id
from twin_sio.domain import Entity, Evidence, Trait

ROLE, EMPLOYER, CITY = "work.role", "work.employer", "location.city"
LIKES, DISLIKES = "interests.likes", "interests.dislikes"
PARTNER, CHILDREN, PETS = "family.partner", "family.children", "pets.has"
FRIENDS = "people.friends"
MIA = Entity("person", "daughter", "Mia")


def held(*evidence: Evidence, day: float = 100) -> list[Trait]:
    return list(score("u1", evidence, START + day * DAY))


def read(*evidence: Evidence, day: float = 100) -> dict[str, str]:
    """The status of each value, by `key value`, and of whom where that is not the user."""
    named = {}
    for trait in held(*evidence, day=day):
        of = f" of {trait.entity.label}" if trait.entity and OF in "".join(trait.names) else ""
        named[f"{trait.key} {trait.value}{of}"] = trait.status
    return named


def spans(*evidence: Evidence, day: float = 100) -> dict[str, tuple[int, int | None]]:
    """The days from and to which each value holds."""
    return {
        trait.value: ((trait.valid_from - START).days, (trait.valid_to - START).days if trait.valid_to else None)
        for trait in held(*evidence, day=day)
    }


# -- dislikes


def test_a_dislike_is_a_trait():
    assert read(seen("explicit", "horror", key=DISLIKES)) == {"interests.dislikes horror": "applied"}


@pytest.mark.parametrize(("first", "second"), [(LIKES, DISLIKES), (DISLIKES, LIKES)])
def test_the_newer_of_a_like_and_a_dislike_holds(first, second):
    said = seen("explicit", "Opera", key=first), seen("explicit", "opera", key=second, day=4)
    assert read(*said) == {f"{first} Opera": "superseded", f"{second} opera": "applied"}
    (was,) = (trait for trait in held(*said) if trait.key == first)
    assert was.valid_to == START + 4 * DAY


def test_an_inferred_taste_gives_way_to_a_stated_one():
    guesses = [seen("inferred", "opera", key=LIKES, day=n, message=f"m{n}") for n in range(20)]
    assert read(seen("explicit", "opera", key=DISLIKES), *guesses, day=20) == {
        "interests.dislikes opera": "applied",
        "interests.likes opera": "unused",
    }


def test_inferred_both_ways_nothing_is_used():
    guesses = [
        seen("inferred", "opera", key=key, day=n, message=f"{key}{n}") for n in range(20) for key in (LIKES, DISLIKES)
    ]
    assert set(read(*guesses, day=20).values()) == {"tentative"}


@pytest.mark.parametrize(
    ("kind", "reads"),
    [
        ("explicit", {"interests.dislikes horror": "applied"}),
        ("inferred", {"interests.dislikes horror": "tentative"}),
        ("change", {"interests.likes horror": "superseded"}),
        ("rejected", {"interests.likes horror": "rejected"}),
        ("down", {"interests.likes horror": "unused"}),
    ],
)
def test_evidence_of_the_first_version_reads_as_a_dislike(kind, reads):
    assert read(seen(kind, "horror", key=LIKES, polarity=-1, version=1), day=0) == reads


def test_the_first_version_speaks_against_nothing_else():
    """What did not hold of another slot still does not, and a like stays a like."""
    old = seen("explicit", "Rome", key=CITY, polarity=-1, version=1), seen("explicit", "jazz", key=LIKES, version=1)
    assert read(*old) == {"interests.likes jazz": "applied", "location.city Rome": "unused"}


# -- ends


def test_an_end_closes_a_value_and_weighs_nothing():
    said, end = seen("explicit", "chess"), seen("ended", "chess", day=9)
    (trait,) = held(said, end)
    assert (trait.status, trait.valid_from, trait.valid_to) == ("superseded", START, START + 9 * DAY)
    assert (trait.supporting, trait.opposing) == (held(said)[0].supporting, 0)
    assert number(said, end, day=9) == number(said, day=9)


def test_a_value_that_is_stated_again_opens_again():
    said = seen("explicit", "chess"), seen("ended", "chess", day=9), seen("explicit", "chess", day=20)
    assert (read(*said), spans(*said)) == ({"interests.likes chess": "applied"}, {"chess": (20, None)})
    assert spans(*said, seen("ended", "chess", day=30), seen("ended", "chess", day=40)) == {"chess": (20, 30)}


def test_a_guess_opens_nothing_again():
    assert read(seen("explicit", "chess"), seen("ended", "chess", day=9), seen("inferred", "chess", day=20)) == {
        "interests.likes chess": "superseded"
    }


def test_what_ended_before_it_was_known_is_former():
    assert spans(seen("ended", "chess", day=9)) == {"chess": (9, 9)}
    assert spans(seen("ended", "chess", day=9), seen("explicit", "chess", day=12)) == {"chess": (12, None)}


@pytest.mark.parametrize(
    ("known", "ended", "status"),
    [
        (("possession.car", "volvo"), ("possession.car", "the volvo"), "superseded"),
        (("possession.car", "volvo v60"), ("possession.car", "the volvo"), "superseded"),
        (("possessions.car", "volvo"), ("possession.car", "red volvo"), "superseded"),
        (("vehicles.car", "volvo"), ("possession.car", "volvo"), "superseded"),
        (("possession.car", "saab"), ("possession.car", "volvo"), "applied"),
        (("possession.car", "volvo"), ("possessions.car", "my car"), "superseded"),
        (("possessions.car", "volvo"), ("possessions.has", "car"), "superseded"),
        (("possession.bike", "trek"), ("possession.car", "car"), "applied"),
        ((PARTNER, "Clara"), (PARTNER, "ex"), "superseded"),
        ((EMPLOYER, "Acme"), (EMPLOYER, "my job"), "superseded"),
        ((ROLE, "head chef"), (EMPLOYER, "Arbeit"), "superseded"),
        ((ROLE, "data engineer"), (ROLE, "engineer"), "superseded"),
        ((PARTNER, "Clara"), (PARTNER, "ex Clara"), "superseded"),
        ((PARTNER, "Clara"), (PARTNER, "girlfriend"), "superseded"),
        ((PARTNER, "Clara"), ("relationship.partner", "Clara"), "superseded"),
        ((PARTNER, "my wife Clara"), ("relationships.partner", "wife"), "superseded"),
        ((PETS, "Rex"), (PETS, "dog"), "superseded"),
        ((CHILDREN, "Mia"), ("relationship.partner", "partner"), "applied"),
        ((LIKES, "black coffee"), (LIKES, "coffee"), "superseded"),
        ((LIKES, "coffee"), (LIKES, "black coffee"), "applied"),
        ((LIKES, "tea tree oil"), (LIKES, "tea"), "applied"),
        ((DISLIKES, "horror"), (LIKES, "horror"), "applied"),
    ],
)
def test_an_end_finds_what_it_is_about(known, ended, status):
    said = seen("explicit", known[1], key=known[0]), seen("ended", ended[1], key=ended[0], day=9)
    first = min(held(*said), key=lambda trait: trait.valid_from)
    assert first.status == status
    assert len(held(*said)) == (1 if status == "superseded" else 2)


def test_an_end_closes_nothing_that_came_with_it():
    """Sold the one and bought another, in one breath."""
    said = seen("ended", "volvo", key="possession.car"), seen("change", "volvo v60", key="possession.car")
    assert read(*said) == {"possession.car volvo": "superseded", "possession.car volvo v60": "applied"}


def test_an_allergy_ends_by_its_own_name_only():
    said = seen("explicit", "pine nuts", key="health.allergy"), seen("ended", "nuts", key="health.allergy", day=3)
    assert read(*said)["health.allergy pine nuts"] == "tentative"
    assert (
        read(*said, seen("ended", "pine nuts", key="health.allergy", day=4))["health.allergy pine nuts"] == "superseded"
    )


def test_a_slot_whose_value_ended_is_free():
    guesses = [seen("inferred", "Munich", key=CITY, day=20, message=f"m{n}", session=f"s{n}") for n in range(9)]
    assert read(seen("explicit", "Berlin", key=CITY), seen("ended", "Berlin", key=CITY, day=9), *guesses, day=20) == {
        "location.city Berlin": "superseded",
        "location.city Munich": "applied",
    }


def test_an_end_is_explained_without_a_weight():
    said = seen("explicit", "volvo", key="possession.car"), seen("ended", "the volvo", key="possessions.car", day=9)
    received = Explainer("u1", said, START + 9 * DAY).explain(trait_id("u1", "possession.car", "volvo"))
    assert [(one.piece.kind, one.side) for one in received.reasons] == [
        ("explicit", "supports"),
        ("ended", "set_aside"),
    ]


def test_an_end_is_kept_as_long_as_what_it_ended():
    ended = [seen("change", "chess", day=2), seen("ended", "chess", day=2.5)]
    more = [seen("explicit", f"thing {n}", day=2, message=f"m{n}") for n in range(PER_USER)]
    gone = evicted("u1", [*ended, *more], START + 3 * DAY)
    assert {piece.kind for piece in gone} == {"explicit"}


# -- several at once, and one in other words


def test_statements_add_roles_and_a_change_replaces_them():
    several = seen("explicit", "nurse", key=ROLE), seen("explicit", "DJ", key=ROLE, day=2)
    assert set(read(*several).values()) == {"applied"}
    assert read(*several, seen("change", "teacher", key=ROLE, day=5), seen("explicit", "DJ", key=ROLE, day=6)) == {
        "work.role nurse": "superseded",
        "work.role DJ": "applied",
        "work.role teacher": "applied",
    }


def test_what_is_said_with_a_change_stands_beside_it():
    said = seen("explicit", "nurse", key=ROLE), seen("change", "teacher", key=ROLE, day=5)
    assert read(*said, seen("explicit", "nurse", key=ROLE, day=5))["work.role nurse"] == "applied"


@pytest.mark.parametrize(
    ("key", "part", "whole"),
    [
        (ROLE, "engineer", "data engineer"),
        (ROLE, "nurse", "nurse in training"),
        (CITY, "Lisbon", "downtown Lisbon"),
        (CITY, "Lisbon", "Lisbon, Portugal"),
        ("health.condition", "asthma", "mild asthma"),
        ("identity.name", "Ada", "Ada Lovelace"),
        (EMPLOYER, "Acme", "Acme Corp"),
        (CHILDREN, "Mia", "Mia Rose"),
        ("possession.car", "the volvo", "volvo v60"),
        ("possession.car", "a car", "volvo"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_value_that_is_part_of_another_is_one_with_it(key, part, whole, turned):
    first, second = (whole, part) if turned else (part, whole)
    (trait,) = held(seen("explicit", first, key=key), seen("explicit", second, key=key, day=1), day=1)
    assert (trait.value, trait.valid_from) == (whole, START)
    assert trait.supporting > 15.9
    assert trait.trait_id == trait_id("u1", key, first)
    pieces = [seen("explicit", first, key=key), seen("explicit", second, key=key, day=1)]
    assert Explainer("u1", pieces, START + DAY).explain(trait_id("u1", key, second)).trait == trait


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        (LIKES, "tea", "tea tree oil"),
        (LIKES, "tennis", "table tennis"),
        (LIKES, "dogs", "hot dogs"),
        ("health.allergy", "nuts", "pine nuts"),
        ("language.spoken", "German", "Swiss German"),
        (EMPLOYER, "York", "New York"),
        (ROLE, "software", "software engineer"),
        ("location.country", "Korea", "South Korea"),
    ],
)
def test_values_whose_parts_differ_stay_apart(key, one, other):
    assert len(held(seen("explicit", one, key=key), seen("explicit", other, key=key, day=1))) == 2


def test_a_guess_says_nothing_more_of_a_statement():
    assert read(seen("explicit", "engineer", key=ROLE), seen("inferred", "data engineer", key=ROLE, day=1), day=1) == {
        "work.role engineer": "applied",
        "work.role data engineer": "tentative",
    }


def test_a_change_is_another_value():
    assert read(seen("explicit", "engineer", key=ROLE), seen("change", "lead engineer", key=ROLE, day=1)) == {
        "work.role engineer": "superseded",
        "work.role lead engineer": "applied",
    }


def test_a_rejected_wording_takes_nothing_with_it():
    said = seen("explicit", "engineer", key=ROLE), seen("rejected", "data engineer", key=ROLE, day=2, polarity=-1)
    assert read(*said, seen("explicit", "data engineer", key=ROLE, day=1)) == {
        "work.role engineer": "applied",
        "work.role data engineer": "rejected",
    }


def test_other_wordings_in_one_session_repeat():
    """Saying the same in ever other words does not teach a guess."""
    wordings = [" ".join(("very",) * n + ("engineer",)) for n in range(7)]
    guesses = [seen("inferred", value, key=ROLE, session="s", message=value) for value in wordings]
    (trait,) = held(*guesses, day=0)
    assert trait.confidence < 0.63


# -- people and animals


def test_children_are_one_count_and_one_named_child():
    said = [
        seen("explicit", value, key=CHILDREN, day=day)
        for day, value in enumerate(("two kids", "kids", "2", "Mia", "daughter", "my daughter Mia"))
    ]
    assert {(trait.value, trait.entity) for trait in held(*said)} == {
        ("two kids", Entity("person", "kids", "", 2)),
        ("Mia", Entity("person", "daughter", "Mia")),
    }


@pytest.mark.parametrize(
    "values", [("wife", "Clara"), ("Clara", "wife"), ("my wife Clara", "Clara"), ("esposa", "Clara Meyer")]
)
def test_a_wife_and_her_name_are_one(values):
    (trait,) = held(*(seen("explicit", value, key=PARTNER, day=day) for day, value in enumerate(values)))
    assert (trait.value.split()[0], trait.status) == ("Clara", "applied")
    assert trait.entity.relation in ("wife", "esposa")


def test_a_relation_means_whoever_was_named_last():
    said = [
        seen("explicit", value, key=CHILDREN, day=day)
        for day, value in enumerate(("daughter Mia", "daughter Lena", "daughter"))
    ]
    weights = {trait.value: round(trait.supporting) for trait in held(*said, day=3)}
    assert weights == {"Lena": 16, "Mia": 8}


def test_a_general_word_means_whoever_was_named_last():
    said = [seen("explicit", value, key=PETS, day=day) for day, value in enumerate(("dog Rex", "cat Miso", "my pet"))]
    assert {trait.value: round(trait.supporting) for trait in held(*said, day=3)} == {"Miso": 16, "Rex": 8}


@pytest.mark.parametrize(("slot", "called"), [("people.friends", "friend"), ("people.colleagues", "colleague")])
def test_one_of_many_without_a_name_is_not_whoever_was_named_last(slot, called):
    """Of whom people have many, nobody can know which one is meant, but within the hour; who is named next, and for the
    first time, may be the one."""
    unnamed = Entity("person", called)

    def named(name: str, day: float) -> Evidence:
        return seen("explicit", name, key=slot, day=day, of=Entity("person", called, name))

    porto = seen("explicit", "Porto", key=CITY, day=2, of=unnamed)
    assert read(named("Aoife", 0), porto, named("Aoife", 3)) == {
        f"{slot} Aoife": "applied",
        f"location.city Porto of {called}": "applied",
    }
    assert read(named("Aoife", 0), porto, named("Joana", 3)) == {
        f"{slot} Aoife": "applied",
        f"{slot} Joana": "applied",
        f"location.city Porto of Joana, {called}": "applied",
    }
    assert f"location.city Porto of Aoife, {called}" in read(named("Aoife", 1.98), porto)
    died = seen("ended", called, key=slot, day=2, of=unnamed)
    assert read(named("Aoife", 0), died)[f"{slot} Aoife"] == "applied"


def test_who_is_more_than_one_of_many_is_whoever_was_named():
    boss = Entity("person", "boss", "Ana"), Entity("person", "boss")
    said = [seen("explicit", "chess", key=LIKES, day=day, of=who, message=f"m{day}") for day, who in enumerate(boss)]
    assert [trait.entity for trait in held(*said)] == [boss[0]]


def test_a_partner_is_a_partner_whatever_they_were_before():
    rui = [Entity("person", called, "Rui") for called in ("acquaintance", "boyfriend")]
    said = seen("explicit", "36", key="identity.age", of=rui[0]), seen("explicit", "Rui", key=PARTNER, day=3, of=rui[1])
    assert {trait.entity for trait in held(*said)} == {rui[1]}


@pytest.mark.parametrize("quarter", ["location.neighborhood", "location.address", "location.setting"])
def test_who_moves_to_another_city_leaves_the_quarter(quarter):
    said = [
        seen("explicit", "Dublin", key=CITY),
        seen("explicit", "Rathmines", key=quarter, day=1),
        seen("explicit", "Dublin", key=CITY, day=2),
        seen("explicit", "Bonfim", key=quarter, day=8.5),  # told a little before the move
        seen("change", "Porto", key=CITY, day=9),
        seen("explicit", "Gracia", key=quarter, day=2, of=MIA),
        *(seen("inferred", "Cedofeita", key=quarter, day=day) for day in (20, 21, 22)),
    ]
    assert spans(*said) == {
        "Dublin": (0, 9),
        "Rathmines": (1, 9),
        "Porto": (9, None),
        "Bonfim": (8, None),
        "Cedofeita": (20, None),
        "Gracia": (2, None),
    }
    assert spans(*said[:3])["Rathmines"] == (1, None)


def test_a_city_that_is_put_right_is_no_move():
    quarter = seen("confirmed", "Kreuzberg", key="location.neighborhood", day=1)
    for kind in ("edited", "explicit", "confirmed"):
        said = seen("explicit", "Brelin", key=CITY), quarter, seen(kind, "Berlin", key=CITY, day=9)
        assert read(*said)["location.neighborhood Kreuzberg"] == "applied"


def test_what_was_said_last_of_the_time_stands_with_the_value():
    since_may, later = (
        replace(seen("explicit", "nurse", key=ROLE, day=day), when=when)
        for day, when in ((0, "since may"), (40, "31 yrs"))
    )
    assert [trait.when for trait in held(since_may)] == [f"since may, said {START:%Y-%m}"]
    assert [trait.when for trait in held(later, since_may)] == [f"31 yrs, said {START + 40 * DAY:%Y-%m}"]
    assert [trait.when for trait in held(seen("explicit", "nurse", key=ROLE))] == [""]


def test_two_animals_of_one_name_or_none_stay_two():
    said = [seen("explicit", value, key=PETS, day=day) for day, value in enumerate(("dog Rex", "cat", "two birds"))]
    assert sorted(trait.value for trait in held(*said)) == ["Rex", "cat", "two birds"]


def test_an_ex_is_not_whoever_it_is_now():
    said = [
        seen("explicit", "Clara", key=PARTNER),
        seen("explicit", "my ex", key=PARTNER, day=1),
        seen("explicit", "Rome", key=CITY, day=1, of=Entity("person", "ex-wife")),
        seen("explicit", "Tom", key=PARTNER, day=2, of=Entity("person", "ex-boyfriend", "Tom")),
    ]
    assert read(*said) == {
        "family.partner Clara": "applied",
        "family.partner my ex": "superseded",
        "family.partner Tom": "superseded",
        "location.city Rome of ex-wife": "applied",
    }


def test_after_an_end_the_same_word_means_somebody_else():
    ana = seen("explicit", "girlfriend Ana", key=PARTNER), seen("ended", "girlfriend", key=PARTNER, day=2)
    assert read(*ana, seen("explicit", "girlfriend", key=PARTNER, day=9)) == {
        "family.partner Ana": "superseded",
        "family.partner girlfriend": "applied",
    }
    unnamed = seen("explicit", "girlfriend", key=PARTNER), seen("ended", "girlfriend", key=PARTNER, day=2)
    assert read(*unnamed, seen("change", "Ana", key=PARTNER, day=9)) == {
        "family.partner girlfriend": "superseded",
        "family.partner Ana": "applied",
    }


def test_of_two_the_one_who_is_left_is_meant():
    dogs = [seen("explicit", value, key=PETS, day=day) for day, value in enumerate(("dog Max", "dog Rex"))]
    said = [
        *dogs,
        seen("ended", "Rex", key=PETS, day=3),
        seen("explicit", "walks", key=LIKES, day=4, of=Entity("pet", "dog")),
    ]
    assert read(*said)["interests.likes walks of Max, dog"] == "applied"


def test_a_denied_relation_is_nobody_named_later():
    said = seen("rejected", "daughter", key=CHILDREN, polarity=-1), seen("explicit", "Mia", key=CHILDREN, day=2)
    assert read(*said) == {"family.children daughter": "rejected", "family.children Mia": "applied"}


def test_a_fact_about_somebody_is_theirs():
    said = [
        seen("explicit", "Mia", key=CHILDREN),
        seen("explicit", "football", key=LIKES, day=1, of=MIA),
        seen("explicit", "football", key=DISLIKES, day=2),
    ]
    assert read(*said) == {
        "family.children Mia": "applied",
        "interests.dislikes football": "applied",
        "interests.likes football of Mia, daughter": "applied",
    }


def test_facts_about_one_person_come_together_however_they_are_called():
    of = [MIA, Entity("person", "daughter"), Entity("person", "", "mia")]
    said = [seen("explicit", "football", key=LIKES, day=n, of=who, message=f"m{n}") for n, who in enumerate(of)]
    (trait,) = held(*said, day=2)
    assert (trait.entity, trait.supporting > 23) == (Entity("person", "daughter", "mia"), True)


def test_what_is_known_of_somebody_ends_with_them():
    said = seen("explicit", "dog Rex", key=PETS), seen("explicit", "balls", key=LIKES, of=Entity("pet", "dog", "Rex"))
    assert set(read(*said, seen("ended", "Rex", key=PETS, day=9)).values()) == {"superseded"}


def test_an_illness_of_others_is_sensitive_too():
    asthma = seen("inferred", "asthma", key="health.condition", of=MIA)
    assert read(asthma) == {}
    assert list(read(replace(asthma, kind="explicit")).values()) == ["tentative"]


@pytest.mark.parametrize(
    ("key", "value", "entity"),
    [
        (CHILDREN, "two kids", Entity("person", "kids", "", 2)),
        (CHILDREN, "3", Entity("person", "", "", 3)),
        (CHILDREN, "Mia", Entity("person", "", "Mia")),
        (CHILDREN, "my daughter mia", Entity("person", "daughter", "mia")),
        (CHILDREN, "eine Tochter", Entity("person", "Tochter")),
        ("family.relatives", "meine Großmutter heißt Erna", Entity("person", "Großmutter", "Erna")),
        ("family.siblings", "older sister", Entity("person", "sister")),
        ("family.siblings", "deux frères", Entity("person", "frères", "", 2)),
        (PARTNER, "Clara (wife)", Entity("person", "wife", "Clara")),
        (PETS, "a cat called Miso", Entity("pet", "cat", "Miso")),
        (PETS, "golden retriever", Entity("pet", "golden retriever")),
        (PETS, "a golden retriever named Max", Entity("pet", "golden retriever", "Max")),
        (PETS, "2 cats and a dog", Entity("pet", "2 cats and a dog")),
        (CHILDREN, "two beautiful kids", Entity("person", "kids", "", 2)),
        (CHILDREN, "my son (7)", Entity("person", "son")),
        (CHILDREN, "Mia (7)", Entity("person", "", "Mia")),
        (CHILDREN, "baby on the way", Entity("person", "baby")),
        (PARTNER, "husband's name is Bob", Entity("person", "husband", "Bob")),
        (PARTNER, "my wife of ten years", Entity("person", "wife")),
        ("people.friends", "Jo from work", Entity("person", "", "Jo")),
        (PETS, "dos gatos", Entity("pet", "gatos", "", 2)),
    ],
)
def test_the_words_of_a_value_say_who_it_is(key, value, entity):
    assert entity_of(key, value) == entity


# -- for any evidence

WORDS = (
    "engineer",
    "data engineer",
    "nurse",
    "Mia",
    "Mia Rose",
    "daughter",
    "kids",
    "two kids",
    "my job",
    "opera",
    "single",
)
lives = st.lists(
    st.builds(
        lambda kind, value, key, day, session, polarity, message, of, version: seen(
            kind,
            value,
            key=key,
            day=day,
            session=session,
            polarity=polarity,
            message=message,
            of=of,
            version=version,
        ),
        kind=st.sampled_from(("edited", "change", "explicit", "ended", "inferred", "up", "down", "rejected")),
        value=st.sampled_from(WORDS),
        key=st.sampled_from(
            (ROLE, EMPLOYER, CITY, LIKES, DISLIKES, CHILDREN, PARTNER, "relationship.partner", "family.status")
        ),
        day=st.integers(0, 30),
        session=st.sampled_from(("s1", "s2", "s3")),
        polarity=st.sampled_from((1, 1, -1)),
        message=st.sampled_from([f"m{n}" for n in range(20)]),
        of=st.sampled_from((None, None, MIA, Entity("person", "daughter"), Entity("person", "", "Mia"))),
        version=st.sampled_from((1, 2)),
    ),
    max_size=16,
)


@steady
@given(lives, st.integers(0, 40), st.randoms(use_true_random=False))
def test_the_order_of_a_life_does_not_matter(evidence: Sequence[Evidence], day, random):
    shuffled = random.sample(evidence, len(evidence))
    assert score("u1", evidence, START + day * DAY) == score("u1", shuffled, START + day * DAY)


@steady
@given(lives, st.integers(0, 40))
def test_a_past_date_reads_as_it_did(evidence, day):
    on = START + day * DAY
    assert score("u1", evidence, on) == score("u1", [piece for piece in evidence if piece.observed_at <= on], on)
    assert score("u1", [*evidence, *evidence], on) == score("u1", evidence, on)


@steady
@given(lives, days)
def test_every_trait_is_well_formed_and_explains_itself(evidence, day):
    on = START + day * DAY
    found = score("u1", evidence, on)
    assert len({trait.trait_id for trait in found}) == len(found)
    for trait in found:
        assert (trait.status in ("rejected", "superseded")) == (trait.valid_to is not None)
        assert trait.valid_to is None or trait.valid_from <= trait.valid_to <= on
        received = Explainer("u1", evidence, on).explain(trait.trait_id)
        assert received is not None
        assert received.trait == trait
        assert len({one.piece.evidence_id for one in received.reasons}) == len(received.reasons)


@steady
@given(lives)
def test_no_taste_is_liked_and_disliked(evidence):
    applied = [trait for trait in score("u1", evidence, START + 40 * DAY) if trait.status == "applied"]
    tastes = [(trait.value, trait.entity) for trait in applied if trait.key in (LIKES, DISLIKES)]
    assert len(tastes) == len(set(tastes))


def hostile(count: int) -> dict[str, list[Evidence]]:
    """Evidence in which everything may be part of everything, or be ended by it."""
    words = [f"{'a ' * (n % 7)}w{n % 97} w{n}" for n in range(count)]
    return {
        "parts": [seen("explicit", word, key=ROLE, day=n / 1000, message=f"m{n}") for n, word in enumerate(words)],
        "ends": [
            seen("ended" if n % 2 else "explicit", word, key=f"possession.k{n % 50}", day=n / 1000, message=f"m{n}")
            for n, word in enumerate(words)
        ],
        "one end for all": [
            seen(
                "ended" if n % 2 else "explicit",
                "volvo" if n % 2 else f"volvo {n}",
                key=f"vehicle.k{n}",
                day=n / 1000,
                message=f"m{n}",
            )
            for n in range(count)
        ],
        "people": [
            seen("explicit", "daughter" if n % 2 else f"Mia {n}", key=CHILDREN, day=n / 1000, message=f"m{n}")
            for n in range(count)
        ],
        "their facts": [
            seen("explicit", f"thing {n}", key=LIKES, day=n / 1000, message=f"m{n}", of=Entity("person", "", f"P{n}"))
            for n in range(count)
        ],
    }


@pytest.mark.parametrize("shape", hostile(1))
def test_sorting_out_is_linear(shape):
    """Ten times the evidence takes no more than some ten times as long."""

    def cost(count: int) -> float:
        evidence = hostile(count)[shape]
        return least_cpu_s(lambda: score("u1", evidence, START + 40 * DAY), times=3)

    assert cost(5_000) < 40 * max(cost(500), 0.01)


def test_the_words_for_relations_are_well_formed():
    """Each word says one thing in its slot, as values are compared, and each language has all parts."""
    table = json.loads(files("twin_sio.agent").joinpath("relations.json").read_text("utf-8"))
    assert set(table["general"]) == EXISTENCE
    for language in table["languages"].values():
        assert set(language) == {"small", "numbers", "alone", "which", "whole", "relations"}
        for slot, sorts in language["relations"].items():
            assert slot in EXISTENCE
            listed = [word for numbers in sorts.values() for words in numbers.values() for word in words]
            assert len(listed) == len({normal(word) for word in listed}), slot
            assert not any(" " in word for word in listed)

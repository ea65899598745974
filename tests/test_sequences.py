"""What a life reads as that is told one day after the other: what ends, what takes its place, what brings it back.

A life is a line, `0 Volvo, 5 ended Volvo, 20 car`: the day, how it was said (else plainly), the value.
"""

from __future__ import annotations

import pytest

from tests.factories import least_cpu_s
from tests.test_scoring import DAY, START, seen
from twin_sio.agent.capacity import PER_USER
from twin_sio.agent.eviction import evicted
from twin_sio.agent.explanation import Explainer
from twin_sio.agent.profile_prompt import known
from twin_sio.agent.scoring import score
from twin_sio.domain import Entity, Evidence, Profile, Trait

ROLE, EMPLOYER, CITY, NAME = "work.role", "work.employer", "location.city", "identity.name"
CAR, PHONE, HAS = "possessions.car", "possessions.phone", "possessions.has"
FRIENDS, LIKES = "people.friends", "interests.likes"
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
        (EMPLOYER, "0 Acme, 5 ended Acme Corp.", set()),
        (EMPLOYER, "0 Acme GmbH, 5 ended Acme", set()),
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


# -- the user's plain word that it is not so

DIET, STATUS, ALLERGY = "food.diet", "family.status", "health.allergy"


@pytest.mark.parametrize(
    ("key", "life"),
    [
        (DIET, "0 vegetarian, 5 vegetarian, 10 vegetarian, 20 not vegetarian"),
        (CAR, "0 bmw, 9 bmw, 18 bmw, 27 bmw, 36 bmw, 60 not bmw"),
        (CAR, "0 bmw, 9 bmw v3, 60 not bmw"),
        (STATUS, "0 married, 3 married, 9 not married"),
        (ROLE, "0 nurse, 1 confirmed nurse, 20 not nurse"),
        (ROLE, "0 data engineer, 20 not engineer"),
        (ALLERGY, "0 nuts, 1 confirmed nuts, 100 not nuts"),
        (CITY, "0 Berlin, 2 Berlin, 9 not Berlin"),
        ("pets.has", "0 dog, 2 dog, 9 not dog"),
        ("pets.has", "0 dog Rex, 2 dog Rex, 9 not Rex"),
        (ROLE, ", ".join(f"{n} guess engineer" for n in range(40)) + ", 40 not engineer, 41 guess engineer"),
    ],
)
def test_a_denial_closes_what_was_said_before(key, life):
    evidence = told(key, life)
    day = (evidence[-1].observed_at - START).days
    (trait,) = held(evidence, day)
    assert (trait.status, trait.valid_to) == ("unused", None)
    prompt = known(Profile("u1", 1, (trait,)), budget_tokens=2000)
    assert prompt.sections[0].splitlines()[-1].partition(": ")[2].startswith('not "')
    assert prompt.used_traits == ()
    assert known(Profile("u1", 1, (trait,)), budget_tokens=2000).former == ()
    reasons = Explainer("u1", evidence, START + day * DAY).explain(trait.trait_id).reasons
    assert {(one.piece.polarity, one.side) for one in reasons} == {(1, "supports"), (-1, "opposes")}


@pytest.mark.parametrize(
    ("key", "life", "now"),
    [
        (DIET, "0 vegetarian, 9 not vegetarian, 20 vegetarian", {"vegetarian"}),
        (DIET, "0 vegetarian, 9 vegetarian, 9 not vegetarian", {"vegetarian"}),
        (DIET, "0 not vegetarian, 9 vegetarian", {"vegetarian"}),
        (CITY, "0 Berlin, 5 Paris, 9 not Paris", set()),
        (CITY, "0 Berlin, 5 Paris, 9 not Berlin", {"Paris"}),
        (CITY, "0 Berlin, 9 not Berlin, 12 Paris", {"Paris"}),
        (ROLE, "0 engineer, 9 not data engineer", {"engineer"}),
        (CAR, "0 Volvo, 5 not Volvo, 6 Tesla, 20 car", {"Tesla"}),
    ],
)
def test_a_statement_opens_what_was_denied(key, life, now):
    assert applied(told(key, life), 30) == now


def test_what_was_denied_began_with_the_statement_after_it():
    (trait,) = held(told(DIET, "0 vegetarian, 9 not vegetarian, 20 vegetarian"))
    assert (trait.status, trait.valid_from) == ("applied", START + 20 * DAY)


def test_a_denial_of_what_was_never_said_makes_nothing_known():
    (trait,) = held(told(DIET, "0 not vegetarian"))
    assert trait.status == "unused"


def test_what_had_ended_before_it_was_denied_had_held():
    (trait,) = held(told(DIET, "0 vegetarian, 5 ended vegetarian, 9 not vegetarian"))
    assert (trait.status, trait.valid_to) == ("superseded", START + 5 * DAY)


def test_a_rejection_stands_beside_a_denial():
    (trait,) = held(told(DIET, "0 vegetarian, 5 not vegetarian, 6 rejected vegetarian, 9 vegetarian"))
    assert trait.status == "rejected"


def test_whoever_was_denied_is_not_meant_by_the_same_word_later():
    assert applied(told("pets.has", "0 dog Rex, 5 not dog, 9 dog")) == {"dog"}


def test_a_denial_is_kept_as_long_as_what_it_closed():
    closed = told(DIET, "2 change vegetarian, 2.5 not vegetarian")
    more = [seen("explicit", f"thing {n}", day=2, message=f"m{n}") for n in range(PER_USER)]
    assert not {piece.evidence_id for piece in closed} & {
        piece.evidence_id for piece in evicted("u1", [*closed, *more], START + 3 * DAY) if piece.polarity < 0
    }


# -- what an end is about


@pytest.mark.parametrize(
    ("key", "life", "now"),
    [
        (ROLE, "0 engineer, 9 ended junior engineer", {"engineer"}),
        (ROLE, "0 software engineer, 9 ended software", {"software engineer"}),
        (ROLE, "0 data engineer, 9 ended engineer", set()),
        (EMPLOYER, "0 Siemens, 9 ended Siemens Energy", {"Siemens"}),
        (EMPLOYER, "0 Siemens Energy, 9 ended Siemens", set()),
        (EMPLOYER, "0 Bank, 9 ended Deutsche Bank", {"Bank"}),
        (HAS, "0 bike, 9 ended bike helmet", {"bike"}),
        (HAS, "0 bike, 3 bike helmet", {"bike", "bike helmet"}),
        (HAS, "0 bike, 3 bike helmet, 9 ended bike", {"bike helmet"}),
        (HAS, "0 bike, 3 red bike", {"red bike"}),
        (HAS, "0 red bike, 9 ended bike", set()),
        (HAS, "0 iPhone, 3 iPhone 15", {"iPhone 15"}),
        (HAS, "0 phone, 9 ended phone case", {"phone"}),
        (CITY, "0 New York, 9 ended York", {"New York"}),
        (CITY, "0 York, 9 ended New York", {"York"}),
        (CITY, "0 Lisbon, 9 ended Lisbon; Portugal", set()),
        (CAR, "0 Volvo, 9 ended red Volvo", set()),
        (CAR, "0 red Volvo V60, 9 ended Volvo", set()),
        (CAR, "0 Volvo, 1 Tesla, 9 ended car", set()),
        ("interests.likes", "0 black coffee, 9 ended coffee", set()),
        ("interests.likes", "0 new wave, 9 ended wave", {"new wave"}),
    ],
)
def test_an_end_closes_what_it_is_about_and_no_more(key, life, now):
    assert applied(told(key, life), 30) == now


# -- who is there no more

PARTNER, PARENTS, PETS = "family.partner", "family.parents", "pets.has"
CLARA, DANA = Entity("person", "wife", "Clara"), Entity("person", "girlfriend", "Dana")
MOTHER, REX = Entity("person", "mother"), Entity("pet", "dog", "Rex")


@pytest.mark.parametrize(
    ("lives", "until"),
    [
        ([(PARTNER, "0 Clara", CLARA), (ROLE, "0 teacher", CLARA), (PARTNER, "40 change Dana", DANA)], 40),
        ([(PARTNER, "0 Clara", CLARA), (ROLE, "3 teacher", CLARA), (PARTNER, "40 change Dana", DANA)], 40),
        ([(PARTNER, "0 Clara, 9 ended Clara", CLARA), (ROLE, "3 teacher", CLARA)], 9),
        ([(PARENTS, "0 mother, 30 ended mother", MOTHER), (ROLE, "40 guess nurse", MOTHER)], 30),
        ([(PETS, "0 Rex, 30 ended Rex", REX), ("interests.likes", "20 cheese, 29 cheese", REX)], 30),
        ([(PARTNER, "0 Clara", CLARA), (ROLE, "3 teacher", CLARA), (STATUS, "9 change divorced", None)], 9),
    ],
)
def test_what_is_known_of_somebody_is_over_when_they_are(lives, until):
    evidence = [piece for key, life, of in lives for piece in told(key, life, of)]
    traits = held(evidence)
    facts = [trait for trait in traits if trait.entity is not None and trait.key not in (PARTNER, PARENTS, PETS)]
    assert [(trait.status, trait.valid_to) for trait in facts] == [("superseded", START + until * DAY)]
    (fact,) = facts
    assert fact.valid_from <= fact.valid_to
    said = known(Profile("u1", 1, tuple(traits)), budget_tokens=2000)
    assert not any(fact.value in section for section in said.sections)
    assert fact.value in {one.value for one in said.former}
    assert Explainer("u1", evidence, START + 100 * DAY).explain(fact.trait_id).trait == fact


@pytest.mark.parametrize("ex", ["wife", "ex-wife", "ex", "exfrau", "ex novia", "ex girlfriend"])
def test_what_is_stated_of_somebody_since_they_left_holds(ex):
    """They live on; what was known of them before is over, and what is only guessed holds no more."""
    lives = [(PARTNER, "0 Clara, 9 ended Clara", CLARA), (ROLE, "3 teacher", CLARA)]
    later = told(CITY, "40 York", Entity("person", ex, "Clara")) + told(LIKES, "41 guess golf", CLARA)
    traits = held([*(piece for key, life, of in lives for piece in told(key, life, of)), *later])
    assert {trait.value: trait.status for trait in traits if trait.key != PARTNER} == {
        "York": "applied",
        "golf": "superseded",
        "teacher": "superseded",
    }
    (section,) = known(Profile("u1", 1, tuple(traits)), budget_tokens=2000).sections
    assert section.endswith(' (no longer in their life): location.city: "York"')


@pytest.mark.parametrize("kind", ["not", "ended"])
def test_what_somebody_does_no_more_does_not_end_them(kind):
    """A partner without a name, of whom something is denied, is the one who is named later."""
    nameless, named = Entity("person", "husband"), Entity("person", "husband", "Dodong")
    lives = [(PARTNER, "0 husband", nameless), (ROLE, "1 seaman", nameless), (LIKES, f"2 {kind} beer", nameless)]
    later = [(PARTNER, "30 Dodong", named), (CITY, "31 Cebu", named)]
    traits = held([piece for key, life, of in (*lives, *later) for piece in told(key, life, of)])
    assert [trait.status for trait in traits if trait.key == PARTNER] == ["applied"]
    assert {trait.entity.name for trait in traits if trait.entity is not None} == {"Dodong"}


def test_what_is_known_of_somebody_who_is_not_there_is_nothing():
    """Who was denied was never there, for all that is known."""
    evidence = [*told(PETS, "0 Rex, 9 not Rex", REX), *told("interests.likes", "3 cheese", REX)]
    assert {trait.status for trait in held(evidence)} == {"unused"}


def test_somebody_who_is_back_has_all_that_was_said_since_again():
    evidence = [
        *told(PARTNER, "0 Clara, 9 ended Clara, 20 Clara", CLARA),
        *told(ROLE, "3 teacher", CLARA),
        *told(CITY, "15 Rome", CLARA),
    ]
    assert applied(evidence) == {"Clara", "Rome"}


def test_what_is_told_of_an_ex_is_told_of_an_ex():
    ex = Entity("person", "ex-wife")
    evidence = [*told(PARTNER, "0 Clara, 9 ended Clara", CLARA), *told(CITY, "15 Rome", ex)]
    assert applied(evidence) == {"Rome"}


@pytest.mark.parametrize(
    ("status", "now"),
    [
        ("0 married, 9 change divorced", set()),
        ("0 married, 9 divorced", set()),
        ("0 married, 9 recently divorced", set()),
        ("9 change widowed", set()),
        ("9 change verwitwet", set()),
        ("9 change separated", set()),
        ("9 single", set()),
        ("9 guess single", {"Clara"}),
        ("9 not single", {"Clara"}),
        ("9 divorced", {"Clara"}),
        ("0 divorced, 9 divorced", {"Clara"}),
        ("0 single, 9 change married", {"Clara"}),
        ("0 single", {"Clara"}),
    ],
)
def test_who_has_become_single_has_no_partner(status, now):
    evidence = [*told(PARTNER, "1 Clara", CLARA), *told(STATUS, status)]
    assert {trait.value for trait in held(evidence) if trait.status == "applied" and trait.key == PARTNER} == now


def test_after_a_divorce_the_same_word_means_somebody_else():
    apart = told(STATUS, "0 married, 9 change divorced")
    unnamed = told(PARTNER, "40 girlfriend", Entity("person", "girlfriend"))
    found = held([*told(PARTNER, "0 Clara", CLARA), *apart, *unnamed])
    assert {trait.value: trait.status for trait in found if trait.key == PARTNER} == {
        "Clara": "superseded",
        "girlfriend": "applied",
    }
    wife = told(PARTNER, "0 wife", Entity("person", "wife"))
    found = held([*wife, *apart, *told(PARTNER, "40 change Dana", DANA)])
    assert {trait.value: trait.status for trait in found if trait.key == PARTNER} == {
        "wife": "superseded",
        "Dana": "applied",
    }


def test_a_divorce_explains_that_the_partner_is_gone():
    evidence = [*told(PARTNER, "0 Clara", CLARA), *told(STATUS, "9 change divorced")]
    (partner,) = (trait for trait in held(evidence) if trait.key == PARTNER)
    reasons = Explainer("u1", evidence, START + 100 * DAY).explain(partner.trait_id).reasons
    assert [(one.piece.value, one.side) for one in reasons] == [("Clara", "supports"), ("divorced", "set_aside")]


# -- several at once


@pytest.mark.parametrize(
    ("key", "life", "now"),
    [
        (PETS, "0 dog Rex, 3 dog Bello, 9 ended dogs", set()),
        (PETS, "0 dog Rex, 3 cat Miso, 9 ended dogs", {"Miso"}),
        (PETS, "0 dog Rex, 3 cat Miso, 9 ended pets", set()),
        (PETS, "0 dog Rex, 3 two cats, 9 ended all our pets", set()),
        (PETS, "0 dog Rex, 3 dog Bello, 9 ended both dogs", set()),
        (PETS, "0 dog Rex, 3 cat Miso, 9 not dogs", {"Miso"}),
        (PETS, "0 dog Rex, 3 cat Miso, 9 not pets", set()),
        (PETS, "0 dog Rex, 9 not two dogs", {"Rex"}),
        (PETS, "0 not dogs, 9 dog Rex", {"Rex"}),
        (PETS, "0 dog Rex, 3 dog Bello, 9 ended two dogs", set()),
        (PETS, "0 dog Rex, 3 dog Bello, 9 ended Hunde", set()),
        (PETS, "0 dog Rex, 3 dog Bello, 4 dog Max, 9 ended two dogs", {"Rex", "Bello", "Max"}),
        (PETS, "0 dog Rex, 3 dog Bello, 9 ended some of our dogs", {"Rex", "Bello"}),
        (PETS, "0 dog Rex, 3 dog Bello, 9 ended one of our dogs", {"Rex", "Bello"}),
        (PETS, "0 dog Rex, 9 ended puppies", {"Rex"}),
        (PETS, "0 dog, 9 ended dogs, 20 dog Bella", {"Bella"}),
        (PETS, "0 dog Rex, 9 ended dogs, 20 dog Bella", {"Bella"}),
        (PETS, "0 dog Rex, 9 ended dogs, 20 dog Rex", {"Rex"}),
        (PETS, "9 ended dogs, 20 dog Bella", {"Bella"}),
        (PARENTS, "0 mother, 3 father, 9 ended parents", set()),
        (FRIENDS, "0 Anna, 9 ended friends, 12 Sam", {"Sam"}),
    ],
)
def test_an_end_of_several_is_told_of_each(key, life, now):
    assert applied(told(key, life)) == now


def test_what_is_known_of_each_of_several_is_over_with_them():
    evidence = [*told(PETS, "0 dog Rex, 1 dog Bello, 9 ended dogs"), *told("interests.likes", "3 cheese", REX)]
    assert {trait.status for trait in held(evidence)} == {"superseded"}
    found = held(evidence)
    rex = next(trait for trait in found if trait.value == "Rex")
    assert rex.valid_to == START + 9 * DAY
    reasons = Explainer("u1", evidence, START + 100 * DAY).explain(rex.trait_id).reasons
    assert [(one.piece.value, one.side) for one in reasons] == [("dog Rex", "supports"), ("dogs", "set_aside")]


# -- one of several of a sort

SIBLINGS, CHILDREN = "family.siblings", "family.children"


@pytest.mark.parametrize(
    ("key", "life", "now"),
    [
        (SIBLINGS, "0 older sister, 0 younger sister", {"older sister", "younger sister"}),
        (SIBLINGS, "0 ältere Schwester, 0 jüngere Schwester", {"ältere Schwester", "jüngere Schwester"}),
        (SIBLINGS, "0 older sister, 5 sister Anna", {"Anna"}),
        (SIBLINGS, "0 sister Anna, 5 older sister", {"Anna"}),
        (SIBLINGS, "0 older sister, 3 sister", {"sister"}),
        (SIBLINGS, "0 older sister Anna, 3 younger sister Lea, 9 ended older sister", {"Lea"}),
        (SIBLINGS, "0 older brother, 3 younger brother, 9 ended older brother", {"younger brother"}),
        (PARENTS, "0 dad, 2 stepdad", {"dad", "stepdad"}),
        (PARENTS, "0 dad, 2 stepdad, 9 ended dad", {"stepdad"}),
        (PARENTS, "0 Vater, 2 Stiefvater, 9 ended Vater", {"Stiefvater"}),
        (CHILDREN, "0 daughter Mia, 50 change second daughter", {"Mia", "second daughter"}),
        (CHILDREN, "0 daughter Mia, 50 change second daughter, 60 daughter Lena", {"Mia", "Lena"}),
        (CHILDREN, "0 Mia, 50 change second child, 60 Leo", {"Mia", "Leo"}),
        (PETS, "0 dog Rex, 20 change second dog, 50 ended Rex", {"second dog"}),
        (PETS, "0 dog Rex, 20 change new dog, 30 dog Rex", {"Rex", "new dog"}),
        (FRIENDS, "0 best friend Sam, 3 friend Lea, 5 ended best friend", {"Lea"}),
        (FRIENDS, "0 best friend, 3 Sam", {"Sam"}),
        (FRIENDS, "0 George Best, 3 Sam, 9 ended best friend", {"George Best"}),
    ],
)
def test_one_of_several_is_told_from_the_others(key, life, now):
    assert applied(told(key, life)) == now


def test_a_fact_is_of_the_one_of_several_who_is_meant():
    older, younger = Entity("person", "older sister"), Entity("person", "younger sister")
    evidence = [
        *told(SIBLINGS, "0 older sister", older),
        *told(SIBLINGS, "0 younger sister", younger),
        *told(CITY, "1 Rome", older),
        *told(CITY, "2 Oslo", younger),
    ]
    found = {trait.value: trait.entity.relation for trait in held(evidence) if trait.status == "applied"}
    assert (found["Rome"], found["Oslo"]) == ("older sister", "younger sister")


def test_the_best_friend_is_whoever_was_called_so():
    evidence = [
        *told(FRIENDS, "0 Sam", Entity("person", "best friend", "Sam")),
        *told(FRIENDS, "3 Lea", Entity("person", "friend", "Lea")),
        *told(CITY, "5 change Oslo", Entity("person", "best friend")),
    ]
    assert [trait.entity.name for trait in held(evidence) if trait.key == CITY] == ["Sam"]


def test_the_prompt_tells_both_of_two():
    """Also where whoever read it left out which of them."""
    sister = Entity("person", "sister")
    traits = held([*told(SIBLINGS, "0 older sister", sister), *told(SIBLINGS, "0 younger sister", sister)])
    (section,) = known(Profile("u1", 1, tuple(traits)), budget_tokens=2000).sections
    assert "older sister" in section
    assert "younger sister" in section


def test_both_of_two_traits_of_one_wording_explain_themselves():
    evidence = told(SIBLINGS, "0 older sister, 0 younger sister, 9 not older sister")
    found = held(evidence)
    assert {trait.value: trait.status for trait in found} == {"older sister": "unused", "younger sister": "applied"}
    explainer = Explainer("u1", evidence, START + 100 * DAY)
    assert [explainer.explain(trait.trait_id).trait for trait in found] == found

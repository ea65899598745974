"""The profile's numbers: the design's anchors, and what holds for any evidence whatever."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import fsum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories import least_cpu_s
from twin_sio.agent.capacity import PER_USER, PER_VALUE
from twin_sio.agent.eviction import evicted
from twin_sio.agent.explanation import Explainer
from twin_sio.agent.scoring import confidence, score, slots_of
from twin_sio.agent.traits import WEIGHTS, is_functional, is_sensitive, trait_id
from twin_sio.config import ConfigError, ScoreWeights, Settings
from twin_sio.domain import EVIDENCE_VERSION, Entity, Evidence, EvidenceKind, Trait

DAY = timedelta(days=1)
YEAR = 365 * DAY
START = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = ("confirmed", "edited", "change", "explicit", "ended", "host", "inferred", "up", "down", "rejected")
KEYS = ("location.city", "food.likes", "health.condition", "interests.likes", "interests.dislikes", "work.role")


def seen(
    kind: EvidenceKind = "inferred",
    value: str = "Berlin",
    *,
    key: str = "interests.likes",
    day: float = 0,
    session: str | None = None,
    polarity: int = 1,
    message: str | None = None,
    of: Entity | None = None,
    version: int = EVIDENCE_VERSION,
    when: str = "",
) -> Evidence:
    """One piece of evidence; each day is a session of its own unless given."""
    return Evidence(
        user_id="u1",
        key=key,
        value=value,
        polarity=-1 if polarity < 0 else 1,
        kind=kind,
        observed_at=START + day * DAY,
        session_id=session or f"s{day}",
        message_id=message or f"m-{day}-{kind}-{value}-{polarity}-{session}",
        quote=value,
        extractor="test@1",
        entity=of,
        version=version,
        when=when,
    )


def traits(*evidence: Evidence, day: float = 0) -> dict[str, Trait]:
    """The traits by value, on `day`."""
    return {trait.value: trait for trait in score("u1", evidence, START + day * DAY)}


def number(*evidence: Evidence, day: float = 0) -> float:
    return round(confidence(evidence, START + day * DAY), 2)


# -- the anchors


def test_one_inference_gives_060():
    assert number(seen()) == 0.60


def test_six_inferring_sessions_give_080_and_apply_the_trait():
    evidence = [seen(session=f"s{n}", message=f"m{n}") for n in range(6)]
    assert number(*evidence) == 0.80
    assert traits(*evidence)["Berlin"].status == "applied"


def test_one_explicit_statement_gives_090_and_083_a_year_later():
    assert (number(seen("explicit")), number(seen("explicit"), day=365)) == (0.90, 0.83)


@pytest.mark.parametrize("kind", ["confirmed", "edited"])
def test_one_correction_gives_094(kind):
    assert number(seen(kind)) == 0.94


def test_eight_repeats_in_one_session_give_062():
    assert number(*(seen(session="s", message=f"m{n}") for n in range(8))) == 0.62


@pytest.mark.parametrize(("kind", "weight"), [("change", 12), ("host", 6), ("up", 0.25)])
def test_other_kinds_weigh_what_the_design_says(kind, weight):
    assert confidence([seen(kind)], START) == pytest.approx((1 + weight) / (2 + weight))


def test_a_thumb_down_weighs_three_times_a_thumb_up():
    assert confidence([seen("down", polarity=-1)], START) == pytest.approx(1 / 2.75)


# -- decay and opposition


def test_inferences_fade_in_60_days():
    assert confidence([seen()], START + 60 * DAY) == pytest.approx(1.25 / 2.25)


def test_opposition_fades_no_sooner_than_what_it_opposes():
    """An inference against an explicit statement keeps its share of it, so the trait does not rebound."""
    evidence = [seen("explicit", day=0), seen("inferred", day=10, polarity=-1)]
    trait = traits(*evidence, day=375)["Berlin"]
    assert trait.opposing == pytest.approx(0.25)


def test_later_evidence_changes_no_earlier_decay():
    """What comes later does not change how long an opposition counted."""
    evidence = [seen("inferred", day=0), seen("explicit", day=1, polarity=-1), seen("explicit", day=100)]
    assert traits(*evidence, day=61)["Berlin"].opposing == pytest.approx(4)
    assert traits(*evidence, day=121)["Berlin"].opposing == pytest.approx(2)


def test_the_strongest_piece_of_a_session_counts_whole():
    """Idle remarks before a plain statement must not take its weight."""
    evidence = [*(seen(session="s", message=f"m{n}") for n in range(5)), seen("explicit", session="s", message="n")]
    assert number(*evidence) >= 0.90


def test_an_opposition_that_meets_nothing_fades_by_its_own_kind():
    assert traits(seen("explicit", polarity=-1), day=365)["Berlin"].opposing == pytest.approx(4)
    assert traits(seen("inferred", polarity=-1), day=60)["Berlin"].opposing == pytest.approx(0.25)


# -- rejection


def test_a_rejected_value_has_the_same_low_confidence_for_ever():
    evidence = [*(seen("explicit", day=n) for n in range(20)), seen("rejected", day=20, polarity=-1)]
    assert (number(*evidence, day=20), number(*evidence, day=2000)) == (0.06, 0.06)


def test_a_rejection_is_final():
    """A rejection cannot be taught again by messages old or new."""
    evidence = [
        *(seen("explicit", day=n) for n in range(20)),
        seen("rejected", day=20, polarity=-1),
        *(seen("change", day=n) for n in range(21, 60)),
    ]
    trait = traits(*evidence, day=60)["Berlin"]
    assert (trait.status, trait.valid_to) == ("rejected", START + 20 * DAY)
    assert trait.confidence < 0.1
    assert traits(*evidence, day=60 + 730)["Berlin"] == replace(trait, as_of=START + 790 * DAY)


@pytest.mark.parametrize("kind", ["confirmed", "edited"])
def test_only_the_users_own_later_correction_lifts_a_rejection(kind):
    rejected = [seen("rejected", day=1, polarity=-1)]
    assert traits(seen(kind, day=0), *rejected, day=2)["Berlin"].status == "rejected"
    assert traits(*rejected, seen(kind, day=2), day=2)["Berlin"].status == "applied"


# -- bands


def test_the_bands_are_applied_tentative_and_unused():
    assert traits(seen("explicit"))["Berlin"].status == "applied"
    assert traits(seen())["Berlin"].status == "tentative"
    assert traits(seen("up"))["Berlin"].status == "tentative"
    assert traits(seen("down", polarity=-1))["Berlin"].status == "unused"


def test_an_applied_trait_stays_applied_until_under_065():
    evidence = [seen("explicit")]
    statuses = [traits(*evidence, day=days)["Berlin"].status for days in (0, 365, 900, 1000, 1100, 1400, 1900)]
    numbers = [number(*evidence, day=days) for days in (900, 1000, 1100, 1400, 1900)]
    assert statuses == ["applied", "applied", "applied", "applied", "applied", "tentative", "unused"], numbers


def test_hysteresis_applies_nothing_from_below():
    """A trait that never reached 080 is not applied between 065 and 080."""
    evidence = [seen(session=f"s{n}", message=f"m{n}") for n in range(4)]
    assert (number(*evidence), traits(*evidence)["Berlin"].status) == (0.75, "tentative")


def test_a_demoted_trait_needs_080_again():
    """It fell under 0.65 before the newer evidence came, which lifts it to no more than 0.8."""
    evidence = [seen("explicit"), *(seen(day=1400, session=f"t{n}", message=f"n{n}") for n in range(2))]
    trait = traits(*evidence, day=1400)["Berlin"]
    assert 0.65 < trait.confidence < 0.80
    assert trait.status == "tentative"


# -- functional slots

CITY = "location.city"


def test_a_newer_value_supersedes_the_older():
    """A newer explicit value supersedes the older which is kept with its end."""
    held = traits(seen("explicit", "Berlin", key=CITY), seen("change", "Munich", key=CITY, day=10), day=11)
    assert (held["Berlin"].status, held["Berlin"].valid_to) == ("superseded", START + 10 * DAY)
    assert (held["Munich"].status, held["Munich"].valid_from, held["Munich"].valid_to) == (
        "applied",
        START + 10 * DAY,
        None,
    )


def test_a_value_that_holds_again_begins_anew():
    evidence = [seen("explicit", city, key=CITY, day=day) for day, city in enumerate(("Berlin", "Munich", "berlin"))]
    held = traits(*evidence, day=3)
    assert (held["berlin"].status, held["berlin"].valid_from) == ("applied", START + 2 * DAY)
    assert (held["Munich"].status, held["Munich"].valid_to) == ("superseded", START + 2 * DAY)


def test_a_value_ends_where_it_was_left_last():
    """A value that ended twice ends where it was left last."""
    stated = [seen("explicit", city, key=CITY, day=day) for day, city in enumerate(("Berlin", "Munich") * 2)]
    held = traits(*stated, day=4)
    assert (held["Berlin"].valid_from, held["Berlin"].valid_to) == (START + 2 * DAY, START + 3 * DAY)


def test_inference_never_displaces_an_explicit_value():
    inferred = [seen("inferred", "Munich", key=CITY, day=10, session=f"s{n}", message=f"m{n}") for n in range(50)]
    held = traits(seen("explicit", "Berlin", key=CITY), *inferred, day=10)
    alone = traits(seen("explicit", "Berlin", key=CITY), day=10)
    assert held["Berlin"] == alone["Berlin"]
    assert held["Munich"].status == "tentative"


def test_inferred_values_of_one_slot_oppose_each_other():
    both = [
        seen("inferred", city, key=CITY, session=f"{city}{n}", message=f"{city}{n}") for n in range(6) for city in "ab"
    ]
    assert {trait.status for trait in traits(*both).values()} == {"unused"}


def test_rejecting_the_newer_value_brings_the_older_back():
    evidence = [seen("explicit", "Berlin", key=CITY), seen("explicit", "Munich", key=CITY, day=1)]
    held = traits(*evidence, seen("rejected", "Munich", key=CITY, day=2, polarity=-1), day=2)
    assert (held["Berlin"].status, held["Munich"].status) == ("applied", "rejected")


def test_other_slots_hold_many_values_and_only_opposite_polarity_opposes():
    held = traits(
        seen("explicit", "tea"), seen("explicit", "coffee", day=1), seen("change", "tea", day=2, polarity=-1), day=2
    )
    assert (held["tea"].status, held["coffee"].status) == ("unused", "applied")


TEA = "preferences.coffee_vs_tea"


def test_a_newer_preference_supersedes_the_older():
    """A comparison is one slot in which the newer preference supersedes the older."""
    held = traits(seen("explicit", "coffee", key=TEA), seen("explicit", "tea", key=TEA, day=9), day=9)
    assert is_functional(TEA)
    assert (held["coffee"].status, held["tea"].status) == ("superseded", "applied")
    assert held["coffee"].valid_to == START + 9 * DAY


# -- sensitive slots


@pytest.mark.parametrize(
    "key", ["health.condition", "faith.religion", "politics.party", "sexuality.orientation", "identity.religion"]
)
def test_sensitive_traits_are_never_inferred_and_applied_only_when_confirmed(key):
    assert is_sensitive(key)
    guesses = [seen(kind, key=key, day=day) for kind in ("inferred", "host", "up") for day in range(9)]
    assert traits(*guesses, day=9) == {}
    assert traits(*guesses, seen("explicit", key=key), day=9)["Berlin"].status == "tentative"
    assert traits(seen("explicit", key=key), seen("confirmed", key=key, day=1), day=9)["Berlin"].status == "applied"


def test_everyday_slots_are_not_sensitive():
    assert not any(is_sensitive(key) for key in (CITY, "food.likes", "work.role"))


# -- identity


def test_spellings_of_one_value_are_one_trait():
    held = score("u1", [seen("explicit", "New  York"), seen("explicit", "new york ", day=1)], START + DAY)
    assert [trait.value for trait in held] == ["new york "]


def test_trait_ids_are_distinct():
    """Trait ids fit the protocol and tell users slots and values apart."""
    ids = {
        trait_id(user, key, value)
        for user in ("u1", "u2")
        for key in ("a.b", "a.c")
        for value in ("x", "y", "日本", "\ud800")
    }
    assert len(ids) == 16
    assert all(re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", each) for each in ids)
    assert trait_id("u1", "a.b", " X ") == trait_id("u1", "a.b", "x")


# -- for any evidence

pieces = st.builds(
    lambda kind, value, key, day, session, polarity, message: seen(
        kind, value, key=key, day=day, session=session, polarity=polarity, message=message
    ),
    kind=st.sampled_from(KINDS),
    value=st.sampled_from(("Berlin", "berlin", "Munich")),
    key=st.sampled_from(KEYS),
    day=st.integers(0, 800),
    session=st.sampled_from(("s1", "s2", "s3")),
    polarity=st.sampled_from((1, -1)),
    message=st.uuids(version=4).map(str),
)
timelines = st.lists(pieces, max_size=14)
days = st.integers(0, 1500)
steady = settings(deadline=None, max_examples=100)  # a busy machine is no failure


@steady
@given(timelines, days, st.randoms(use_true_random=False))
def test_the_order_of_the_evidence_does_not_matter(evidence, day, random):
    shuffled = random.sample(evidence, len(evidence))
    assert score("u1", evidence, START + day * DAY) == score("u1", shuffled, START + day * DAY)


@steady
@given(timelines, days)
def test_scoring_a_past_date_repeats_it(evidence, day):
    """What was not yet observed on a date changes nothing of it."""
    on = START + day * DAY
    assert score("u1", evidence, on) == score("u1", [piece for piece in evidence if piece.observed_at <= on], on)


@steady
@given(timelines, days, st.integers(0, 90))
def test_evidence_that_comes_twice_changes_nothing(evidence, day, later):
    on = START + day * DAY
    again = [replace(piece, observed_at=piece.observed_at + later * DAY) for piece in evidence]
    assert score("u1", [*evidence, *again], on) == score("u1", evidence, on)


@steady
@given(
    timelines,
    st.sampled_from(("confirmed", "edited", "change", "explicit", "host", "inferred", "up")),
    st.sampled_from(KEYS),
    days,
)
def test_one_more_support_never_lowers_a_trait(evidence, kind, key, after):
    """Whatever was known, a newer supporting piece leaves the confidence as it is or lifts it, then and later."""
    more = seen(kind, key=key, day=801, session="s1", message="more")
    on = START + (801 + after) * DAY
    before = {trait.trait_id: trait for trait in score("u1", evidence, on)}
    for trait in score("u1", [*evidence, more], on):
        if trait.trait_id == trait_id("u1", key, "Berlin") and trait.trait_id in before:
            assert trait.confidence >= before[trait.trait_id].confidence - 1e-12


@steady
@given(timelines, st.sampled_from(KEYS))
def test_a_rejection_never_rebounds(evidence, key):
    """Two years on, with whatever was said before or after it, short of the user's own correction."""
    rejection = seen("rejected", key=key, day=400, polarity=-1, message="no")
    received = [p for p in evidence if p.observed_at <= rejection.observed_at or p.kind not in ("confirmed", "edited")]
    for on in (START + 400 * DAY, START + 800 * DAY, START + 400 * DAY + 2 * YEAR):
        held = {trait.trait_id: trait for trait in score("u1", [*received, rejection], on)}
        trait = held[trait_id("u1", key, "Berlin")]
        assert trait.status == "rejected"
        assert trait.confidence < 0.1


@steady
@given(timelines, st.sampled_from(("inferred", "explicit", "change", "up")), st.sampled_from(KEYS), days)
def test_an_echo_loop_changes_nothing(evidence, kind, key, after):
    """The user (or whoever puts the twin's words into their mouth) says the same all session long: once it counts
    whole, the next few by ever less, and then nothing moves, no confidence and no status."""
    on = START + (801 + after) * DAY

    def said(times: int) -> list[Any]:
        loop = [seen(kind, key=key, day=801, session="loop", message=f"turn{n}") for n in range(times)]
        held = score("u1", [*evidence, *loop], on)
        return [(trait.trait_id, trait.status, pytest.approx(trait.confidence, abs=1e-4)) for trait in held]

    assert said(10) == said(110)


@pytest.mark.parametrize("kind", ["inferred", "up"])
def test_an_echo_loop_never_applies_what_was_only_guessed(kind):
    loop = [seen(kind, session="loop", message=f"turn{n}") for n in range(100)]
    assert confidence(loop, START) - confidence(loop[:1], START) < 0.03
    assert traits(*loop)["Berlin"].status == "tentative"


@steady
@given(timelines, days)
def test_a_functional_slot_states_one_value(evidence, day):
    """Every trait is well formed and a functional slot states one value."""
    held = score("u1", evidence, START + day * DAY)
    stated = [trait for trait in held if trait.key == CITY and trait.status == "applied"]
    assert len(stated) <= 1
    assert [(trait.key, trait.value.casefold()) for trait in held] == sorted((t.key, t.value.casefold()) for t in held)
    for trait in held:
        assert 0 < trait.confidence < 1
        assert trait.valid_to is None or trait.valid_from <= trait.valid_to
        assert (trait.status in ("rejected", "superseded")) == (trait.valid_to is not None)
        assert trait.confidence == pytest.approx((1 + trait.supporting) / (2 + trait.supporting + trait.opposing))


@steady
@given(timelines, days)
def test_the_explained_pieces_give_the_traits_number_exactly(evidence, day):
    """Added up by hand from the reasons: weight x decay x repeat, (1 + S) / (2 + S + C)."""
    on = START + day * DAY
    for trait in score("u1", evidence, on):
        received = Explainer("u1", evidence, on).explain(trait.trait_id)
        assert received.trait == trait
        assert all(one.effective == one.weight * one.decay * one.repeat for one in received.reasons)
        supporting, opposing = (
            fsum(one.effective for one in received.reasons if one.side == side) for side in ("supports", "opposes")
        )
        assert (supporting, opposing) == (trait.supporting, trait.opposing)
        assert (1 + supporting) / (2 + supporting + opposing) == trait.confidence


@steady
@given(timelines, days)
def test_an_explanation_holds_every_piece_about_the_value_once(evidence, day):
    """An end stands with the trait that it closes, which may be a like of the same thing under another key."""
    on = START + day * DAY
    for trait in score("u1", evidence, on):
        about = [p for p in evidence if (p.key, p.value.casefold()) == (trait.key, trait.value.casefold())]
        known = {piece.evidence_id for piece in about if piece.observed_at <= on and piece.kind != "ended"}
        received = [one.piece.evidence_id for one in Explainer("u1", evidence, on).explain(trait.trait_id).reasons]
        assert known <= set(received)
        assert len(received) == len(set(received))


def test_a_rejection_explains_itself():
    """A rejected value is explained by its rejection and the rest is set aside."""
    evidence = [seen("explicit"), seen("rejected", day=1, polarity=-1)]
    received = Explainer("u1", evidence, START + DAY).explain(trait_id("u1", "interests.likes", "Berlin"))
    assert [(one.piece.kind, one.side, one.effective) for one in received.reasons] == [
        ("rejected", "opposes", 16.0),
        ("explicit", "set_aside", 0.0),
    ]


def test_an_unknown_trait_has_no_explanation():
    """A trait that the evidence does not give has no explanation."""
    assert Explainer("u1", [seen()], START).explain(trait_id("u2", "interests.likes", "Berlin")) is None


# -- settings


def test_the_weights_are_settings_and_the_design_is_their_default(monkeypatch):
    assert Settings().scoring.weights == WEIGHTS
    monkeypatch.setenv("TWIN_SCORE_WEIGHTS", '{"explicit": 3, "apply": 0.9}')
    assert Settings.from_environment().scoring.weights == ScoreWeights(explicit=3, apply=0.9)
    assert score("u1", [seen("explicit")], START, ScoreWeights(explicit=3, apply=0.9))[0].status == "tentative"


def test_bands_that_do_not_rise_are_refused(monkeypatch):
    monkeypatch.setenv("TWIN_SCORE_WEIGHTS", '{"demote": 0.85}')
    with pytest.raises(ConfigError, match=r"TWIN_SCORE_WEIGHTS.*tentative, demote and apply must rise"):
        Settings.from_environment()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ('{"explict": 3}', "TWIN_SCORE_WEIGHTS.explict"),
        ('{"explicit": -1}', "TWIN_SCORE_WEIGHTS.explicit"),
        ('{"explicit": "much"}', "TWIN_SCORE_WEIGHTS.explicit"),
        ("explicit=3", "TWIN_SCORE_WEIGHTS"),
    ],
)
def test_weights_that_are_wrong_are_refused_by_key(monkeypatch, value, named):
    monkeypatch.setenv("TWIN_SCORE_WEIGHTS", value)
    with pytest.raises(ConfigError) as refused:
        Settings.from_environment()
    assert named in str(refused.value)


# -- what the user confirmed


def test_a_correction_pins_a_value():
    """A value is pinned once its user confirmed it or wrote it in and until they reject it."""
    said, right, wrong = seen("explicit"), seen("confirmed", day=1), seen("rejected", day=2, polarity=-1)
    assert not traits(said)["Berlin"].pinned
    assert traits(said, right, day=1)["Berlin"].pinned
    assert traits(seen("edited"))["Berlin"].pinned
    assert not traits(said, right, wrong, day=2)["Berlin"].pinned
    assert traits(said, right, wrong, seen("confirmed", day=3), day=3)["Berlin"].pinned


# -- ratings


def rated(kind: EvidenceKind, day: float, *, about: str = "answer", session: str | None = None) -> Evidence:
    return replace(seen(kind, day=day, session=session, polarity=-1 if kind == "down" else 1), about=about)


@pytest.mark.parametrize(("kind", "supporting", "opposing"), [("up", 8.25, 0.0), ("down", 8.0, 0.75)])
def test_a_rating_weighs_as_designed(kind, supporting, opposing):
    """A rating weighs what the design says also in the session of the statement."""
    said, thumb = seen("explicit", session="s"), rated(kind, 0, session="s")
    trait = traits(said, thumb)["Berlin"]
    assert (trait.supporting, trait.opposing) == (supporting, opposing)


def test_the_newest_rating_replaces_the_earlier():
    """The newest rating of an answer takes the place of the earlier and none takes them back."""
    said, up, down, none = seen("explicit"), rated("up", 0.1), rated("down", 0.2), rated("withdrawn", 0.3)
    assert traits(said, up, down, day=1) == traits(said, down, day=1)
    assert traits(said, up, down, none, day=1) == traits(said, day=1)
    assert traits(said, up, down, none, rated("up", 0.4), day=1) == traits(said, rated("up", 0.4), day=1)


def test_ratings_of_different_answers_stand_beside_each_other():
    said, one, other = seen("explicit"), rated("up", 0, about="a1"), rated("down", 0, about="a2")
    trait = traits(said, one, other)["Berlin"]
    assert (trait.supporting, trait.opposing) == (8.25, 0.75)


@steady
@given(timelines, st.lists(st.sampled_from(("up", "down", "withdrawn")), min_size=1, max_size=6), days)
def test_only_the_last_rating_counts(evidence, kinds, after):
    """In whatever order the ratings come in."""
    on = START + (801 + after) * DAY
    ratings = [rated(kind, 800 + n / 100) for n, kind in enumerate(kinds)]
    assert score("u1", [*reversed(ratings), *evidence], on) == score("u1", [*evidence, ratings[-1]], on)


# -- how much of it


def crowd(count: int) -> dict[str, list[Evidence]]:
    """Evidence that is dear to compute: p stays in the middle, or every value has all the others beside it."""
    return {
        "one value in the middle": [
            seen(day=n / 10_000, session=f"s{n}", message=f"m{n}", polarity=1 if n % 4 else -1) for n in range(count)
        ],
        "a city for each": [
            seen("edited", f"city {n}", key="location.city", day=n / 1000, message=f"m{n}") for n in range(count)
        ],
        "many values": [seen("explicit", f"thing {n}", day=n / 1000, message=f"m{n}") for n in range(count)],
    }


@pytest.mark.parametrize("shape", crowd(1))
def test_scoring_is_linear(shape):
    """Ten times the evidence takes no more than some ten times as long."""

    def cost(count: int) -> float:
        evidence = crowd(count)[shape]
        return least_cpu_s(lambda: score("u1", evidence, START + 40 * DAY), times=3)

    assert cost(10_000) < 40 * max(cost(1_000), 0.01)


def test_the_weightiest_evidence_counts():
    """Of one value the weightiest count and its rejection stands under any crowd."""
    spoken = [seen("explicit", day=n / 100, session="one", message=f"m{n}") for n in range(PER_VALUE + 500)]
    before = traits(*spoken[:PER_VALUE], day=50)
    assert traits(*spoken, day=50)["Berlin"].status == before["Berlin"].status == "applied"
    rejected = [seen("rejected", day=0, message="no"), *spoken]
    assert traits(*rejected, day=50)["Berlin"].status == "rejected"


def test_the_lightest_evidence_goes_first():
    """What has to go is what weighs least and never a rejection."""
    rejections = [seen("rejected", f"never {n}", day=n / 1e4, message=f"r{n}", polarity=-1) for n in range(50)]
    words = [seen("confirmed", f"kept {n}", day=n / 1e4, message=f"c{n}") for n in range(50)]
    guesses = [seen("inferred", f"guess {n}", day=n / 1e4, message=f"g{n}") for n in range(PER_USER)]
    assert evicted("u1", guesses, START + DAY) == ()
    everything = [*rejections, *words, *guesses]
    gone = evicted("u1", everything, START + DAY)
    assert {piece.kind for piece in gone} == {"inferred"}
    assert len(everything) - len(gone) == PER_USER * 9 // 10


def test_the_confidence_curve_equals_daily_scores():
    """What numpy adds up at once, against `confidence` at each instant."""
    evidence = [
        seen("inferred", day=n, session=f"s{n % 3}", message=f"m{n}", polarity=1 if n % 3 else -1) for n in range(30)
    ]
    evidence += [seen("explicit", day=12, session="s1", message="said"), seen("down", day=15, message="d", polarity=-1)]
    evidence += [seen("rejected", day=20, message="no", polarity=-1), seen("confirmed", day=22, message="yes")]
    evidence.sort(key=lambda piece: (piece.observed_at, piece.evidence_id))
    [slot] = slots_of("u1", evidence, START + 60 * DAY, WEIGHTS)
    [name] = slot.values
    ages = slot._instants(name)
    course = slot._course(name, 0, 2 * len(ages))
    for nth, age in enumerate(ages):
        at = START + 60 * DAY - timedelta(microseconds=age)
        before = [piece for piece in evidence if piece.observed_at < at]
        assert course[2 * nth] == pytest.approx(confidence(evidence, at), abs=1e-12)
        assert course[2 * nth + 1] == pytest.approx(confidence(before, at), abs=1e-12)


def test_what_was_said_of_the_time_has_its_month():
    """Of what is over, of its end, too; of what grows old by itself, the month alone."""
    city = seen("explicit", "Rome", key="location.city", when="since 94")
    over = seen("ended", "Rome", key="location.city", day=40, when="left in May")
    assert traits(city)["Rome"].when == "since 94, said 2026-01"
    assert traits(city, over, day=50)["Rome"].when == "since 94, said 2026-01; over: left in May, said 2026-02"
    assert traits(seen("explicit", "41", key="identity.age"))["41"].when == "said 2026-01"
    assert traits(seen("explicit", "run 10k", key="goals.current"))["run 10k"].when == "said 2026-01"
    assert traits(seen("explicit", "jazz"))["jazz"].when == ""


def test_what_is_denied_is_told_from_what_is_only_doubtful():
    denied = traits(seen("explicit", "kids", key="family.children", polarity=-1))["kids"]
    assert (denied.status, denied.is_denied) == ("unused", True)
    assert not traits(seen("inferred", "jazz"), day=200)["jazz"].is_denied
    back = traits(seen("explicit", "meat", polarity=-1), seen("explicit", "meat", day=9), day=10)["meat"]
    assert (back.status, back.is_denied) == ("applied", False)

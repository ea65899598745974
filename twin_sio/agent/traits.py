"""What a trait is: its slot and what that can hold, its id, how values compare, and what each kind of evidence is."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from twin_sio.config import ScoreWeights
from twin_sio.domain import Entity, Fact, Profile, Trait

FUNCTIONAL: Final = frozenset(
    {
        "identity.name",
        "identity.nickname",
        "identity.pronouns",
        "identity.birthday",
        "identity.age",
        "identity.gender",
        "location.city",
        "location.country",
        "location.timezone",
        "family.status",
        "family.partner",
        "language.preferred",
        "style.tone",
        "style.length",
    }
)
"""The slots that hold one value at a time, as `category.key`; so does every comparison (`is_functional`)."""

REPLACED: Final = frozenset(
    {
        "work.role",
        "work.employer",
        "work.industry",
        "work.status",
        "work.schedule",
        "work.arrangement",
        "work.location",
        "education.field",
        "education.level",
        "education.school",
        "family.household",
        "possessions.home",
    }
)
"""The slots that hold several values at once, of which a change (`EvidenceKind`) replaces those from before it."""

EXISTENCE: Final = frozenset(
    {
        "family.partner",
        "family.children",
        "family.parents",
        "family.siblings",
        "family.relatives",
        "people.friends",
        "people.colleagues",
        "pets.has",
    }
)
"""The slots whose values are people and animals: that they are there."""

GOES_STALE: Final = frozenset({"identity.age", "goal", "project", "plan"})
"""Slots, and categories of such, of which the month in which something was said says as much as the value."""

CITY: Final = "location.city"
WITHIN_CITY: Final = frozenset({"location.neighborhood", "location.address", "location.setting"})
"""The slots of where in a city somebody lives: who has moved to another lives there no more."""

PARTNER: Final = "family.partner"
STATUS: Final = "family.status"
LIKES: Final = "interests.likes"
DISLIKES: Final = "interests.dislikes"
OPPOSITE: Final = {LIKES: DISLIKES, DISLIKES: LIKES}
"""Slots of which a value is in one at a time: who dislikes a thing likes it no more."""

# Categories in which a narrower value leaves the wider one standing (`is_taste`).
_TASTES: Final = frozenset({"interest", "preference", "food", "music", "film", "book", "hobby", "sport", "language"})
# Categories of what somebody is, or has, in more words or fewer (`merges`).
_DESCRIBED: Final = frozenset(
    {
        "identity",
        "location",
        "work",
        "education",
        "study",
        "studie",
        "project",
        "goal",
        "possession",
        "vehicle",
        "family",
        "people",
        "pet",
    }
)
# Categories of which each slot is of one thing (`holds_one_thing`).
_ONE_THING: Final = frozenset({"identity", "location", "possession", "vehicle"})
# Categories whose values are names (`holds_names`).
_NAMED: Final = frozenset({"identity", "location", "possession", "vehicle", "family", "people", "pet"})

_COMPARISON: Final = re.compile(r"preferences\.\w+_vs_\w+")

SENSITIVE: Final = frozenset(
    {"health", "medical", "faith", "religion", "politics", "political", "sexuality", "sexual", "orientation"}
)
"""Words of a key that make its slot sensitive: health, faith, politics, sexuality and their usual other names."""

# Kinds of evidence: the user's own word on a trait; what they state; that, and what an app has verified.
CORRECTIONS: Final = frozenset({"confirmed", "edited"})
STATED: Final = frozenset({"explicit", "change"}) | CORRECTIONS
EXPLICIT: Final = STATED | {"host"}
RATINGS: Final = frozenset({"up", "down", "withdrawn"})
ENDED: Final = "ended"

WEIGHTS: Final = ScoreWeights()


def normal(value: str) -> str:
    """`value` as values are compared: without regard to case, spacing and the spelling of characters."""
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


LONGEST: Final = 1_000
"""Characters of a value as `normal` has it, which makes eighteen of some letters: values are compared all the time."""


def is_too_long(value: str) -> bool:
    """Whether a value is too long to be compared with others all the time."""
    return len(value) > LONGEST or len(normal(value)) > LONGEST


OF: Final = "\N{SYMBOL FOR UNIT SEPARATOR}"
"""Stands between a value and whose it is, where both are in one name."""


def own_name(value: str, entity: Entity | None) -> str:
    """What an observation of `value` is called within its slot: of the user by the value, of others also by who."""
    who = normal(entity.name or entity.relation) if entity is not None else ""
    return f"{normal(value)}{OF}{who}" if who else normal(value)


def trait_id(user_id: str, key: str, value: str) -> str:
    """The same id for the same value (or `own_name`) of the same user's slot, for ever; tells nothing of them."""
    text = "\x1f".join((user_id, key, normal(value)))
    return "trait-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def names_of(trait: Trait) -> tuple[str, ...]:
    """What a trait is called within its slot, the name that gives it its id first."""
    return trait.names or (normal(trait.value),)


def without_rejected_people(profile: Profile) -> Sequence[Trait]:
    """The traits without those of somebody who, the user says, is not there."""
    rejected = (trait for trait in profile.traits if trait.status == "rejected" and trait.key in EXISTENCE)
    denied = {trait.entity for trait in rejected if trait.entity is not None}
    return [trait for trait in profile.traits if trait.entity not in denied] if denied else profile.traits


def fact_of(trait: Trait, known_at: datetime) -> Fact:
    """What a trait says, from its beginning to its end, and of whom."""
    about = trait.entity.label if trait.entity is not None and trait.key not in EXISTENCE else ""
    return Fact(trait.trait_id, trait.key, trait.value, trait.valid_from, trait.valid_to, known_at, None, about)


def is_functional(key: str) -> bool:
    """Whether the slot holds one value at a time; every other slot holds as many as there are.

    A comparison (`preferences.coffee_vs_tea`) does, its value being what is preferred: to prefer the one now is to
    prefer the other no more.
    """
    return key in FUNCTIONAL or _COMPARISON.fullmatch(key) is not None


def is_sensitive(key: str) -> bool:
    """Whether the slot is of health, faith, politics or sexuality: never inferred, applied once confirmed."""
    return not SENSITIVE.isdisjoint(re.split(r"[._]", key))


def category(key: str) -> str:
    """The part of a key before the dot, in the singular: `possession` of `possession.car` and of `possessions.car`."""
    stem = key.partition(".")[0]
    return "hobby" if stem == "hobbies" else stem.removesuffix("s")


def is_taste(key: str) -> bool:
    """Whether a narrower value of the slot leaves the wider one standing: who likes table tennis need not like tennis
    less, and an allergy to pine nuts does not say that other nuts are safe."""
    return category(key) in _TASTES or (is_sensitive(key) and key != "health.condition")


def merges(key: str) -> bool:
    """Whether two values of the slot of which one says more than the other ("engineer", "data engineer") are one: where
    they say what somebody is, where they live, what is theirs."""
    is_described = category(key) in _DESCRIBED and key not in ("location.country", "identity.age")
    return is_described or key == "health.condition"


def holds_names(key: str) -> bool:
    """Whether the values of the slot are names, which grow at their end, too ("Volvo", "Volvo V60")."""
    return (category(key) in _NAMED and not _holds_things(key)) or key == "work.employer"


def holds_one_thing(key: str) -> bool:
    """Whether the slot says of one thing what it is, or what it is called ("Volvo", of `possessions.car`): what is told
    of a narrower value is then told of it."""
    return category(key) in _ONE_THING and not _holds_things(key)


def _holds_things(key: str) -> bool:
    # Of any sort: a bike helmet is no bike.
    return category(key) == "possession" and key.endswith(".has")

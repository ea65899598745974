"""What a trait is: its slot, its id, how its values compare, and the weights of what is said about it."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

from twin_sio.config import ScoreWeights

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
        "work.employer",
        "work.role",
        "work.industry",
        "family.status",
        "family.partner",
        "language.preferred",
        "style.tone",
        "style.length",
    }
)
"""The slots that hold one value at a time, as `category.key`; so does every comparison (`is_functional`)."""

_COMPARISON: Final = re.compile(r"preferences\.\w+_vs_\w+")

SENSITIVE: Final = frozenset(
    {"health", "medical", "faith", "religion", "politics", "political", "sexuality", "sexual", "orientation"}
)
"""Words of a key that make its slot sensitive: health, faith, politics, sexuality and their usual other names."""

CORRECTIONS: Final = frozenset({"confirmed", "edited"})
STATED: Final = frozenset({"explicit", "change"}) | CORRECTIONS
EXPLICIT: Final = STATED | {"host"}
RATINGS: Final = frozenset({"up", "down", "withdrawn"})


WEIGHTS: Final = ScoreWeights()


def normal(value: str) -> str:
    """`value` as values are compared: without regard to case, spacing and the spelling of characters."""
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


def trait_id(user_id: str, key: str, value: str) -> str:
    """The same id for the same value of the same user's slot, for ever; tells nothing of any of them."""
    text = "\x1f".join((user_id, key, normal(value)))
    return "trait-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_functional(key: str) -> bool:
    """Whether the slot holds one value at a time; every other slot holds as many as there are.

    A comparison (`preferences.coffee_vs_tea`) does, its value being what is preferred: to prefer the one now is to
    prefer the other no more.
    """
    return key in FUNCTIONAL or _COMPARISON.fullmatch(key) is not None


def is_sensitive(key: str) -> bool:
    """Whether the slot is of health, faith, politics or sexuality: never inferred, applied once confirmed."""
    return not SENSITIVE.isdisjoint(re.split(r"[._]", key))

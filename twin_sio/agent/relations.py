"""What people call those in their lives, by language: the words stand in `relations.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, Final, NamedTuple

from twin_sio.agent.traits import EXISTENCE, normal


class Relation(NamedTuple):
    """What a word says of somebody: the slot they stand in, what they are (`daughter`), and whether there are several.
    `is_general`: it says no more than the slot does (`child`)."""

    slot: str
    sort: str
    is_many: bool
    is_general: bool


def _read() -> Mapping[str, Any]:
    table: Mapping[str, Any] = json.loads(files("twin_sio.agent").joinpath("relations.json").read_text("utf-8"))
    return table


def _words(listed: Iterable[str]) -> frozenset[str]:
    return frozenset(map(normal, listed))


_TABLE: Final = _read()
GENERAL: Final[Mapping[str, str]] = _TABLE["general"]
"""What everybody in a slot is."""
APART: Final = _words(_TABLE["apart"])
"""Words that make another thing of what follows: New York is no part of York."""
LINKS: Final = _words(_TABLE["links"])
"""Words that begin what only says more of the thing before them."""
AND: Final = _words(_TABLE["and"])
"""Words that join one with another."""
EVERY: Final = _words(_TABLE["every"])
"""Words before what several are that leave nobody out."""
NOT_ALL: Final = _words(_TABLE["not_all"])
"""Words by which some of them are meant, or their young."""
LEGAL_FORMS: Final = _words(_TABLE["legal_forms"])
"""Words behind the name of a company that are left out when people speak of it."""
NAMING: Final = _words(_TABLE["naming"])
"""Words that a name follows."""
WHICH: Final[Mapping[str, str]] = {
    normal(word): which
    for each in _TABLE["languages"].values()
    for which, words in each["which"].items()
    for word in words
}
"""Words by which one of a sort is told from others of it, and what they say."""
PAIR: Final = frozenset({"older", "younger"})
"""What tells two apart only where both are spoken of."""
ANOTHER: Final = "another"
"""What says that it is nobody who was spoken of before."""
SMALL: Final = _words(word for each in _TABLE["languages"].values() for word in each["small"])
"""Words before a value that say nothing of it."""
NUMBERS: Final[Mapping[str, int]] = {
    normal(word): count for each in _TABLE["languages"].values() for word, count in each["numbers"].items()
}
EX: Final = "ex"
"""What somebody is who was the partner."""


SINGLE: Final = _words(word for each in _TABLE["languages"].values() for word in each["alone"]["single"])
"""What a user says of themselves, at the end, who has no partner."""
PARTED: Final = _words(word for each in _TABLE["languages"].values() for word in each["alone"]["parted"])
"""And who has lost or left one."""


def _relations() -> dict[str, dict[str, Relation]]:
    found: dict[str, dict[str, Relation]] = {slot: {} for slot in sorted(EXISTENCE)}
    for each in _TABLE["languages"].values():
        for slot, sorts in each["relations"].items():
            for sort, words in sorts.items():
                for number, listed in words.items():
                    for word in listed:
                        one = Relation(slot, sort, number == "many", sort == GENERAL[slot])
                        found[slot].setdefault(normal(word), one)
    return found


_RELATIONS: Final = _relations()


def _whole() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {".partner": set(_RELATIONS["family.partner"])}
    for each in _TABLE["languages"].values():
        for scope, words in each["whole"].items():
            found.setdefault(scope, set()).update(_words(words))
    return {scope: frozenset(words) for scope, words in found.items()}


WHOLE: Final = _whole()
"""By the category or the name of a slot, the words that mean whatever it holds: who lost their job lost the role and
the employer."""


def relation_of(called: str) -> Relation | None:
    """What the last word of what somebody is called says of them: that of "older sister"."""
    return relation(normal(called).rpartition(" ")[2])


def relation(word: str, slot: str = "") -> Relation | None:
    """What `word` (as values are compared) says of somebody, in `slot` before any other; None where it says nothing."""
    if (found := _RELATIONS.get(slot, {}).get(word)) is not None or slot:
        return found
    return next((words[word] for words in _RELATIONS.values() if word in words), None)

"""The canonical slot and value of what was found, whichever extractor found it and whatever it was called.

Names are compared, never meanings: two slots are one where the table `keys.toml` says so. What looks alike ("tea over
coffee", "coffee over tea") can be the opposite.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from twin_sio.agent.traits import normal

KEY: Final = re.compile(r"[a-z][a-z0-9_]{0,31}\.[a-z][a-z0-9_]{0,63}")
_SLUG: Final = 28  # characters of one side of a comparison: two and `_vs_` fit into a key
_AS_THEY_ARE: Final = ("identity.", "location.", "work.employer")
"""Slots of names: "The Hague" and "Los Angeles" keep their articles."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where something belongs and what it is called there."""

    key: str
    value: str


def table(name: str) -> dict[str, Any]:
    """A data file of this package."""
    return tomllib.loads(files("twin_sio.agent.extraction").joinpath(name).read_text("utf-8"))


def _by_alias(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {alias: canonical for canonical, aliases in names.items() for alias in aliases}


_TABLE: Final = table("keys.toml")
_CATEGORIES: Final = _by_alias(_TABLE["categories"])
_KEYS: Final = _by_alias(_TABLE["keys"])
_BY_NAME: Final = {alias.partition(".")[2]: alias for alias in (*_KEYS, *_TABLE["keys"])}
"""A key without a category, as models give it at times."""
_VALUES: Final = _by_alias(_TABLE["values"])
_ARTICLES: Final = frozenset(_TABLE["around"]["articles"])
_ELIDED: Final = tuple(_TABLE["around"]["elided"])
_FILLERS: Final = tuple(sorted((tuple(one.split()) for one in _TABLE["around"]["fillers"]), key=len, reverse=True))
_EDGES: Final = " \t.,;:!?\"'“”„«»()[]…"


def canonical(key: str, value: str) -> Slot | None:
    """The slot that `key` and `value` name; None where the key is none or nothing is left of the value.

    A comparison under any name (`x_vs_y`, `y_over_x`) is the one slot of the two.
    """
    key = key.strip().lower()
    if "." not in key:
        key = _BY_NAME.get(key, f"life.{key}")
    if not KEY.fullmatch(key):
        return None
    category, name = key.split(".")
    if category.startswith("preference") and (sides := re.fullmatch(r"(\w+?)_(?:vs|over|versus|than|to)_(\w+)", name)):
        return _compared_by_key(tidy(value), *sides.groups())
    if category in ("dislike", "dislikes"):
        key = "interests.dislikes"
    else:
        key = f"{_CATEGORIES.get(category, category)}.{name}"
        key = _KEYS.get(key, key)
    value = _bare(value) if key.startswith(_AS_THEY_ARE) else tidy(value)
    return Slot(key, value) if value else None


def comparison(preferred: str, other: str) -> Slot | None:
    """The slot of two things compared, with the preferred one as its value; None where they are one thing.

    Its name is the same whichever is preferred: `preferences.javascript_vs_typescript`.
    """
    value = tidy(preferred)
    one, two = sorted((_slug(value), _slug(tidy(other))))
    return None if one == two or "" in (one, two) else Slot(f"preferences.{one}_vs_{two}", value)


def _compared_by_key(value: str, one: str, two: str) -> Slot | None:
    sides = {_slug(tidy(side.replace("_", " "))) for side in (one, two)}
    if _slug(value) not in sides or len(sides) != 2:
        return None
    return comparison(value, (sides - {_slug(value)}).pop())


def tidy(value: str) -> str:
    """`value` without what does not belong to it: quotes, articles, trailing fillers; the usual name of a short one."""
    value = _bare(value)
    if value.casefold().startswith(_ELIDED):
        value = value[len(_ELIDED[0]) :]
    words = value.split()
    while len(words) > 1 and _is_article(words[0], words[1]):
        words = words[1:]
    while ending := next((filler for filler in _FILLERS if _ends_with(words, filler)), None):
        words = words[: -len(ending)]
    value = _bare(" ".join(words))
    return _VALUES.get(normal(value), value)


def _bare(value: str) -> str:
    return " ".join(unicodedata.normalize("NFC", value).split()).strip(_EDGES)


def _is_article(word: str, after: str) -> bool:
    """Whether a word in front of another is an article: in a title or a name ("The Wire") it has a capital as well."""
    return word.casefold() in _ARTICLES and not (word[0].isupper() and after[0].isupper())


def _ends_with(words: Sequence[str], filler: tuple[str, ...]) -> bool:
    return len(words) > len(filler) and tuple(word.casefold() for word in words[-len(filler) :]) == filler


def same_value(one: str, other: str) -> bool:
    """Whether two values are one: also where the one only says more ("coffee", "black coffee")."""
    first, second = normal(tidy(one)).split(), normal(tidy(other)).split()
    short, long = sorted((first, second), key=len)
    return any(long[at : at + len(short)] == short for at in range(len(long) - len(short) + 1))


def _slug(value: str) -> str:
    plain = unicodedata.normalize(
        "NFKD", value.casefold().replace("ß", "ss").replace("+", " plus ").replace("#", " sharp ")
    )
    plain = "".join(each for each in plain if not unicodedata.combining(each))
    slug = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    letters = sum(each.isalnum() for each in plain)
    if letters and (len(slug) > _SLUG or not slug[:1].isalpha() or sum(map(str.isalnum, slug)) < letters):
        return "x" + hashlib.sha256(normal(value).encode()).hexdigest()[:12]
    return slug

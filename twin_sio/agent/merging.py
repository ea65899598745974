"""Which values are one, worded otherwise, and which values an end is about. Pure; of words, not of meanings."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from twin_sio.agent.relations import APART, LINKS, SMALL, WHOLE
from twin_sio.agent.traits import EXISTENCE, OPPOSITE, REPLACED, category, holds_names, is_sensitive, is_taste, merges

LONGEST: Final = 8  # words of a value that is compared by its parts; a longer one is only itself
ENDED_AT_ONCE: Final = 200  # values that one end may close

_WORD: Final = re.compile(r"[^\s,;()/]+")
Words = tuple[str, ...]


class Claim(NamedTuple):
    """How a value came up: when first, whether it was stated, and whether by a change."""

    at: datetime
    is_stated: bool
    is_change: bool


def words(value: str) -> Words:
    """The words of a value as it is compared, without those before it that say nothing ("the", "my")."""
    found = _WORD.findall(value)
    start = 0
    while start < len(found) - 1 and found[start] in SMALL:
        start += 1
    return tuple(found[start:])


def merged(key: str, values: Mapping[str, Claim]) -> dict[str, str]:
    """The values of a slot that are part of another, or the same but for small words, each with the one that it is
    part of in the end. The rest stand for themselves.

    The parts of a noun phrase differ in what they are: what stands at its end is what the whole is ("data engineer"),
    so a value that ends another is part of it; one that begins another only where names are meant ("Volvo V60") or a
    linking word follows ("engineer at heart"). What only repeats the name of its slot ("car", of `possession.car`) is
    part of whatever else stands there. Of several that say more, the first that came up. What was only inferred says
    nothing more of what was stated, and what came up as a change is not what was before it.
    """
    if len(values) < 2 or not merges(key):
        return {}
    nodes: dict[Words, list[str]] = defaultdict(list)
    for value in sorted(values, key=lambda one: (values[one], one)):
        nodes[words(value)].append(value)
    claims = {node: _together([values[value] for value in held]) for node, held in nodes.items()}
    parents: dict[Words, Words] = {}
    names, slot_word = holds_names(key), _slot_word(key)
    for whole in nodes:
        for part in (*_parts(whole, names=names), slot_word):
            if part != whole and part in nodes and _may_join(claims[part], claims[whole]):
                known = parents.get(part)
                if known is None or (claims[whole], whole) < (claims[known], known):
                    parents[part] = whole
    found: dict[str, str] = {}
    for node, held in nodes.items():
        root = node
        while root in parents:
            root = parents[root]
        name = nodes[root][0]
        found.update({value: name for value in held if value != name})
    return found


def _slot_word(key: str) -> Words:
    return tuple(key.partition(".")[2].split("_"))


def _together(claims: Sequence[Claim]) -> Claim:
    first = min(claims)
    return Claim(first.at, any(one.is_stated for one in claims), first.is_change)


def _may_join(part: Claim, whole: Claim) -> bool:
    later = max(part, whole, key=lambda one: one.at)
    return not (part.is_stated and not whole.is_stated) and not later.is_change


def _parts(whole: Words, *, names: bool) -> Iterable[Words]:
    if len(whole) > LONGEST:
        return
    for at in range(1, len(whole)):
        if whole[at - 1] not in APART:
            yield whole[at:]
        if names or whole[at] in LINKS:
            yield whole[:at]


# -- ends


class Open(NamedTuple):
    """A value that an end may close: its slot, whose it is, its name there, and since when it is known."""

    key: str
    who: str
    name: str
    since: datetime


class Ends:
    """Finds what an end is about among `values`, also under a neighbouring slot (`possession.car`, `possessions.car`;
    `family.partner`, `relationship.partner`). Takes the time that the values take, whatever the ends."""

    def __init__(self, values: Iterable[Open], ends: Iterable[tuple[str, str]]) -> None:
        """`ends`: the slots and the names that will be asked for."""
        asked = {scope for key, name in ends for scope in (*_scopes(key), _slot_called(name))}
        self._alike: dict[tuple[str, str, Words], list[Open]] = defaultdict(list)
        self._within: dict[tuple[str, str, Words], list[Open]] = defaultdict(list)
        self._all: dict[tuple[str, str], list[Open]] = defaultdict(list)
        for value in values:
            own = words(value.name)
            for scope in asked.intersection(_scopes(value.key)):
                self._all[value.who, scope].append(value)
                self._alike[value.who, scope, own].append(value)
                for part in _within(value.key, own):
                    self._within[value.who, scope, part].append(value)

    def of(self, key: str, who: str, name: str, at: datetime) -> list[Open]:
        """What was known before `at` and is meant by the end of `name`; nothing where it is about none of it. The word
        for whatever a slot holds ("job"; "car" in `possession.car`) means all of it."""
        own = words(name)
        found: dict[Open, None] = {}
        for scope in _scopes(key):
            lists = [self._alike.get((who, scope, own), []), self._within.get((who, scope, own), [])]
            lists += [self._alike.get((who, scope, part), []) for part in _within(key, own) if not is_taste(key)]
            if len(own) == 1 and own[0] in WHOLE.get(scope, ()):
                lists.append([one for one in self._all.get((who, scope), ()) if one.key in REPLACED | EXISTENCE])
            for values in lists:
                found.update(dict.fromkeys(values[:ENDED_AT_ONCE]))
        alike = self._all.get((who, _slot_called(name)), [])
        found.update(dict.fromkeys(one for one in alike if category(one.key) == category(key)))
        other = OPPOSITE.get(key)
        return [one for one in found if one.since < at and one.key != other][:ENDED_AT_ONCE]


def _slot_called(name: str) -> str:
    """The scope of the slots that are called as a value is: `.car` of "my car"."""
    return "." + "_".join(words(name))


def _scopes(key: str) -> tuple[str, ...]:
    """Where a slot's neighbours are: those of its category, and those of its name."""
    return category(key), "." + key.partition(".")[2]


def _within(key: str, own: Words) -> Iterable[Words]:
    """The parts of a value by which it can be ended: of a taste what it is in the end, of an allergy none."""
    if is_sensitive(key) or len(own) > LONGEST:
        return
    for start in range(len(own)):
        for end in range(len(own), start, -1) if not is_taste(key) else (len(own),):
            if end - start < len(own):
                yield own[start:end]

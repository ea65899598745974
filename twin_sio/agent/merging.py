"""What the words of a value say: which are part of it, and which values an end is about. Pure; of words, not of
meanings."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from twin_sio.agent.relations import APART, LEGAL_FORMS, LINKS, SMALL, WHOLE
from twin_sio.agent.traits import (
    EXISTENCE,
    OPPOSITE,
    REPLACED,
    category,
    holds_names,
    holds_one_thing,
    is_sensitive,
    is_taste,
)

LONGEST: Final = 8  # words of a value that is compared by its parts; a longer one is only itself
ENDED_AT_ONCE: Final = 200  # values that one end may close

_WORD: Final = re.compile(r"[^\s,;()/]+")
Words = tuple[str, ...]


def words(value: str) -> Words:
    """The words of a value as it is compared, without those before it that say nothing ("the", "my")."""
    found = _WORD.findall(value)
    start = 0
    while start < len(found) - 1 and found[start] in SMALL:
        start += 1
    return tuple(found[start:])


def parts(whole: Words, *, names: bool) -> Iterable[Words]:
    """The words with which a value may be meant that says more; `names`: it is a name. A number begins what only says
    more, too ("iPhone 15")."""
    if len(whole) > LONGEST:
        return
    for at in range(1, len(whole)):
        if whole[at - 1] not in APART:
            yield whole[at:]
        if names or whole[at] in LINKS or any(letter.isdecimal() for letter in whole[at]):
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
            own = _without_legal_form(value.name)
            for scope in asked.intersection(_scopes(value.key)):
                self._all[value.who, scope].append(value)
                self._alike[value.who, scope, own].append(value)
                for part in _within(value.key, own):
                    self._within[value.who, scope, part].append(value)

    def of(self, key: str, who: str, name: str, at: datetime) -> list[Open]:
        """What was known before `at` and is meant by the end of `name`; nothing where it is about none of it. The word
        for whatever a slot holds ("job"; "car" in `possession.car`) means all of it."""
        own = _without_legal_form(name)
        found: dict[Open, None] = {}
        for scope in _scopes(key):
            lists = [self._alike.get((who, scope, own), []), self._within.get((who, scope, own), [])]
            # Who left Siemens Energy may be at Siemens; who sold the red Volvo had one, where no other is known.
            if holds_one_thing(key) and not lists[0]:
                wider = (self._alike.get((who, scope, part), []) for part in _within(key, own))
                lists += [[one for one in values if holds_one_thing(one.key)] for values in wider]
            if len(own) == 1 and own[0] in WHOLE.get(scope, ()):
                lists.append([one for one in self._all.get((who, scope), ()) if one.key in REPLACED | EXISTENCE])
            for values in lists:
                found.update(dict.fromkeys(values[:ENDED_AT_ONCE]))
        alike = self._all.get((who, _slot_called(name)), [])
        found.update(dict.fromkeys(one for one in alike if category(one.key) == category(key)))
        other = OPPOSITE.get(key)
        return [one for one in found if one.since < at and one.key != other][:ENDED_AT_ONCE]


def _without_legal_form(name: str) -> Words:
    """The words of a value as people speak of it: without the legal form of a company."""
    found = words(name)
    while len(found) > 1 and found[-1].rstrip(".") in LEGAL_FORMS:
        found = found[:-1]
    return found


def _slot_called(name: str) -> str:
    """The scope of the slots that are called as a value is: `.car` of "my car"."""
    return "." + "_".join(words(name))


def _scopes(key: str) -> tuple[str, ...]:
    """Where a slot's neighbours are: those of its category, and those of its name."""
    return category(key), "." + key.partition(".")[2]


def _within(key: str, own: Words) -> set[Words]:
    """The parts of a value by which it can be ended, those by which it can be meant: of a taste what it is in the end,
    of an allergy none."""
    if is_sensitive(key):
        return set()
    found: set[Words] = set()
    left = [own]
    while left:
        whole = left.pop()
        for part in parts(whole, names=holds_names(key)):
            if part not in found and (not is_taste(key) or part == own[-len(part) :]):
                found.add(part)
                left.append(part)
    return found

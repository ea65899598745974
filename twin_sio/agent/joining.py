"""Which value each piece of a slot is about, worded otherwise as it may be. Pure; of words, not of meanings."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from twin_sio.agent.merging import Words, parts, words
from twin_sio.agent.traits import REPLACED, holds_names, is_functional, merges


class Said(NamedTuple):
    """One piece, as it names a value of a slot.

    `supports`: it speaks for the value; `is_stated`: and guesses nothing; `opens`: it says that the value holds now;
    `is_change`: that it has become so; `closes`: that it holds no more.
    """

    name: str
    at: datetime
    supports: bool
    is_stated: bool
    opens: bool
    is_change: bool = False
    closes: bool = False


def merged(key: str, said: Sequence[Said], ends: Mapping[str, Sequence[datetime]]) -> list[str]:
    """Of each piece the name of the value that it is about: its own, or that of one that says more, or the same but
    for small words. The pieces come in the order of time; so do the `ends`, by name: when else a value was closed.

    The parts of a noun phrase differ in what they are: what stands at its end is what the whole is ("data engineer"),
    so a value that ends another is part of it; one that begins another only where names are meant ("Volvo V60"), or a
    number ("iPhone 15") or a linking word follows ("engineer at heart"). What only repeats the name of its slot ("car",
    of `possession.car`) is part of whatever else stands there.

    A part means the whole that holds when it is said, of several the one that was stated last; before there is any, the
    first that comes up. Where all of them have ended, or others took their place, it is a value of its own. What was
    only inferred says nothing more of what was stated and opens nothing again, and what came up as a change is not what
    was before it.
    """
    if not merges(key) or len({one.name for one in said}) < 2:
        return [one.name for one in said]
    return _Slot(key, said, ends).names()


@dataclass(slots=True, eq=False)
class _Whole:
    """A value as it is known so far: when it was said to hold last, and denied. `into`: the wider one that it is."""

    name: str
    node: Words
    last: datetime
    denied: datetime | None = None
    into: _Whole | None = None

    def root(self) -> _Whole:
        one = self
        while one.into is not None:
            one = one.into
        return one


class _Slot:
    """The values of one slot while its pieces are read, one after the other."""

    def __init__(self, key: str, said: Sequence[Said], ends: Mapping[str, Sequence[datetime]]) -> None:
        self._said, self._ends = said, ends
        self._holds_names, self._slot_word = holds_names(key), tuple(key.partition(".")[2].split("_"))
        self._is_functional, self._is_replaced = is_functional(key), key in REPLACED
        own = {name: words(name) for name in {one.name for one in said}}
        self._nodes = [own[one.name] for one in said]
        self._known = {own[one.name] for one in said if one.supports or one.closes}
        self._stated = {own[one.name] for one in said if one.supports and one.is_stated}
        self._seen: set[Words] = set()
        # By words, the value that they are by themselves, as long as it is no part of another.
        self._own: dict[Words, _Whole] = {}
        # By words, what they may mean, the last stated last; and of it the last, though it be closed.
        self._meant: dict[Words, list[_Whole]] = defaultdict(list)
        self._latest: dict[Words, _Whole] = {}
        # What took the place of all else last, and the last before it that is another: with the instants.
        self._displacing: list[tuple[_Whole, datetime]] = []

    def names(self) -> list[str]:
        # What is said in one breath with a whole is said of it.
        order = sorted(range(len(self._said)), key=lambda at: (self._said[at].at, -len(self._nodes[at])))
        found = {at: whole for at in order if (whole := self._read(self._said[at], self._nodes[at])) is not None}
        first: dict[Words, _Whole] = {}
        for at in order:
            if at in found:
                first.setdefault(self._nodes[at], found[at])
        # What speaks against a value may come before all that speaks for it.
        wholes = (found.get(at) or first.get(node) for at, node in enumerate(self._nodes))
        return [whole.root().name if whole else one.name for one, whole in zip(self._said, wholes, strict=True)]

    def _read(self, one: Said, node: Words) -> _Whole | None:
        is_apart = one.is_change and node not in self._seen
        meant = None if is_apart else self._open(node, one.at)
        if meant is None and not one.opens and (latest := self._latest.get(node)) is not None:
            meant = latest.root()
        if one.supports:
            self._seen.add(node)
            meant = meant or self._begun(one, node)
            if one.opens:
                self._state(meant, one)
        if one.closes and meant is not None and (meant.last < one.at or one.supports):
            meant.denied = one.at
        return meant

    def _begun(self, one: Said, node: Words) -> _Whole:
        """The words by themselves, from now on or again, and with them their parts that stood for themselves."""
        known = self._own.get(node)
        whole = self._own[node] = known or _Whole(one.name, node, one.at)
        for part in self._parts(node) if not one.is_change else ():
            narrow = self._own.get(part)
            if narrow is not None and self._may_join(part, node) and (known is None or self._is_open(narrow, one.at)):
                narrow.into = whole
                del self._own[part]
        if known is None:
            self._offer(whole)
        return whole

    def _state(self, whole: _Whole, one: Said) -> None:
        whole.last = one.at
        self._offer(whole)
        if self._is_functional or (self._is_replaced and one.is_change):
            others = [each for each in self._displacing if each[0].root() is not whole]
            self._displacing = [*others[-1:], (whole, one.at)]

    def _offer(self, whole: _Whole) -> None:
        """Whoever says a part from now on means this one."""
        for part in (whole.node, *self._parts(whole.node)):
            if part in self._known and (part == whole.node or self._may_join(part, whole.node)):
                self._latest[part] = whole
                if not self._meant[part] or self._meant[part][-1] is not whole:
                    self._meant[part].append(whole)

    def _open(self, node: Words, at: datetime) -> _Whole | None:
        """What the words mean of what holds at an instant."""
        meant = self._meant[node]
        # Once closed it is closed until it is stated again, and then it is offered again.
        while meant and not self._is_open(meant[-1].root(), at):
            meant.pop()
        return meant[-1].root() if meant else None

    def _is_open(self, whole: _Whole, at: datetime) -> bool:
        ends = self._ends.get(whole.name, ())
        nth = bisect_right(ends, at)
        if (nth > 0 and ends[nth - 1] >= whole.last) or (whole.denied is not None and whole.denied >= whole.last):
            return False
        return not any(when > whole.last for other, when in self._displacing if other.root() is not whole)

    def _parts(self, node: Words) -> Iterable[Words]:
        yield from parts(node, names=self._holds_names)
        if node != self._slot_word:
            yield self._slot_word

    def _may_join(self, part: Words, whole: Words) -> bool:
        return part not in self._stated or whole in self._stated

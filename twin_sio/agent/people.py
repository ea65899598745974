"""Who is meant: the people and animals of a user's life, each once, however they are called. Pure.

Whoever has a name is known by it. A relation without a name ("my daughter") is whoever of that sort was named last,
else whoever is named next; where nobody is named it is somebody unnamed. One of the many that people have of a sort
("a friend", "a colleague") is whoever was named within the hour, or is named next for the first time. Of two ("older
sister", "second dog") each is somebody. Several at once ("two kids") are one count.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from twin_sio.agent.contributions import denies, supports
from twin_sio.agent.joining import Said, merged
from twin_sio.agent.leaving import ends_all, partings
from twin_sio.agent.mentions import Mention, mention
from twin_sio.agent.relations import ANOTHER, EX, GENERAL, PAIR
from twin_sio.agent.traits import ENDED, EXISTENCE, OF, PARTNER, normal
from twin_sio.domain import Entity, Evidence

_LEAVING: Final = frozenset({ENDED, "rejected"})
_MANY_PEOPLE: Final = frozenset({"people.friends", "people.colleagues"})
"""Slots of which people have many, of whom one without a name may be any, unless they are more than the slot says ("my
boss", "my best friend")."""
_IN_MIND: Final = timedelta(hours=1)  # after somebody was named one of many without a name may be they
_ENDS: Final = 16  # of several at once that count, the newest


class Someone(NamedTuple):
    """Whom a piece is about: their slot, and what tells them from the others in it."""

    slot: str
    cluster: str


@dataclass(slots=True)
class _Slot:
    """Who of one slot is there, as it is told in the order of time: by what they are, the last named last."""

    sorts: dict[str, str] = field(default_factory=dict)
    there: dict[str, dict[str, None]] = field(default_factory=lambda: {"*": {}})
    gone: set[str] = field(default_factory=set)
    unnamed: dict[str, str] = field(default_factory=dict)  # by sort, which of it was spoken of last without a name

    def called(self, name: str, sort: str) -> None:
        """What somebody is, from anywhere; which of them says more."""
        if self.sorts.setdefault(name, sort) == _base(sort):
            self.sorts[name] = sort

    def all_sorts(self, name: str) -> tuple[str, ...]:
        own = self.sorts.get(name, "")
        return tuple(dict.fromkeys((own, _base(own), "*")))

    def named(self, name: str, *, is_there: bool) -> None:
        """`is_there`: it is said that they are, which brings them back."""
        if is_there:
            self.gone.discard(name)
        if name not in self.gone:
            for sort in self.all_sorts(name):
                self._put(sort, name)

    def left(self, name: str) -> None:
        """They are there no more, or never were."""
        self.gone.add(name)
        for sort in self.all_sorts(name):
            self.there.get(sort, {}).pop(name, None)

    def left_all(self, sort: str = "") -> None:
        """None of them, or of those of a sort, is there any more."""
        for name in tuple(self.there.get(sort or "*", ())):
            self.left(name)

    def meant(self, sort: str) -> str | None:
        """Who is called only `sort`; whoever was named without being called anything is that from now on."""
        known = next(reversed(self.there.get(sort or "*", {})), None)
        if known is not None or sort.endswith(f"/{ANOTHER}"):
            return known
        if (base := _base(sort)) != sort:
            known = next((one for one in reversed(self.there.get(base, {})) if self.sorts.get(one, "") == base), None)
            if known is not None:
                self.sorts[known] = sort
                self._put(sort, known)
                return known
        if known is None and sort and self.there.get(""):
            known, _ = self.there[""].popitem()
            self.sorts[known] = sort
            self._put(sort, known)
        return known

    def _put(self, sort: str, name: str) -> None:
        names = self.there.setdefault(sort, {})
        names.pop(name, None)
        names[name] = None


class Resolved(NamedTuple):
    """Whom each piece is about (None: the user), and who they are; and by the place of a piece that ends several at
    once, whom it ends."""

    people: list[Someone | None]
    entities: dict[Someone, Entity]
    left: dict[int, list[Someone]]


def _base(sort: str) -> str:
    """What somebody is, whichever of them."""
    return sort.partition("/")[0]


def _told_apart(mentions: Sequence[Mention | None]) -> list[Mention | None]:
    """The mentions, each with the sort that tells whom it means from others: an older sister is the sister, unless
    there is a younger one, too."""
    used: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in mentions:
        if one is not None:
            used[one.slot, one.sort].add(one.which)
    return [
        one
        if one is None or (one.which in PAIR and not used[one.slot, one.sort] >= PAIR)
        else one._replace(sort=one.full_sort)
        for one in mentions
    ]


def resolved(pieces: Sequence[Evidence]) -> Resolved:
    """Who is meant by the pieces, which come in the order of time."""
    mentions = [mention(piece) if piece.entity is not None or piece.key in EXISTENCE else None for piece in pieces]
    # As a rule nobody but the user is spoken of.
    if not any(mentions):
        return Resolved([None] * len(pieces), {}, {})
    mentions = _told_apart(mentions)
    named = _named(pieces, mentions)
    found: list[Someone | None] = [None] * len(pieces)
    slots: dict[str, _Slot] = {}
    for one, someone in zip(mentions, named, strict=True):  # what the named are is known from anywhere
        if one is not None and someone is not None and one.sort and one.sort != EX:
            slots.setdefault(someone.slot, _Slot()).called(someone.cluster, one.sort)
    # By slot and name, when somebody was named last.
    named_at: dict[tuple[str, str], datetime] = {}
    # Places of pieces about somebody who has no name yet: who they are may be said later.
    unnamed: set[int] = set()
    apart = partings(pieces)
    for at, one in enumerate(mentions):
        if at in apart and PARTNER in slots:
            slots[PARTNER].left_all()
        if one is None:
            continue
        piece, slot = pieces[at], slots.setdefault(_slot(one), _Slot())
        if one.is_many:
            found[at] = _many(one)
            if ends_all(piece):
                slot.left_all(one.sort)
            continue
        if (someone := named[at]) is not None:
            found[at] = someone
            slot = slots.setdefault(someone.slot, _Slot())
            slot.named(someone.cluster, is_there=piece.key in EXISTENCE and piece.polarity > 0)
            named_at[someone.slot, someone.cluster] = piece.observed_at
        elif one.sort == EX and piece.kind != ENDED:  # "my ex" is not whoever it is now
            unnamed.add(at)
            continue
        else:
            known = slot.meant("" if one.sort == EX else one.sort)
            if (
                known is not None
                and _is_one_of_many(one)
                and piece.observed_at - named_at[_slot(one), known] > _IN_MIND
            ):
                known = None
            if known is None:
                unnamed.add(at)
                if one.sort == (base := _base(one.sort)):
                    mentions[at] = one._replace(sort=slot.unnamed.get(base, base))
                else:
                    slot.unnamed[base] = one.sort
                continue
            found[at] = someone = Someone(_slot(one), known)
        if _leaves(piece, one):
            slot.left(someone.cluster)
    _look_ahead(pieces, mentions, found, unnamed, slots, apart)
    return Resolved(found, _entities(mentions, found), _left(pieces, mentions, found, slots))


def _left(
    pieces: Sequence[Evidence],
    mentions: Sequence[Mention | None],
    found: Sequence[Someone | None],
    slots: Mapping[str, _Slot],
) -> dict[int, list[Someone]]:
    """Whom the ends of several are about: all of the sort who were there before, unless they are more than that."""
    ends = [at for at, one in enumerate(mentions) if one is not None and one.is_many and ends_all(pieces[at])]
    there: dict[str, dict[Someone, int]] = defaultdict(dict)
    for at, someone in enumerate(found) if ends else ():
        if someone is not None and pieces[at].key in EXISTENCE and supports(pieces[at]):
            there[someone.slot].setdefault(someone, at)
    left: dict[int, list[Someone]] = {}
    for at in ends[-_ENDS:]:
        one = mentions[at]
        if one is None:
            continue
        before = [
            each for each, since in there[_slot(one)].items() if pieces[since].observed_at < pieces[at].observed_at
        ]
        of_sort = [each for each in before if not one.sort or _sort(each, slots) == one.sort]
        alone = [each for each in of_sort if not each.cluster.startswith(f"{OF}#")]
        left[at] = of_sort if not one.number or len(alone) <= one.number else []
    return left


def _sort(someone: Someone, slots: Mapping[str, _Slot]) -> str:
    known = slots[someone.slot].sorts.get(someone.cluster) if someone.slot in slots else None
    return _base(known) if known else _base(someone.cluster.lstrip(f"{OF}#") if someone.cluster.startswith(OF) else "")


def _look_ahead(
    pieces: Sequence[Evidence],
    mentions: Sequence[Mention | None],
    found: list[Someone | None],
    unnamed: Collection[int],
    slots: Mapping[str, _Slot],
    apart: Collection[int],
) -> None:
    """Those who had no name yet are whoever of the sort is named next, unless it was over, or denied, before that."""
    # By slot and sort, who is named next, seen from the end: "*" is whoever it is.
    coming: dict[tuple[str, str], str] = {}
    first: dict[str, int] = {}
    for at, (one, someone) in enumerate(zip(mentions, found, strict=True)):
        if one is not None and one.name and someone is not None:
            first.setdefault(OF.join(someone), at)
    for at in range(len(mentions) - 1, -1, -1):
        one, someone, piece = mentions[at], found[at], pieces[at]
        if at in apart:
            coming.pop((PARTNER, ""), None)
            coming.pop((PARTNER, "*"), None)
        if one is None:
            continue
        if one.is_many and ends_all(piece):
            for known_as in [each for each in coming if each[0] == _slot(one) and one.sort in ("", each[1])]:
                del coming[known_as]
        if one.name and someone is not None:
            for called in slots[someone.slot].all_sorts(someone.cluster):
                coming[someone.slot, called] = someone.cluster
        elif at in unnamed:
            slot, sort = _slot(one), one.sort
            asked = [(slot, each) for each in _next_of(sort)]
            known = next((coming[each] for each in asked if each in coming), None)
            is_new = sort.endswith(f"/{ANOTHER}") or _is_one_of_many(one)
            if known is not None and is_new and first[OF.join((slot, known))] < at:
                known = None
            is_over = _leaves(piece, one) or sort == EX
            if is_over and sort != EX:
                for each in asked:
                    coming.pop(each, None)
            own = f"{OF}{sort or GENERAL.get(slot, '')}"
            found[at] = Someone(slot, own if known is None or is_over else known)


def _next_of(sort: str) -> tuple[str, ...]:
    """As what those may be named next who were called `sort`, by what says the most."""
    base, _, which = sort.partition("/")
    if not base:
        return (sort, "*") if sort else ("*",)
    return (sort, "") if which in PAIR else tuple(dict.fromkeys((sort, base, "")))


def _is_one_of_many(one: Mention) -> bool:
    return not one.name and not one.sort and _slot(one) in _MANY_PEOPLE


def _slot(one: Mention) -> str:
    return one.slot or one.kind


def _many(one: Mention) -> Someone:
    return Someone(_slot(one), f"{OF}#{one.sort or GENERAL.get(one.slot, '')}")


def _named(pieces: Sequence[Evidence], mentions: Sequence[Mention | None]) -> list[Someone | None]:
    """Who is meant where a name is said: a shorter one is the longer that it begins or ends and who is there then; one
    that is said without saying what they are is the one of that name in any slot."""
    by_slot: dict[str, list[int]] = {}
    for at, one in enumerate(mentions):
        if one is not None and one.name:
            by_slot.setdefault(_slot(one), []).append(at)
    found: list[Someone | None] = [None] * len(mentions)
    # By name, who was meant by it in the first slot where it was said, and where among the pieces.
    anywhere: dict[str, list[tuple[int, Someone]]] = {}
    for slot in sorted(by_slot, key=lambda slot: (slot not in EXISTENCE, slot)):
        own: dict[str, list[tuple[int, Someone]]] = {}
        said = {at: _said(pieces[at], one) for at in by_slot[slot] if (one := mentions[at]) is not None}
        # "Anna" is "Anna Berg".
        for at, name in zip(said, merged("people.name", list(said.values()), {}), strict=True):
            known = anywhere.get(said[at].name, ()) if slot not in EXISTENCE else ()
            nth = bisect_right(known, at, key=lambda one: one[0])
            found[at] = someone = known[max(nth - 1, 0)][1] if known else Someone(slot, name)
            if slot in EXISTENCE:
                own.setdefault(said[at].name, []).append((at, someone))
        anywhere = own | anywhere
    return found


def _said(piece: Evidence, one: Mention) -> Said:
    is_over = piece.kind in _LEAVING or piece.polarity < 0
    is_there = piece.key in EXISTENCE and not is_over and one.sort != EX
    return Said(normal(one.name), piece.observed_at, not is_over, True, is_there, closes=_leaves(piece, one))


def _leaves(piece: Evidence, one: Mention) -> bool:
    """Whether a piece says that whoever it names is there no more, or is not."""
    return piece.key in EXISTENCE and (piece.kind in _LEAVING or denies(piece) or one.sort == EX)


def _entities(mentions: Sequence[Mention | None], found: Sequence[Someone | None]) -> dict[Someone, Entity]:
    """Who everybody is: the fullest name, what they were called last (by its own word before a general one), the
    newest count."""
    held: dict[Someone, Entity] = {}
    # Those who were called by a word of their own ("sister"): a general one ("family") does not replace it.
    specific: set[Someone] = set()
    for one, someone in zip(mentions, found, strict=True):
        if one is None or someone is None:
            continue
        before = held.get(someone, Entity(one.kind))
        name = one.name if len(one.name) >= len(before.name) else before.name
        called = before.relation
        # A partner is what they are, whatever they were before.
        is_specific = bool(one.sort) or one.slot == PARTNER
        if one.relation and one.sort != EX and (is_specific or someone not in specific):
            called = one.relation
            if is_specific:
                specific.add(someone)
        held[someone] = Entity(before.kind, called or one.relation, name, one.number or before.count)
    return held

"""Who is meant: the people and animals of a user's life, each once, however they are called. Pure.

Whoever has a name is known by it. A relation without a name ("my daughter") is whoever of that sort was named last,
else whoever is named next; where nobody is named it is somebody unnamed. Several at once ("two kids") are one count.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from twin_sio.agent.contributions import denies, supports
from twin_sio.agent.joining import Said, merged
from twin_sio.agent.leaving import PUNCTUATION, ends_all, partings
from twin_sio.agent.relations import AND, EX, GENERAL, LINKS, NAMING, NUMBERS, SMALL, Relation, relation
from twin_sio.agent.traits import ENDED, EXISTENCE, OF, PARTNER, normal
from twin_sio.domain import Entity, Evidence

_LEAVING: Final = frozenset({ENDED, "rejected"})
_ENDS: Final = 16  # of several at once that count, the newest
_NAME_WORDS: Final = 3  # of a name that follows a relation
_POSSESSIVE: Final = re.compile("['\N{RIGHT SINGLE QUOTATION MARK}]s$")


class Someone(NamedTuple):
    """Whom a piece is about: their slot, and what tells them from the others in it."""

    slot: str
    cluster: str


class Mention(NamedTuple):
    """How a piece names somebody. `sort` is what they are as far as it tells them from others in the slot."""

    slot: str
    kind: Literal["person", "pet"]
    relation: str
    sort: str
    name: str
    number: int
    is_many: bool


@dataclass(slots=True)
class _Slot:
    """Who of one slot is there, as it is told in the order of time: by what they are, the last named last."""

    sorts: dict[str, str] = field(default_factory=dict)
    there: dict[str, dict[str, None]] = field(default_factory=lambda: {"*": {}})
    gone: set[str] = field(default_factory=set)

    def named(self, name: str, *, is_there: bool) -> None:
        """`is_there`: it is said that they are, which brings them back."""
        if is_there:
            self.gone.discard(name)
        if name not in self.gone:
            for sort in (self.sorts.get(name, ""), "*"):
                self._put(sort, name)

    def left(self, name: str) -> None:
        """They are there no more, or never were."""
        self.gone.add(name)
        for sort in (self.sorts.get(name, ""), "*"):
            self.there.get(sort, {}).pop(name, None)

    def left_all(self, sort: str = "") -> None:
        """None of them, or of those of a sort, is there any more."""
        for name in tuple(self.there.get(sort or "*", ())):
            self.left(name)

    def meant(self, sort: str) -> str | None:
        """Who is called only `sort`; whoever was named without being called anything is that from now on."""
        known = next(reversed(self.there.get(sort or "*", {})), None)
        if known is None and sort and self.there.get(""):
            known, _ = self.there[""].popitem()
            self.sorts[known] = sort
            self._put(sort, known)
        return known

    def _put(self, sort: str, name: str) -> None:
        names = self.there.setdefault(sort, {})
        names.pop(name, None)
        names[name] = None


def entity_of(key: str, value: str) -> Entity:
    """Who the value of a slot of people or animals is, as far as its words say: "two kids", "my wife Clara", "Mia"."""
    one = _read(key, value)
    return Entity(one.kind, one.relation, one.name, one.number)


def mention(piece: Evidence) -> Mention | None:
    """How a piece names somebody; None where it is about the user alone."""
    entity = piece.entity
    if piece.key in EXISTENCE and (entity is None or not (entity.name or entity.relation or entity.count)):
        return _read(piece.key, piece.value)
    if entity is None or not (entity.name or entity.relation):
        return None
    # As the model put it: the last word of "my younger sister" is what somebody is.
    called = normal(entity.relation)
    slot = piece.key if piece.key in EXISTENCE else ""
    found = relation(called, slot) or relation(called.rpartition(" ")[2], slot)
    sort = called if found is None else "" if found.is_general else found.sort
    is_many = not entity.name and (entity.count > 1 or (found is not None and found.is_many))
    return Mention(
        slot or (found.slot if found else ""),
        entity.kind,
        entity.relation,
        sort if slot != "family.partner" or sort == EX else "",
        entity.name,
        entity.count,
        is_many,
    )


def _read(key: str, value: str) -> Mention:
    """The words of a value one by one: a number, what somebody is, a name; what is none of it stays a phrase."""
    words = [plain for word in value.split() if (plain := word.strip(PUNCTUATION))]
    said = [relation(_bare(word), key) for word in words]
    found = max((one for one in said if one is not None), key=lambda one: not one.is_general, default=None)
    sorts = {one.sort for one in said if one is not None and not one.is_general and one.sort != EX}
    called = next((word for word, one in zip(words, said, strict=True) if one is not None and one == found), "")
    called = _POSSESSIVE.sub("", called)
    name = "" if len(sorts) > 1 else _name_in(key, words, said)
    number = 0 if name or len(sorts) > 1 else _number_in(words, said)
    if len(sorts) > 1 or (found is None and not name and number == 0):  # "a son and a daughter", "golden retriever"
        phrase = " ".join(words[next((at for at, word in enumerate(words) if not _is_small(words, at)), 0) :])
        return Mention(key, _kind(key), phrase, normal(phrase), "", 0, len(sorts) > 1)
    sort = found.sort if found is not None and not found.is_general else ""
    if found is None and name:
        called = _kind_before_name(key, words)
        sort = normal(called)
    is_many = not name and (number > 1 or (found is not None and found.is_many))
    is_partner = key == "family.partner" and sort != EX
    return Mention(key, _kind(key), called, "" if is_partner else sort, name, number, is_many)


def _kind(key: str) -> Literal["person", "pet"]:
    return "pet" if key == "pets.has" else "person"


def _bare(word: str) -> str:
    return _POSSESSIVE.sub("", normal(word))


def _is_small(words: Sequence[str], at: int) -> bool:
    """Whether a word says nothing; capitalised it may be a name (Mia, which is Italian for my)."""
    low = normal(words[at])
    return low in SMALL and (words[at] == low or (at == 0 and len(words) > 1))


def _number_in(words: Sequence[str], said: Sequence[Relation | None]) -> int:
    """How many there are: a number alone, before the word for several, or right before the word for one."""
    for at, word in enumerate(words):
        low = normal(word)
        if low not in NUMBERS and not (low.isdecimal() and len(low) < 4):
            continue
        after = next((one for one in said[at + 1 :] if one is not None), None)
        is_next = after is not None and said[at + 1] is not None
        if len(words) == 1 or (after is not None and (after.is_many or is_next)):
            count = NUMBERS.get(low) or int(low)
            return count if count > 1 else 0
    return 0


def _name_in(key: str, words: Sequence[str], said: Sequence[Relation | None]) -> str:
    """What follows a naming word or the word for what somebody is, stands before that with a capital, or is alone."""
    after_naming = next((at + 1 for at, word in enumerate(words) if normal(word) in NAMING), None)
    related = [at for at, one in enumerate(said) if one is not None]
    if after_naming is not None:
        return _as_name(words[after_naming:], is_sure=True)
    if not related:
        own = [word for at, word in enumerate(words) if not _is_small(words, at) and not word.isdecimal()]
        return _as_name(own, is_sure=_kind(key) == "person" and len(own) == len(words) == 1)
    after = [words[at] for at in range(related[-1] + 1, len(words)) if not _is_small(words, at)]
    before = [words[at] for at in range(related[0]) if not _is_small(words, at)]
    return _as_name(after, is_sure=len(after) == 1) or _as_name(before, is_sure=False)


def _as_name(words: Sequence[str], *, is_sure: bool) -> str:
    """The words as a name up to the first that links them to others; without capitals only where it is sure."""
    upto = next((at for at, word in enumerate(words) if normal(word) in LINKS), len(words))
    if upto < len(words) and normal(words[upto]) in AND:
        return ""  # several
    name = words[:upto]
    is_name = 0 < len(name) <= _NAME_WORDS and not any(letter.isdecimal() for word in name for letter in word)
    return " ".join(name) if is_name and (is_sure or all(word[:1].isupper() for word in name)) else ""


def _kind_before_name(key: str, words: Sequence[str]) -> str:
    """What somebody is in words of the user's own: "golden retriever", of one that is named so and so."""
    at = next((at for at, word in enumerate(words) if normal(word) in NAMING), 0)
    return " ".join(words[nth] for nth in range(at) if not _is_small(words, nth)) if key == "pets.has" else ""


def is_ex(entity: Entity | None) -> bool:
    """Whether somebody is called what they were: what is told of an ex is told of them as such."""
    found = relation(normal(entity.relation)) if entity is not None else None
    return found is not None and found.sort == EX


def is_former(one: Mention) -> bool:
    """Whether the words themselves say that it is over: an ex."""
    return one.sort == EX


class Resolved(NamedTuple):
    """Whom each piece is about (None: the user), and who they are; and by the place of a piece that ends several at
    once, whom it ends."""

    people: list[Someone | None]
    entities: dict[Someone, Entity]
    left: dict[int, list[Someone]]


def resolved(pieces: Sequence[Evidence]) -> Resolved:
    """Who is meant by the pieces, which come in the order of time."""
    mentions = [mention(piece) if piece.entity is not None or piece.key in EXISTENCE else None for piece in pieces]
    # As a rule nobody but the user is spoken of.
    if not any(mentions):
        return Resolved([None] * len(pieces), {}, {})
    named = _named(pieces, mentions)
    found: list[Someone | None] = [None] * len(pieces)
    slots: dict[str, _Slot] = {}
    for one, someone in zip(mentions, named, strict=True):  # what the named are is known from anywhere
        if one is not None and someone is not None and one.sort and one.sort != EX:
            slots.setdefault(someone.slot, _Slot()).sorts.setdefault(someone.cluster, one.sort)
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
        elif one.sort == EX and piece.kind != ENDED:  # "my ex" is not whoever it is now
            unnamed.add(at)
            continue
        else:
            known = slot.meant("" if one.sort == EX else one.sort)
            if known is None:
                unnamed.add(at)
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
    return known or (someone.cluster.lstrip(f"{OF}#") if someone.cluster.startswith(OF) else "")


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
            coming[someone.slot, slots[someone.slot].sorts.get(someone.cluster, "")] = someone.cluster
            coming[someone.slot, "*"] = someone.cluster
        elif at in unnamed:
            slot, sort = _slot(one), one.sort
            asked = [(slot, sort), (slot, "")] if sort else [(slot, "*")]
            known = next((coming[each] for each in asked if each in coming), None)
            is_over = piece.kind in _LEAVING or piece.polarity < 0 or sort == EX
            if is_over and sort != EX:
                for each in asked:
                    coming.pop(each, None)
            own = f"{OF}{sort or GENERAL.get(slot, '')}"
            found[at] = Someone(slot, own if known is None or is_over else known)


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
        if one.relation and one.sort != EX and (one.sort or someone not in specific):
            called = one.relation
            if one.sort:
                specific.add(someone)
        held[someone] = Entity(before.kind, called or one.relation, name, one.number or before.count)
    return held

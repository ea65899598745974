"""Who is meant: the people and animals of a user's life, each once, however they are called. Pure.

Whoever has a name is known by it. A relation without a name ("my daughter") is whoever of that sort was named last,
else whoever is named next; where nobody is named it is somebody unnamed. Several at once ("two kids") are one count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from twin_sio.agent.merging import Told, merged
from twin_sio.agent.relations import EX, GENERAL, NUMBERS, SMALL, relation
from twin_sio.agent.traits import EXISTENCE, OF, normal
from twin_sio.domain import Entity, Evidence

_NAME_WORDS: Final = 3  # of a name that follows a relation
_PUNCTUATION: Final = ' \t.,;:!?()[]"“”„«»'


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
    """Who of one slot was named, in the order of time; `latest` is by what they are."""

    sorts: dict[str, str] = field(default_factory=dict)
    latest: dict[str, str] = field(default_factory=dict)

    def named(self, name: str) -> None:
        self.latest[self.sorts.get(name, "")] = name
        self.latest["*"] = name

    def meant(self, sort: str) -> str | None:
        """Who is called only `sort`; whoever was named without being called anything is that from now on."""
        if not sort:
            return self.latest.get("*")
        if sort in self.latest:
            return self.latest[sort]
        name = self.latest.pop("", None)
        if name is not None:
            self.sorts[name] = self.latest_sort(name, sort)
        return name

    def latest_sort(self, name: str, sort: str) -> str:
        self.latest[sort] = name
        return sort


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
    """The words of a value one by one: small ones, a number, what somebody is, and what is left of it as a name."""
    kind: Literal["person", "pet"] = "pet" if key == "pets.has" else "person"
    called, count, found = "", 0, None
    before: list[str] = []
    after: list[str] = []
    words = [plain for word in value.split() if (plain := word.strip(_PUNCTUATION))]
    for at, plain in enumerate(words):
        low = normal(plain)
        said = relation(low, key)
        if low in NUMBERS or (low.isdecimal() and len(low) < 4):
            count = NUMBERS.get(low) or int(low)
        elif said is not None:
            if found is None or found.is_general or not said.is_general:
                called, found = plain, said
            after.clear()
        elif low not in SMALL or (plain != low and (at > 0 or len(words) == 1)):  # Mia is a name, and Italian for my
            (before if found is None else after).append(plain)
    rest = after if after and len(after) <= _NAME_WORDS else before
    is_name = bool(rest) and (rest is after or rest[0][:1].isupper() or (found is None and kind == "person"))
    name = " ".join(rest) if is_name else ""
    if not name and found is None:
        called = " ".join(rest)
    sort = normal(called) if found is None else "" if found.is_general else found.sort
    is_many = not name and (count > 1 or (found is not None and found.is_many))
    if key == "family.partner" and sort != EX:
        sort = ""
    return Mention(key, kind, called, sort, name, count, is_many)


def is_former(one: Mention) -> bool:
    """Whether the words themselves say that it is over: an ex."""
    return one.sort == EX


def resolved(pieces: Sequence[Evidence]) -> tuple[list[Someone | None], dict[Someone, Entity]]:
    """Whom each piece is about (None: the user), and who they are. The pieces come in the order of time."""
    mentions = [mention(piece) if piece.entity is not None or piece.key in EXISTENCE else None for piece in pieces]
    if not any(mentions):
        return [None] * len(pieces), {}
    names = _names(pieces, mentions)
    found: list[Someone | None] = [None] * len(pieces)
    slots: dict[str, _Slot] = {}
    for one in mentions:  # what the named are is known from anywhere
        if one is not None and one.name:
            someone = _by_name(one, names)
            if one.sort and one.sort != EX:
                slots.setdefault(someone.slot, _Slot()).sorts.setdefault(someone.cluster, one.sort)
    unnamed: list[int] = []
    for at, one in enumerate(mentions):
        if one is None:
            continue
        if one.name:
            found[at] = someone = _by_name(one, names)
            slots.setdefault(someone.slot, _Slot()).named(someone.cluster)
        elif one.is_many:
            found[at] = _many(one)
        else:
            known = slots.setdefault(_slot(one), _Slot()).meant("" if one.sort == EX else one.sort)
            if known is not None:
                found[at] = Someone(_slot(one), known)
            else:
                unnamed.append(at)
    _look_ahead(pieces, mentions, found, unnamed, slots)
    return found, _entities(mentions, found)


def _look_ahead(
    pieces: Sequence[Evidence],
    mentions: Sequence[Mention | None],
    found: list[Someone | None],
    unnamed: Sequence[int],
    slots: dict[str, _Slot],
) -> None:
    """Those who had no name yet are whoever of the sort is named next; what denies them is of nobody named later."""
    coming: dict[tuple[str, str], str] = {}
    waiting = set(unnamed)
    for at in range(len(mentions) - 1, -1, -1):
        one, someone = mentions[at], found[at]
        if one is None:
            continue
        if one.name and someone is not None:
            coming[someone.slot, slots[someone.slot].sorts.get(someone.cluster, "")] = someone.cluster
            coming[someone.slot, "*"] = someone.cluster
        elif at in waiting:
            slot, sort = _slot(one), one.sort
            piece = pieces[at]
            affirms = piece.polarity > 0 and piece.kind not in ("rejected", "ended") and sort != EX
            known = (coming.get((slot, sort)) or coming.get((slot, ""))) if sort else coming.get((slot, "*"))
            found[at] = Someone(
                slot, known if affirms and known is not None else f"{OF}{sort or GENERAL.get(slot, '')}"
            )


def _slot(one: Mention) -> str:
    return one.slot or one.kind


def _many(one: Mention) -> Someone:
    return Someone(_slot(one), f"{OF}#{one.sort or GENERAL.get(one.slot, '')}")


def _by_name(one: Mention, names: dict[tuple[str, str], Someone]) -> Someone:
    return names[_slot(one), normal(one.name)]


def _names(pieces: Sequence[Evidence], mentions: Sequence[Mention | None]) -> dict[tuple[str, str], Someone]:
    """Who each name is in each slot: a shorter name is the longer one that it begins or ends; one that is mentioned
    without saying what they are is the one of that name in any slot."""
    told: dict[str, dict[str, Told]] = {}
    for piece, one in zip(pieces, mentions, strict=True):
        if one is not None and one.name:
            told.setdefault(_slot(one), {}).setdefault(normal(one.name), Told(piece.observed_at, True, False))
    found: dict[tuple[str, str], Someone] = {}
    anywhere: dict[str, Someone] = {}
    for slot in sorted(told, key=lambda slot: (slot not in EXISTENCE, slot)):
        longer = merged("people.name", told[slot])
        for name in sorted(told[slot]):
            known = anywhere.get(name) if slot not in EXISTENCE else None
            someone = known or Someone(slot, longer.get(name, name))
            found[slot, name] = someone
            if slot in EXISTENCE:
                anywhere.setdefault(name, someone)
    return found


def _entities(mentions: Sequence[Mention | None], found: Sequence[Someone | None]) -> dict[Someone, Entity]:
    """Who everybody is: the fullest name, what they were called last (by its own word before a general one), the
    newest count."""
    held: dict[Someone, Entity] = {}
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

"""Evidence sorted by what it is about: slot by slot, value by value, whoever it is of. Pure, and in n log n."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from twin_sio.agent.contributions import denies, rejected_at, supports
from twin_sio.agent.joining import Said, merged
from twin_sio.agent.leaving import partings
from twin_sio.agent.mentions import mention
from twin_sio.agent.merging import Ends, Open, words
from twin_sio.agent.people import Someone, resolved
from twin_sio.agent.relations import EX
from twin_sio.agent.traits import ENDED, EXISTENCE, EXPLICIT, OF, PARTNER, merges, normal, own_name
from twin_sio.domain import Entity, Evidence

NAMES: Final = 20  # that are kept of one value
_ENDS: Final = 16  # that count of one value's, the newest


class Place(NamedTuple):
    """A slot of the user's, or of somebody in their life."""

    key: str
    who: str = ""


@dataclass(slots=True)
class Value:
    """All that is said of one value of a slot, `name` among its others, in the order of time; `ends`, what says that it
    is over, apart.

    `wordings` are the ways to put it that say the most; None: there is one way only. `entity` is who it is of, or who
    it is; in a slot of people or animals `title` says so. `anchor` is the name that gives it its id, where that is not
    simply the first.
    """

    name: str
    pieces: list[Evidence] = field(default_factory=list)
    ends: list[Evidence] = field(default_factory=list)
    wordings: frozenset[str] | None = None
    entity: Entity | None = None
    title: str = ""
    anchor: str = ""

    @property
    def shown(self) -> str:
        """The value as it reads: as the newest piece puts it that supports it and says the most."""
        if self.title:
            return self.title
        pieces = self.pieces or self.ends
        best = (
            piece.value
            for piece in reversed(pieces)
            if supports(piece) and (self.wordings is None or normal(piece.value) in self.wordings)
        )
        return next(best, pieces[-1].value)

    @property
    def names(self) -> tuple[str, ...]:
        """What the pieces call it (`observed_names`), the one that gives it its id first."""
        if self.entity is None and self.wordings is None:
            return (self.name,) if self.anchor in ("", self.name) else (self.anchor, self.name)
        found = dict.fromkeys(name for piece in self.pieces or self.ends for name in observed_names(piece))
        return tuple({self.anchor: None, **found} if self.anchor else found)[:NAMES]


def observed_names(piece: Evidence) -> tuple[str, ...]:
    """What a piece calls its value, for `trait_id`: all that it can know by itself. Somebody has their name and, as
    they were known before there were names, the whole value."""
    if piece.key not in EXISTENCE:
        return (own_name(piece.value, piece.entity),)
    one = mention(piece)
    names = (normal(one.name),) if one is not None and one.name else ()
    return (*names, normal(piece.value))


def sorted_out(pieces: Sequence[Evidence]) -> dict[Place, dict[str, Value]]:
    """The pieces by slot and value. They come as `known_on` gives them; each stands in one place, but for an end, which
    stands with every value that it closes."""
    people, entities, left = resolved(pieces)
    # By slot, then by the value's name.
    places: dict[Place, dict[str, Value]] = defaultdict(dict)
    # Closed last: what they are about must be known whole, with all its names.
    ends: list[tuple[Place, Evidence]] = []
    for piece, someone in zip(pieces, people, strict=True):
        place, name = Place(piece.key), ""
        if someone is None:
            name = normal(piece.value)
        elif piece.key in EXISTENCE:
            name = someone.cluster
        else:
            place, name = Place(piece.key, _who(someone)), normal(piece.value)
        if piece.kind == ENDED and (someone is None or piece.key not in EXISTENCE):
            ends.append((place, piece))
            continue
        value = places[place].get(name)
        if value is None:
            value = places[place][name] = Value(name, entity=entities.get(someone) if someone is not None else None)
        over = piece.kind == ENDED or (someone is not None and _is_over(piece))
        (value.ends if over else value.pieces).append(piece)
    mergeable = [place for place in places if len(places[place]) > 1 and _is_described(place)]
    closed = _closings(places, ends) if mergeable and ends else {}
    for place in mergeable:
        _merge(place, places[place], closed)
    # As a rule nobody but the user is spoken of: then none of this is looked at.
    for place, values in places.items() if entities else ():
        for value in values.values() if place.key in EXISTENCE else ():
            value.title = _title(value)
    if ends:
        _close(places, ends, {_who(someone): entity for someone, entity in entities.items()})
    if entities:
        for at, gone in left.items():
            for someone in gone:
                _leave(places, someone, pieces[at])
        _part(places, [pieces[at] for at in sorted(partings(pieces))])
        _end_with_them(places, entities)
        _name(places)
    return dict(places)


def _who(someone: Someone) -> str:
    return OF.join(someone)


def _title(value: Value) -> str:
    """The name of who has one; of several their newest number, in the user's words where they gave it in one."""
    entity = value.entity
    if entity is None or entity.name or not entity.count:
        return entity.name if entity is not None else ""
    for piece in reversed(value.pieces):
        one = mention(piece)
        if one is not None and one.number == entity.count and one.relation and supports(piece):
            return piece.value
    return f"{entity.count} {entity.relation}".strip()


def _name(places: Mapping[Place, Mapping[str, Value]]) -> None:
    """Give everybody, and every fact about them, a name of its own: whoever has a name theirs, before all others."""
    taken: dict[str, set[str]] = defaultdict(set)

    def rank(one: tuple[Place, str, Value]) -> tuple[bool, Place, str]:
        return one[2].entity is not None and not one[2].entity.name, one[0], one[1]

    listed = [(place, name, value) for place, values in places.items() for name, value in values.items()]
    for place, name, value in sorted(listed, key=rank):
        # Ids follow from names: two values with one name would be one trait.
        free = (each for each in value.names if each not in taken[place.key])
        value.anchor = next(free, f"{name}{OF}{place.who}")
        taken[place.key].add(value.anchor)


def _is_over(piece: Evidence) -> bool:
    """Whether a piece about somebody says by its own words that they are it no more."""
    if piece.key != PARTNER or piece.polarity < 0 or piece.kind in ("confirmed", "edited", "up"):
        return False
    one = mention(piece)
    return one is not None and one.sort == EX


def _is_described(place: Place) -> bool:
    return place.key not in EXISTENCE and merges(place.key)


def _merge(place: Place, values: dict[str, Value], closed: Mapping[tuple[Place, str], Sequence[Evidence]]) -> None:
    """Put what is one value together; what the user has rejected stands for itself."""
    free = {name: value for name, value in values.items() if rejected_at(value.pieces) is None}
    pieces = sorted((piece for value in free.values() for piece in value.pieces), key=_order)
    ends = {name: [end.observed_at for end in closed.get((place, name), ())] for name in free}
    names = merged(place.key, [_said(piece) for piece in pieces], ends)
    into: dict[str, list[Evidence]] = defaultdict(list)
    for piece, name in zip(pieces, names, strict=True):
        into[name].append(piece)
    entity = next((value.entity for value in free.values()), None)
    for name in free:
        del values[name]
    # Ids follow from names: a part that was said of several gives its own to one of them.
    taken: set[str] = set()
    for name, found in sorted(into.items(), key=lambda one: _order(one[1][0])):
        called = dict.fromkeys(normal(piece.value) for piece in found)
        is_one = len(called) == 1 and name in called
        value = values[name] = Value(name, found, wordings=None if is_one else _widest(name, called), entity=entity)
        value.anchor = next((one for one in called if one not in taken), f"{name}{OF}")
        taken.add(value.anchor)


def _said(piece: Evidence) -> Said:
    is_stated = supports(piece) and piece.kind in EXPLICIT
    return Said(
        normal(piece.value),
        piece.observed_at,
        supports(piece),
        is_stated,
        is_stated,
        is_change=piece.kind == "change",
        closes=denies(piece),
    )


def _widest(whole: str, parts: Iterable[str]) -> frozenset[str]:
    """Of the ways to put it those that say as much as any: they differ in small words."""
    return frozenset((whole, *(part for part in parts if words(part) == words(whole))))


def _order(piece: Evidence) -> tuple[datetime, str]:
    return piece.observed_at, piece.evidence_id


def _close(
    places: dict[Place, dict[str, Value]], ends: Sequence[tuple[Place, Evidence]], entities: Mapping[str, Entity]
) -> None:
    """Put every end with the values that it is about; one that is about none known stands for a value of its own."""
    for place, name, piece, about in _about(places, ends):
        found = [places[Place(one.key, one.who)][one.name] for one in about]
        for value in found or [places[place].setdefault(name, Value(name, entity=entities.get(place.who)))]:
            value.ends.append(piece)
    for values in places.values():
        for value in values.values():
            value.ends.sort(key=_order)


def _closings(
    places: Mapping[Place, Mapping[str, Value]], ends: Sequence[tuple[Place, Evidence]]
) -> dict[tuple[Place, str], list[Evidence]]:
    """By slot and value, the ends that are about it, in the order of time."""
    found: dict[tuple[Place, str], list[Evidence]] = defaultdict(list)
    for _, _, piece, about in _about(places, ends):
        for one in about:
            found[Place(one.key, one.who), one.name].append(piece)
    for pieces in found.values():
        pieces.sort(key=_order)
    return found


def _about(
    places: Mapping[Place, Mapping[str, Value]], ends: Sequence[tuple[Place, Evidence]]
) -> list[tuple[Place, str, Evidence, list[Open]]]:
    """Each end that counts with its slot, its name there and the values that it is about."""
    since = [
        Open(place.key, place.who, name, first)
        for place, values in places.items()
        for name, value in values.items()
        if (first := next((piece.observed_at for piece in value.pieces if supports(piece)), None)) is not None
    ]
    known = Ends(since, [(place.key, normal(piece.value)) for place, piece in ends])
    by_value: dict[tuple[Place, str], list[Evidence]] = defaultdict(list)
    for place, piece in ends:
        by_value[place, normal(piece.value)].append(piece)
    return [
        (place, name, piece, known.of(*place, name, piece.observed_at))
        for (place, name), pieces in by_value.items()
        for piece in pieces[-_ENDS:]
    ]


def _leave(places: Mapping[Place, Mapping[str, Value]], someone: Someone, end: Evidence) -> None:
    value = places[Place(someone.slot)][someone.cluster]
    value.ends = sorted((*value.ends, end), key=_order)


def _part(places: Mapping[Place, Mapping[str, Value]], partings: Sequence[Evidence]) -> None:
    """Whoever is divorced has no partner: it ends those who were there before and are not spoken of with it."""
    for value in places.get(Place(PARTNER), {}).values() if partings else ():
        said = {piece.observed_at for piece in value.pieces if supports(piece)}
        ends = [piece for piece in partings if said and min(said) < piece.observed_at and piece.observed_at not in said]
        value.ends = sorted((*value.ends, *ends[-_ENDS:]), key=_order)


def _end_with_them(places: dict[Place, dict[str, Value]], entities: Mapping[Someone, Entity]) -> None:
    """What is known of somebody is over with them."""
    gone: dict[str, list[Evidence]] = {}
    for someone in entities:
        value = places.get(Place(someone.slot), {}).get(someone.cluster) if someone.slot in EXISTENCE else None
        ends = [end for end in value.ends if end.kind == ENDED] if value is not None else []
        if ends:
            gone[_who(someone)] = ends[-_ENDS:]
    for place, values in places.items():
        if place.who in gone:
            for value in values.values():
                value.ends = sorted((*value.ends, *gone[place.who]), key=_order)

"""Evidence sorted by what it is about: slot by slot, value by value, whoever it is of. Pure, and in n log n."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from twin_sio.agent.contributions import rejected_at, supports
from twin_sio.agent.merging import Claim, Ends, Open, merged, words
from twin_sio.agent.people import Someone, is_former, mention, resolved
from twin_sio.agent.traits import ENDED, EXISTENCE, EXPLICIT, OF, merges, normal, own_name
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
            return (self.name,)
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
    people, entities = resolved(pieces)
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
    for place, values in places.items():
        if len(values) > 1 and place.key not in EXISTENCE and merges(place.key):
            _merge(place.key, values)
    # As a rule nobody but the user is spoken of: then none of this is looked at.
    for place, values in places.items() if entities else ():
        for value in values.values() if place.key in EXISTENCE else ():
            value.title = _title(value)
    if ends:
        _close(places, ends, {_who(someone): entity for someone, entity in entities.items()})
    if entities:
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
    if piece.key != "family.partner" or piece.polarity < 0 or piece.kind in ("confirmed", "edited", "up"):
        return False
    one = mention(piece)
    return one is not None and is_former(one)


def _merge(key: str, values: dict[str, Value]) -> None:
    """Put what is one value together; what the user has rejected stands for itself."""
    claims: dict[str, Claim] = {}
    for name, value in values.items():
        first = next((piece for piece in value.pieces if supports(piece)), None)
        if first is not None and rejected_at(value.pieces) is None:
            stated = any(piece.kind in EXPLICIT and supports(piece) for piece in value.pieces)
            claims[name] = Claim(first.observed_at, stated, first.kind == "change")
    into: dict[str, list[str]] = defaultdict(list)
    for part, whole in merged(key, claims).items():
        into[whole].append(part)
    for whole, parts in into.items():
        together = [values[whole], *(values.pop(part) for part in parts)]
        values[whole] = Value(
            whole,
            sorted((piece for one in together for piece in one.pieces), key=_order),
            wordings=_widest(whole, parts),
            entity=together[0].entity,
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
    for (place, name), pieces in by_value.items():
        for piece in pieces[-_ENDS:]:
            found = [places[Place(one.key, one.who)][one.name] for one in known.of(*place, name, piece.observed_at)]
            for value in found or [places[place].setdefault(name, Value(name, entity=entities.get(place.who)))]:
                value.ends.append(piece)
    for values in places.values():
        for value in values.values():
            value.ends.sort(key=_order)


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

"""What the twin believes of its user: a pure function of the evidence and a date.

Nothing is remembered between two calls, so computing again always gives the same, whatever the order the evidence
came in. `p = (1 + S) / (2 + S + C)`, S the supporting and C the opposing weight of a value, both decayed. A model's
own opinion of its confidence has no place here.

How a status comes about, first match wins:

    rejected     the user rejected the value and has not confirmed it since; nothing else can teach it again
    superseded   it has ended: the user said so, whoever it is of is there no more, or a newer statement took its place
                 (another value of a functional slot, a change in a slot of roles, a dislike of what was liked, another
                 city for where in a city they live)
    unused       the user said that it is not so, and has not stated it since: however much spoke for it before
    applied      p reached 0.80 and has not been seen under 0.65 since; what was denied and then stated again is judged
                 without the denial, which its number keeps
    tentative    p is 0.55 or more; also an inferred value beside an explicit one in a functional slot, and a
                 sensitive value that its user has not confirmed, however sure they are; a like and a dislike of
                 one thing that are both inferred
    unused       the rest
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final

from twin_sio.agent import capacity
from twin_sio.agent.contributions import (
    Part,
    contribution,
    denies,
    halved,
    is_pinned,
    known_on,
    parts_of,
    rejected_at,
    source_of,
    supports,
    total,
    weighed,
)
from twin_sio.agent.mentions import is_ex
from twin_sio.agent.observations import Place, Value, sorted_out
from twin_sio.agent.periods import Periods, time_expressions
from twin_sio.agent.traits import (
    CITY,
    CORRECTIONS,
    DISLIKES,
    EXISTENCE,
    EXPLICIT,
    LIKES,
    OF,
    REPLACED,
    WEIGHTS,
    WITHIN_CITY,
    is_functional,
    is_sensitive,
    trait_id,
)
from twin_sio.config import ScoreWeights
from twin_sio.domain import Evidence, Trait, TraitStatus

_WITH_A_MOVE: Final = timedelta(days=1)  # before it is said, where in the new city somebody lives may be told
_SLACK: Final = 1e-9  # a threshold that is reached in exact arithmetic is reached


def confidence(
    evidence: Iterable[Evidence], as_of: datetime, weights: ScoreWeights = WEIGHTS, *, rivals: Sequence[Evidence] = ()
) -> float:
    """The probability, on `as_of`, of the one value that `evidence` is about; later evidence is not yet known.

    `rivals` support other values of the same functional slot; inferences among them oppose a value that is itself
    only inferred.
    """
    pieces = known_on(evidence, as_of)
    if rejected_at(pieces) is not None:
        return 1 / (2 + weights.rejected)
    supporting, opposing = map(total, weighed(pieces, as_of, weights, rivals))
    return (1 + supporting) / (2 + supporting + opposing)


def score(
    user_id: str, evidence: Iterable[Evidence], as_of: datetime, weights: ScoreWeights = WEIGHTS
) -> tuple[Trait, ...]:
    """Every trait that the evidence of one user gives on `as_of`, sorted by key; the evidence in any order.

    Evidence repeated under one id, and evidence after `as_of`, changes nothing. No more of it counts than `capacity`
    says; it takes n log n.
    """
    return tuple(trait for slot in slots_of(user_id, evidence, as_of, weights) for trait in slot.traits())


def slots_of(user_id: str, evidence: Iterable[Evidence], as_of: datetime, weights: ScoreWeights) -> list[Slot]:
    """The user's slots on `as_of`, by key and by whose they are."""
    places = sorted_out(known_on(evidence, as_of))
    slots = {place: Slot(user_id, place, places[place], as_of, weights) for place in sorted(places)}
    for place, slot in slots.items():
        if place.key == DISLIKES and (liked := slots.get(Place(LIKES, place.who))) is not None:
            _exclude(liked, slot)
        if place.key in WITHIN_CITY and (city := slots.get(Place(CITY, place.who))) is not None:
            _move_out(slot, city)
    _leave(slots)
    return list(slots.values())


def _leave(slots: Mapping[Place, Slot]) -> None:
    """What is known of somebody who is there no more is over; but for what is stated of them since."""
    for place in [place for place in slots if place.who]:
        key, _, name = place.who.partition(OF)
        existence = slots.get(Place(key)) if key in EXISTENCE else None
        if existence is not None and name in existence.values and not is_ex(existence.claims[name].entity):
            *_, slots[place].left_at, slots[place].was_nobody = existence.period(name)


def _move_out(home: Slot, city: Slot) -> None:
    """Who has moved to another city lives there no more, but where they told of it with the move or after."""
    moves = city.periods.changes
    for name in home.values if moves else ():
        told = [piece.observed_at for piece in home.values[name] if supports(piece)]
        last = max(told, default=home.as_of) + _WITH_A_MOVE
        home.periods.close(name, [at for at in moves if at > last])


def _exclude(likes: Slot, dislikes: Slot) -> None:
    """Of a like and a dislike of one value the newer statement holds; what is inferred gives way to what is stated, and
    of two inferences neither is used."""
    for name in likes.values.keys() & dislikes.values.keys():
        liked, disliked = likes.periods.stated(name), dislikes.periods.stated(name)
        if liked or disliked:
            likes.periods.close(name, disliked)
            dislikes.periods.close(name, [at for at in liked if at not in disliked])
            likes.withheld |= {name} if not liked else set()
            dislikes.withheld |= {name} if not disliked else set()
        elif likes.is_supported(name) and dislikes.is_supported(name):
            likes.doubtful.add(name)
            dislikes.doubtful.add(name)


def _counted(
    key: str, values: Mapping[str, Value], as_of: datetime, weights: ScoreWeights
) -> dict[str, list[Evidence]]:
    """What counts of the pieces about each value of a slot."""

    def brought(pieces: Sequence[Evidence]) -> list[tuple[float, Evidence]]:
        return [(contribution(part), part.piece) for side in weighed(pieces, as_of, weights, ()) for part in side]

    always = {name: capacity.lasting(value.pieces, supports, EXPLICIT) for name, value in values.items()}
    counted = {name: capacity.of_value(value.pieces, always[name], brought) for name, value in values.items()}
    return capacity.of_slot(counted, always) if is_functional(key) or key in REPLACED else counted


class Slot:
    """All values of one slot of one user's profile, on one date."""

    def __init__(
        self, user_id: str, place: Place, claims: Mapping[str, Value], as_of: datetime, weights: ScoreWeights
    ) -> None:
        self.user_id, self.place, self.key = user_id, place, place.key
        self.as_of, self.weights = as_of, weights
        self.values = _counted(self.key, claims, as_of, weights)  # by name, the pieces that count
        self.claims = claims  # by name, all that was said, with the ends
        self.is_functional = is_functional(self.key)
        self.withheld: set[str] = set()  # inferred against what is stated elsewhere
        self.doubtful: set[str] = set()  # inferred both ways
        self.left_at: datetime | None = None  # since when whoever it is of is there no more
        self.was_nobody = False  # whoever it is of is not there, the user says
        # By name, since when it is rejected; None: it is not.
        self.rejected = {name: rejected_at(pieces) for name, pieces in self.values.items()}
        # A rejected value takes nobody's place: its own statements count for nothing.
        standing = {name: pieces for name, pieces in self.values.items() if self.rejected[name] is None}
        ends = {name: [end.observed_at for end in claims[name].ends] for name in self.values if claims[name].ends}
        self.periods = Periods(self.key, standing, ends, weights)
        self._denied_at: dict[str, datetime] = {}  # by name, since when the user's last word is that it is not so
        for name in standing:
            self._deny(name)

    def _deny(self, name: str) -> None:
        """Close a value that was stated wherever the user said that it is not so; in one breath with a statement that
        says nothing."""
        stated = self.periods.stated(name)
        said = frozenset(stated)
        denied = [p.observed_at for p in self.claims[name].pieces if denies(p) and p.observed_at not in said]
        self.periods.close(name, denied if stated else ())
        since = [at for at in denied if not stated or at > stated[-1]]
        if since:
            self._denied_at[name] = since[0]

    def is_supported(self, name: str) -> bool:
        return any(supports(piece) for piece in self.values[name])

    def traits(self) -> list[Trait]:
        return [self.trait(name) for name in sorted(self.values)]

    def trait(self, name: str) -> Trait:
        pieces, claims, rejected_at = self.values[name], self.claims[name], self.rejected[name]
        valid_from, ended_at, is_denied = self.period(name)
        supporting, opposing = self._numbers(name)
        confidence = (1 + supporting) / (2 + supporting + opposing)
        names = claims.names
        return Trait(
            trait_id=trait_id(self.user_id, self.key, names[0]),
            key=self.key,
            value=claims.shown,
            status=self._status(name, confidence, ended_at, is_denied=is_denied),
            confidence=confidence,
            supporting=supporting,
            opposing=opposing,
            valid_from=min(valid_from, rejected_at or self.as_of),
            valid_to=rejected_at or ended_at,
            as_of=self.as_of,
            pinned=rejected_at is None and not is_denied and is_pinned(pieces),
            entity=claims.entity,
            names=names if len(names) > 1 or self.place.who or claims.entity is not None else (),
            when=time_expressions(self.key, pieces, claims.ends if ended_at is not None else ()),
            is_denied=is_denied and rejected_at is None and name in self._denied_at,
        )

    def period(self, name: str) -> tuple[datetime, datetime | None, bool]:
        """From when to when a value holds, or held; and whether the user's last word is that it is not so."""
        pieces = self.values[name]
        valid_from, ended_at = self.periods.of(name, pieces, is_stated_elsewhere=name in self.withheld)
        # Of what is denied nobody knows whether it ever was so: it is not told as what held once.
        if self.was_nobody or (name in self._denied_at and ended_at in (None, self._denied_at[name])):
            return valid_from, None, True
        if self.left_at is not None and not self._is_stated_since(name, self.left_at):
            ended_at = min(ended_at or self.left_at, self.left_at)
        return min(valid_from, ended_at or valid_from), ended_at, False

    def _is_stated_since(self, name: str, left_at: datetime) -> bool:
        """Whether the user said since then in plain words that it is so: whoever has left lives on."""
        return any(at > left_at for at in self.periods.stated(name))

    def sides(self, name: str) -> tuple[list[Part], list[Part]]:
        """What supports a value and what opposes it; one that was rejected has its rejection alone."""
        supporting, opposing = self._own_sides(name)
        if self._has_rivals(name):
            opposing = [*opposing, *(part for other, parts in self._guesses.items() if other != name for part in parts)]
        return supporting, opposing

    def _own_sides(self, name: str) -> tuple[list[Part], list[Part]]:
        """The sides without the other values of the slot."""
        pieces, rejected_at = self.values[name], self.rejected[name]
        if rejected_at is None:
            return weighed(pieces, self.as_of, self.weights, ())
        said = next(piece for piece in pieces if piece.kind == "rejected" and piece.observed_at == rejected_at)
        return [], [Part(said, self.weights.rejected, 1.0, 1.0)]

    def _numbers(self, name: str) -> tuple[float, float]:
        """S and C: to the bit what the parts of `sides` add up to, and in no more time than the value's own take."""
        supporting, opposing = self._own_sides(name)
        if not self._has_rivals(name):
            return total(supporting), total(opposing)
        rivals = self._all_guesses - _exact(self._guesses.get(name, ()))
        return total(supporting), (_exact(opposing) + rivals) / _SCALE

    def _has_rivals(self, name: str) -> bool:
        """Whether what is inferred of other values opposes this one: in a slot of one value, where it is itself only
        inferred."""
        if not self.is_functional or self.rejected[name] is not None:
            return False
        return not any(piece.kind in EXPLICIT and supports(piece) for piece in self.values[name])

    @cached_property
    def _guesses(self) -> dict[str, list[Part]]:
        """What is inferred for each value of the slot, as it opposes the others."""
        return {name: parts_of(found, self.as_of, self.weights) for name, found in self._inferred.items()}

    @cached_property
    def _inferred(self) -> dict[str, list[tuple[Evidence, float]]]:
        half_life = self.weights.half_life(explicit=False)
        return {
            name: found
            for name, pieces in self.values.items()
            if (found := [(p, half_life) for p in pieces if p.kind not in EXPLICIT and supports(p)])
        }

    @cached_property
    def _all_guesses(self) -> int:
        return sum(map(_exact, self._guesses.values()))

    def _status(self, name: str, confidence: float, ended_at: datetime | None, *, is_denied: bool) -> TraitStatus:
        if self.rejected[name] is not None:
            return "rejected"
        if ended_at is not None:
            return "superseded"
        if is_denied or name in self.withheld:
            return "unused"
        confidence = self._without_outdated(name, confidence)
        if self._is_applied(name, confidence):
            return "applied" if self._may_apply(name) else "tentative"
        return "tentative" if confidence >= self.weights.tentative - _SLACK else "unused"

    def _without_outdated(self, name: str, confidence: float) -> float:
        """The confidence as if nobody had denied the value before the user stated it again: the newer word holds."""
        stated = self.periods.stated(name)
        if not stated or not any(denies(p) and p.observed_at < stated[-1] for p in self.values[name]):
            return confidence
        supporting, opposing = self.sides(name)
        stands = (one for one in opposing if not denies(one.piece) or one.piece.observed_at >= stated[-1])
        return (1 + total(supporting)) / (2 + total(supporting) + total(stands))

    def _may_apply(self, name: str) -> bool:
        if is_sensitive(self.key):
            return is_pinned(self.values[name])
        if name in self.doubtful:
            return False
        newest = self.periods.newest
        if not self.is_functional or newest is None or newest == name:
            return True
        return self.periods.of(newest, self.values[newest])[1] is not None

    def _is_applied(self, name: str, now: float) -> bool:
        """The band with its hysteresis: the newest instant at which p left the middle decides.

        p is looked at just before and just after every piece of evidence and on `as_of`, from the newest backwards.
        """
        apply, demote = self.weights.apply - _SLACK, self.weights.demote - _SLACK
        # Outside the middle the past does not matter.
        if now >= apply or now < demote:
            return now >= apply
        start = 0
        # As a rule one of the newest instants decides: a whole life is looked at only where none of them does.
        while start < 2 * len(self._instants(name)):
            for p in self._course(name, start, start + _LOOKS):
                if p >= apply or p < demote:
                    return bool(p >= apply)
            start += _LOOKS
        return False

    def _instants(self, name: str) -> list[int]:
        """The ages, in microseconds, of every piece of evidence that p hangs on, the newest first."""
        return self._all_instants if self.is_functional else _ages(self.values[name], self.as_of)

    @cached_property
    def _all_instants(self) -> list[int]:
        return _ages((piece for pieces in self.values.values() for piece in pieces), self.as_of)

    def _course(self, name: str, start: int, end: int) -> Any:
        """p just after and just before the instants, in their order, from the `start`-th of these looks on."""
        from twin_sio.agent.confidence_curve import Looks, sums  # numpy: only for those who look back

        looks = Looks.around(self._instants(name)).part(start, end)
        pieces, repeat = self.values[name], self.weights.repeat
        support, against = (self._timed(side) for side in halved(pieces, self.weights))
        supporting, opposing = sums(support, looks, repeat), sums(against, looks, repeat)
        if self.is_functional:
            rivals = sum((sums(self._timed(found), looks, repeat) for found in self._inferred.values()), 0.0)
            stated = [_age(piece, self.as_of) for piece in pieces if piece.kind in EXPLICIT and supports(piece)]
            opposing += (rivals - supporting) * (~looks.seen(max(stated)) if stated else 1.0)
        p = (1 + supporting) / (2 + supporting + opposing)
        for rejection in (_age(piece, self.as_of) for piece in pieces if piece.kind == "rejected"):
            lifted = [
                _age(piece, self.as_of)
                for piece in pieces
                if piece.kind in CORRECTIONS and supports(piece) and _age(piece, self.as_of) < rejection
            ]
            stands = looks.seen(rejection) & ~(looks.seen(max(lifted)) if lifted else False)
            p[stands] = 1 / (2 + self.weights.rejected)
        return p

    def _timed(self, pieces: Iterable[tuple[Evidence, float]]) -> list[Any]:
        from twin_sio.agent.confidence_curve import Timed

        return [
            Timed(_age(piece, self.as_of), self.weights.of(piece.kind), half_life, source_of(piece))
            for piece, half_life in pieces
        ]


_LOOKS: Final = 128  # instants that are looked at together, from the newest back
_SCALE: Final = 1 << 1100  # finer than the smallest float: sums of integers do not depend on their order


def _exact(parts: Iterable[Part]) -> int:
    """What the parts bring, in units so small that nothing is rounded."""
    ratios = (contribution(part).as_integer_ratio() for part in parts)
    return sum(count * (_SCALE // unit) for count, unit in ratios)


def _age(piece: Evidence, as_of: datetime) -> int:
    return (as_of - piece.observed_at) // _MICROSECOND


def _ages(pieces: Iterable[Evidence], as_of: datetime) -> list[int]:
    return sorted({_age(piece, as_of) for piece in pieces})


_MICROSECOND: Final = timedelta(microseconds=1)

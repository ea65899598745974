"""How sure a value was at each of many instants, all at once: the sums that `scoring` forms for one date, by numpy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

DAY_US: Final = 86_400_000_000


class Timed(NamedTuple):
    """A piece of evidence as it is added up: its age on the date, in microseconds; of one `source` only the strongest
    counts whole."""

    age_us: int
    weight: float
    half_life: float
    source: object


class Looks(NamedTuple):
    """Instants to look at, by their age on the date; `inclusive`: with what was observed at that very instant."""

    ages_us: Any
    inclusive: Any

    @classmethod
    def around(cls, ages_us: Sequence[int]) -> Looks:
        """Just after and just before each instant, in the order given."""
        ages = np.repeat(np.array(ages_us, dtype=np.int64), 2)
        return cls(ages, np.tile(np.array([True, False]), len(ages_us)))

    def part(self, start: int, end: int) -> Looks:
        return Looks(self.ages_us[start:end], self.inclusive[start:end])

    def seen(self, age_us: int) -> Any:
        """At which of the instants something of this age was there."""
        return (self.ages_us < age_us) | (self.inclusive & (self.ages_us == age_us))


def sums(pieces: Sequence[Timed], looks: Looks, repeat: float) -> Any:
    """What the pieces add up to at each look: weight x decay, and x repeat^n for the n-th strongest of a source."""
    if not pieces:
        return np.zeros(len(looks.ages_us))
    age = np.array([piece.age_us for piece in pieces], dtype=np.int64)[None, :]
    weight = np.array([piece.weight for piece in pieces])
    half_life = np.array([piece.half_life for piece in pieces])
    # Looks down, pieces across: what each brings at each look, in one step.
    at = looks.ages_us[:, None]
    seen = (age > at) | (looks.inclusive[:, None] & (age == at))
    brought = np.where(seen, weight * 0.5 ** (np.maximum(age - at, 0) / DAY_US / half_life), 0.0)
    sources: dict[object, list[int]] = defaultdict(list)
    for column, piece in enumerate(pieces):
        sources[piece.source].append(column)
    # Most sources have one piece: they need no sorting.
    total = brought[:, [columns[0] for columns in sources.values() if len(columns) == 1]].sum(axis=1)
    for columns in sources.values():
        if len(columns) > 1:
            strongest_first = np.sort(brought[:, columns], axis=1)[:, ::-1]
            total += strongest_first @ repeat ** np.arange(len(columns), dtype=float)
    return total

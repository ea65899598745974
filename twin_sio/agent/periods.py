"""From when to when the values of a slot hold, by what was stated and what has ended them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from twin_sio.agent.contributions import supports
from twin_sio.agent.traits import EXPLICIT, GOES_STALE, REPLACED, category, is_functional
from twin_sio.config import ScoreWeights
from twin_sio.domain import Evidence


class Periods:
    """Of one slot. A value ends where, at its last statement or after, another took its place or an end was said; it
    began with the first statement since something of the kind happened before.

    Another value takes its place in a slot of one value by any statement, in one of roles by a change.
    """

    def __init__(
        self,
        key: str,
        values: Mapping[str, Sequence[Evidence]],
        ends: Mapping[str, Sequence[datetime]],
        weights: ScoreWeights,
    ) -> None:
        """`values`: what counts of each value that is not rejected, in the order of time; so are the `ends`."""
        self._is_functional, self._values = is_functional(key), values
        # By value, when it was stated: what is only inferred neither begins nor ends anything.
        self._stated = {
            name: [piece.observed_at for piece in pieces if piece.kind in EXPLICIT and supports(piece)]
            for name, pieces in values.items()
        }
        self._ends = dict(ends)
        # What takes the place of other values: when, how much it weighs, and which value. Of one instant the weightiest
        # is the last, so the newest.
        self._displacing: list[tuple[datetime, float, str]] = []
        if self._is_functional or key in REPLACED:
            self._displacing = sorted(
                (piece.observed_at, weights.of(piece.kind), name)
                for name, pieces in values.items()
                for piece in pieces
                if piece.kind in EXPLICIT and supports(piece)
                if self._is_functional or piece.kind == "change"
            )

    @property
    def newest(self) -> str | None:
        """The value that was the last to take the place of others; None where none was."""
        return self._displacing[-1][2] if self._displacing else None

    @property
    def changes(self) -> Sequence[datetime]:
        """When the user said that another value has newly taken the place of the one before."""
        newly = {piece.observed_at for pieces in self._values.values() for piece in pieces if piece.kind == "change"}
        return [at for (_, _, before), (at, _, name) in pairwise(self._displacing) if name != before and at in newly]

    def stated(self, name: str) -> Sequence[datetime]:
        """When the value was stated; never where it is rejected."""
        return self._stated.get(name, ())

    def close(self, name: str, instants: Sequence[datetime]) -> None:
        """What was said at these instants ends the value, too, as far as it was stated before."""
        if instants:
            self._ends[name] = sorted((*self._ends.get(name, ()), *instants))

    def of(
        self, name: str, pieces: Sequence[Evidence], *, is_stated_elsewhere: bool = False
    ) -> tuple[datetime, datetime | None]:
        """From when the value holds, and until when (None: it holds still). `is_stated_elsewhere`: its ends are
        statements against what is only inferred here, and end nothing."""
        ends, stated = self._ends.get(name, ()), self.stated(name)
        first = next((piece.observed_at for piece in pieces if supports(piece)), None)
        if not stated:
            began = first or (pieces[0].observed_at if pieces else ends[0])
            return (began, None) if not ends or is_stated_elsewhere else (min(began, ends[0]), ends[0])
        before, after = self._displaced(name, stated[-1]) if self._displacing else (None, None)
        nth = bisect_left(ends, stated[-1])
        if nth < len(ends):
            after = ends[nth] if after is None else min(after, ends[nth])
        if nth > 0:
            before = ends[nth - 1] if before is None else max(before, ends[nth - 1])
        if before is not None:
            return stated[bisect_right(stated, before)], after
        return (stated[0] if self._is_functional else first or stated[0]), after

    def _displaced(self, name: str, last: datetime) -> tuple[datetime | None, datetime | None]:
        """When another value took the place of this one: the last time before its last statement, the first after."""
        others = self._displacing
        at = bisect_left(others, last, key=lambda one: one[0])
        before, after = at - 1, at
        # Statements of the value itself displace nothing.
        while before >= 0 and others[before][2] == name:
            before -= 1
        while after < len(others) and self._leaves(others[after], name, last):
            after += 1
        still = after == len(others) or others[-1][2] == name
        return others[before][0] if before >= 0 else None, None if still else others[after][0]

    def _leaves(self, one: tuple[datetime, float, str], name: str, last: datetime) -> bool:
        """Whether a statement leaves the value standing; a change leaves what was said together with it."""
        at, _, other = one
        return other == name or (not self._is_functional and at == last)


def time_expressions(key: str, pieces: Sequence[Evidence], ends: Sequence[Evidence]) -> str:
    """What was said last of the time and, where it is over, of its end, each with the month in which it was said, which
    alone makes it plain ("since last week"); of what grows old by itself at least that month."""
    told = [piece for piece in pieces if supports(piece)]
    since = _said_last([piece for piece in told if piece.when])
    if not since and (key in GOES_STALE or category(key) in GOES_STALE):
        since = _said_last(told)
    over = _said_last([end for end in ends if end.when and end.key == key])
    return "; ".join(filter(None, (since, over and f"over: {over}")))


def _said_last(pieces: Sequence[Evidence]) -> str:
    newest = max(pieces, key=lambda piece: (piece.observed_at, piece.evidence_id), default=None)
    return ", ".join(filter(None, (newest.when, f"said {newest.observed_at:%Y-%m}"))) if newest is not None else ""

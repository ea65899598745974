"""How much evidence counts, and is kept: so that whatever is said, a profile costs no more than so much to compute.

What goes first is what weighs least. Of a value stay its newest rejection, the user's newest correction, and its first
support and statement, from which it holds; and a value's newest rejection stays whatever else there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from twin_sio.domain import Evidence

PER_VALUE: Final = 100
"""Pieces that count of one value, the weightiest on the date."""

PER_SLOT: Final = 300
"""Pieces that count of all values of a slot that holds one at a time, or that a change replaces, the newest."""

PER_USER: Final = 5_000
"""Pieces that are kept of a user; what has to go makes room for a tenth of it at once."""

REJECTED: Final = 2_000
"""Values that a user may have rejected: a rejection never goes, so there is an end to their number."""

Brought = Callable[[Sequence[Evidence]], Sequence[tuple[float, Evidence]]]
"""What each piece about one value brings on the date."""


def lasting(pieces: Sequence[Evidence], is_support: Callable[[Evidence], bool], stated: frozenset[str]) -> set[str]:
    """The ids of what stays of one value, whose pieces come in the order of their instants."""
    # By what it stays for: the first support and statement say since when a value holds, the last correction and
    # rejection decide whether it does.
    kept: dict[str, str] = {}
    for piece in pieces:
        if piece.kind == "rejected":
            kept["rejected"] = piece.evidence_id
        elif is_support(piece):
            kept.setdefault("first", piece.evidence_id)
            if piece.kind in stated:
                kept.setdefault("stated", piece.evidence_id)
            if piece.kind in ("confirmed", "edited"):
                kept["corrected"] = piece.evidence_id
    return set(kept.values())


def of_value(pieces: list[Evidence], always: set[str], brought: Brought) -> list[Evidence]:
    """The pieces of one value that count, in their order."""
    # As nearly always.
    if len(pieces) <= PER_VALUE:
        return pieces
    ranked = sorted(brought(pieces), key=lambda one: (-one[0], -one[1].observed_at.timestamp()))
    chosen = always | {piece.evidence_id for _, piece in ranked[:PER_VALUE]}
    return [piece for piece in pieces if piece.evidence_id in chosen]


def of_slot(values: Mapping[str, list[Evidence]], always: Mapping[str, set[str]]) -> dict[str, list[Evidence]]:
    """The pieces that count in such a slot; of values that go whole, a rejection stays."""
    everything = [piece for pieces in values.values() for piece in pieces]
    if len(everything) <= PER_SLOT:
        return dict(values)
    everything.sort(key=lambda piece: (piece.observed_at, piece.evidence_id))
    newest = {piece.evidence_id for piece in everything[-PER_SLOT:]}
    counted: dict[str, list[Evidence]] = {}
    for name, pieces in values.items():
        # Of a value that nobody speaks of any more only its rejection matters.
        is_current = any(piece.evidence_id in newest for piece in pieces)
        left = [
            piece
            for piece in pieces
            if piece.evidence_id in newest
            or (piece.evidence_id in always[name] and (is_current or piece.kind == "rejected"))
        ]
        if left:
            counted[name] = left
    return counted

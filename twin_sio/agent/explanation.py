"""Why a trait has its confidence: the parts that its number was added up from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from twin_sio.agent.contributions import Part, contribution, days_between, upgraded
from twin_sio.agent.observations import observed_names
from twin_sio.agent.scoring import _Slot, _slots
from twin_sio.agent.traits import WEIGHTS, trait_id
from twin_sio.config import ScoreWeights
from twin_sio.domain import Evidence, Trait

# -- why

FORMULA: Final = "(1 + S) / (2 + S + C)"
Side = Literal["supports", "opposes", "set_aside"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One piece of evidence as it counts on a date: `effective` is weight x decay x repeat, and part of S or C.

    `set_aside` counts for nothing: it was rejected with its value, a sensitive slot does not take it, or it is an end,
    which closes the value without speaking against it.
    """

    piece: Evidence
    side: Side
    weight: float
    decay: float
    repeat: float
    effective: float
    age_days: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A trait, and all that its number is made of, the weightiest first.

    `trait.supporting` is the sum of what supports, `trait.opposing` of what opposes, `trait.confidence` is `FORMULA`.
    """

    trait: Trait
    reasons: tuple[Reason, ...]


def explain(
    user_id: str, evidence: Sequence[Evidence], as_of: datetime, wanted: str, weights: ScoreWeights = WEIGHTS
) -> Explanation | None:
    """Why the trait of the id `wanted` has its number on `as_of`, by the very parts it was computed from; None where
    the evidence gives no such trait. The id may be any that the trait had before it was found to be one with others."""
    slots = _slots(user_id, evidence, as_of, weights)
    called = ((slot, name, each) for slot in slots for name in slot.values for each in slot.claims[name].names)
    matching = [(slot, name, each) for slot, name, each in called if trait_id(user_id, slot.key, each) == wanted]
    if not matching:
        return None
    slot, name, _ = min(
        matching, key=lambda one: one[0].claims[one[1]].names[0] != one[2]
    )  # its own before a former one
    placed = {
        piece.evidence_id
        for slot in slots
        for claims in slot.claims.values()
        for piece in (*claims.pieces, *claims.ends)
    }
    refused = [piece for piece in map(upgraded, evidence) if piece.evidence_id not in placed]
    return _explained(slot, name, refused)


def _explained(slot: _Slot, name: str, refused: Sequence[Evidence]) -> Explanation:
    supporting, opposing = slot.sides(name)
    reasons = [_reason(part, "supports", slot.as_of) for part in supporting]
    reasons += [_reason(part, "opposes", slot.as_of) for part in opposing]
    counted = {reason.piece.evidence_id for reason in reasons}
    claims = slot.claims[name]
    names = set(claims.names)
    about = [piece for piece in refused if piece.key == slot.key and not names.isdisjoint(observed_names(piece))]
    ignored = {
        piece.evidence_id: piece
        for piece in (*claims.pieces, *claims.ends, *about)
        if piece.evidence_id not in counted and piece.observed_at <= slot.as_of
    }
    aside = [Part(piece, slot.weights.of(piece.kind), 1.0, 0.0) for piece in ignored.values()]
    reasons += [_reason(part, "set_aside", slot.as_of) for part in aside]
    reasons.sort(key=lambda reason: (-reason.effective, reason.piece.observed_at, reason.piece.evidence_id))
    return Explanation(slot.trait(name), tuple(reasons))


def _reason(part: Part, side: Side, as_of: datetime) -> Reason:
    return Reason(
        part.piece, side, part.weight, part.decay, part.repeat, contribution(part), days_between(part.piece, as_of)
    )

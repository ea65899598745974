"""Why a trait has its confidence: the parts that its number was added up from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from twin_sio.agent.contributions import Part, contribution, days_between
from twin_sio.agent.scoring import _Slot, _slots
from twin_sio.agent.traits import WEIGHTS, normal, trait_id
from twin_sio.config import ScoreWeights
from twin_sio.domain import Evidence, Trait

# -- why

FORMULA: Final = "(1 + S) / (2 + S + C)"
Side = Literal["supports", "opposes", "set_aside"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One piece of evidence as it counts on a date: `effective` is weight x decay x repeat, and part of S or C.

    `set_aside` counts for nothing: it was rejected with its value, or a sensitive slot does not take it.
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
    the evidence gives no such trait."""
    named = {(piece.key, normal(piece.value)) for piece in evidence}
    found = next((one for one in named if trait_id(user_id, *one) == wanted), None)
    if found is None:
        return None
    key, name = found
    about = [piece for piece in evidence if piece.key == key]
    slots = _slots(user_id, about, as_of, weights)
    return _explained(slots[0], name, about) if slots and name in slots[0].values else None


def _explained(slot: _Slot, name: str, evidence: Sequence[Evidence]) -> Explanation:
    supporting, opposing = slot.sides(name)
    reasons = [_reason(part, "supports", slot.as_of) for part in supporting]
    reasons += [_reason(part, "opposes", slot.as_of) for part in opposing]
    counted = {reason.piece.evidence_id for reason in reasons}
    about = (piece for piece in evidence if piece.key == slot.key and normal(piece.value) == name)
    ignored = {
        piece.evidence_id: piece
        for piece in about
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

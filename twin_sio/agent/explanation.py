"""Why a trait has its confidence: the parts that its number was added up from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from twin_sio.agent.contributions import Part, contribution, days_between, upgraded
from twin_sio.agent.observations import observed_names
from twin_sio.agent.scoring import Slot, slots_of
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


class Explainer:
    """Explains a user's traits on `as_of`, by the very parts that their numbers were computed from.

    What takes long is done once, when it is made: in n log n of the pieces, as `scoring.score`. `ids`: what the trait
    of a key and a name is called, in every way that it ever was; as `trait_id` says where there is none.
    """

    def __init__(
        self,
        user_id: str,
        evidence: Sequence[Evidence],
        as_of: datetime,
        weights: ScoreWeights = WEIGHTS,
        ids: Callable[[str, str], Sequence[str]] | None = None,
    ) -> None:
        called = ids or (lambda key, name: (trait_id(user_id, key, name),))
        slots = slots_of(user_id, evidence, as_of, weights)
        named = [(slot, name, slot.claims[name].names) for slot in slots for name in slot.values]
        self._traits: dict[str, tuple[Slot, str]] = {}  # by every id; a trait's own goes before another's former one
        for own in (True, False):
            for slot, name, names in named:
                for each in names[:1] if own else names[1:]:
                    for one in called(slot.key, each):
                        self._traits.setdefault(one, (slot, name))
        claims = [one for slot in slots for one in slot.claims.values()]
        placed = {piece.evidence_id for one in claims for piece in (*one.pieces, *one.ends)}
        self._refused: dict[str, list[Evidence]] = defaultdict(list)  # by key, what has a place in no slot
        for piece in map(upgraded, evidence):
            if piece.evidence_id not in placed:
                self._refused[piece.key].append(piece)

    def explain(self, wanted: str) -> Explanation | None:
        """Why the trait of this id has its number; None where the evidence gives no such trait. The id may be any that
        the trait had before it was found to be one with others."""
        found = self._traits.get(wanted)
        return _explained(*found, self._refused.get(found[0].key, ())) if found is not None else None


def _explained(slot: Slot, name: str, refused: Sequence[Evidence]) -> Explanation:
    supporting, opposing = slot.sides(name)
    reasons = [_reason(part, "supports", slot.as_of) for part in supporting]
    reasons += [_reason(part, "opposes", slot.as_of) for part in opposing]
    counted = {reason.piece.evidence_id for reason in reasons}
    claims = slot.claims[name]
    names = set(claims.names)
    about = [piece for piece in refused if not names.isdisjoint(observed_names(piece))]
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

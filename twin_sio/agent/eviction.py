"""Which evidence of a user is removed where there is too much of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from twin_sio.agent import capacity
from twin_sio.agent.contributions import contribution, denies, upgraded, weighed
from twin_sio.agent.scoring import slots_of
from twin_sio.agent.traits import WEIGHTS
from twin_sio.config import ScoreWeights
from twin_sio.domain import Evidence


def evicted(
    user_id: str, evidence: Sequence[Evidence], as_of: datetime, weights: ScoreWeights = WEIGHTS
) -> Sequence[Evidence]:
    """What of a user's evidence is to be removed: nothing while there is room for all (`capacity.PER_USER`). First what
    does not count, then what weighs least, and never a rejection that stands; an end goes no sooner than what it
    ended."""
    if len(evidence) <= capacity.PER_USER:
        return ()
    counted: dict[str, float] = {}
    standing: set[str] = set()
    for slot in slots_of(user_id, evidence, as_of, weights):
        for name, pieces in slot.values.items():
            parts = [part for side in weighed(pieces, as_of, weights, ()) for part in side]
            counted |= {part.piece.evidence_id: contribution(part) for part in parts}
            standing |= {piece.evidence_id for piece in pieces if piece.kind == "rejected"}
            most = max(map(contribution, parts), default=0.0)
            # An end that went before what it ended would bring the value back; so would a denial.
            denials = [piece for piece in slot.claims[name].pieces if denies(piece)]
            for end in (*slot.claims[name].ends, *denials[-1:]):
                counted[end.evidence_id] = max(most, counted.get(end.evidence_id, 0.0))
    gone: list[Evidence] = []
    held: list[tuple[float, datetime, Evidence]] = []
    for piece in evidence:
        name = upgraded(piece).evidence_id
        if piece.observed_at > as_of or name in standing:
            continue
        if name in counted:
            held.append((counted[name], piece.observed_at, piece))
        else:
            gone.append(piece)
    held.sort(key=lambda one: one[:2])
    # Some more than needed: otherwise the next piece would have everything weighed again.
    most_kept = capacity.PER_USER * 9 // 10
    return (*gone, *(piece for *_, piece in held[: max(0, len(evidence) - len(gone) - most_kept)]))

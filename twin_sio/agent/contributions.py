"""What each piece of evidence brings on a date: weight x decay x repeat, for its value or against it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from math import fsum
from typing import Final, NamedTuple

from twin_sio.agent.traits import (
    CORRECTIONS,
    EXPLICIT,
    RATINGS,
    STATED,
    is_sensitive,
    normal,
)
from twin_sio.config import ScoreWeights
from twin_sio.domain import Evidence

_ALWAYS_OPPOSING: Final = frozenset({"down", "rejected"})


def known_on(evidence: Iterable[Evidence], as_of: datetime) -> list[Evidence]:
    """What counts by `as_of`: once each, in the order of their instants, nothing that a sensitive slot refuses, and of
    the ratings of one answer the newest."""
    usable = [piece for piece in evidence if piece.observed_at <= as_of and _counts(piece)]
    usable.sort(
        key=lambda piece: (piece.observed_at, piece.evidence_id, piece.session_id, piece.quote, piece.extractor)
    )
    first: dict[str, Evidence] = {}
    for piece in usable:
        first.setdefault(piece.evidence_id, piece)
    newest = {_rated(piece): piece for piece in first.values() if piece.kind in RATINGS}
    return [
        piece
        for piece in first.values()
        if piece.kind not in RATINGS or (piece.kind != "withdrawn" and newest[_rated(piece)] is piece)
    ]


def _rated(piece: Evidence) -> tuple[str, str, str]:
    return piece.about or piece.evidence_id, piece.key, normal(piece.value)


def _counts(piece: Evidence) -> bool:
    return piece.kind in STATED or piece.kind in _ALWAYS_OPPOSING or not is_sensitive(piece.key)


def supports(piece: Evidence) -> bool:
    """Whether a piece speaks for its value; any other speaks against it."""
    return piece.polarity > 0 and piece.kind not in _ALWAYS_OPPOSING


def is_pinned(pieces: Sequence[Evidence]) -> bool:
    return any(piece.kind in CORRECTIONS and supports(piece) for piece in pieces)


def rejected_at(pieces: Sequence[Evidence]) -> datetime | None:
    """When the rejection that stands was made; None where there is none, or the user confirmed the value since."""
    rejections = [piece.observed_at for piece in pieces if piece.kind == "rejected"]
    if not rejections:
        return None
    last = max(rejections)
    lifted = any(piece.kind in CORRECTIONS and supports(piece) and piece.observed_at > last for piece in pieces)
    return None if lifted else last


class Part(NamedTuple):
    """What one piece of evidence brings on a date: weight x decay x repeat."""

    piece: Evidence
    weight: float
    decay: float
    repeat: float


def weighed(
    pieces: Sequence[Evidence], as_of: datetime, weights: ScoreWeights, rivals: Sequence[Evidence]
) -> tuple[list[Part], list[Part]]:
    """What S and C are made of on `as_of`."""
    support, against = halved(pieces, weights)
    if rivals and not any(piece.kind in EXPLICIT for piece, _ in support):
        half_life = weights.half_life(explicit=False)
        guesses = (piece for piece in known_on(rivals, as_of) if piece.kind not in EXPLICIT and supports(piece))
        against += [(piece, half_life) for piece in guesses]
    return parts_of(support, as_of, weights), parts_of(against, as_of, weights)


Halved = list[tuple[Evidence, float]]


def halved(pieces: Sequence[Evidence], weights: ScoreWeights) -> tuple[Halved, Halved]:
    """What supports a value and what opposes it, each with its half-life; what was rejected for good is neither."""
    support = [piece for piece in pieces if supports(piece)]
    against = [piece for piece in pieces if not supports(piece) and piece.kind != "rejected"]
    explicit_since = min((piece.observed_at for piece in support if piece.kind in EXPLICIT), default=None)

    def opposing_half_life(piece: Evidence) -> float:
        # That of what it opposed when it was observed: what is learnt later must not change how the past reads.
        if support and support[0].observed_at < piece.observed_at:
            return weights.half_life(explicit=explicit_since is not None and explicit_since < piece.observed_at)
        return weights.half_life(explicit=piece.kind in EXPLICIT)

    return (
        [(piece, weights.half_life(explicit=piece.kind in EXPLICIT)) for piece in support],
        [(piece, opposing_half_life(piece)) for piece in against],
    )


def parts_of(pieces: Iterable[tuple[Evidence, float]], as_of: datetime, weights: ScoreWeights) -> list[Part]:
    """The pieces with their factors; within a session the strongest counts whole, the n-th after it x repeat^n.

    Strongest first, so that one more piece can never take from the others more than it brings.
    """
    sessions: dict[tuple[str, str, bool], list[Part]] = defaultdict(list)
    for piece, half_life in pieces:
        decay = 0.5 ** (days_between(piece, as_of) / half_life)
        sessions[source_of(piece)].append(Part(piece, weights.of(piece.kind), decay, 1.0))
    return [
        part._replace(repeat=weights.repeat**nth) if nth else part
        for session in sessions.values()
        for nth, part in enumerate(sorted(session, key=contribution, reverse=True))
    ]


def source_of(piece: Evidence) -> tuple[str, str, bool]:
    """Of what is said once: a session, of one value; a rating repeats no statement."""
    return piece.session_id, normal(piece.value), piece.kind in RATINGS


def days_between(piece: Evidence, as_of: datetime) -> float:
    return (as_of - piece.observed_at).total_seconds() / 86_400


def contribution(part: Part) -> float:
    return part.weight * part.decay * part.repeat


def total(parts: Iterable[Part]) -> float:
    return fsum(map(contribution, parts))

"""What each piece of evidence says as it is read today, and what it brings on a date: weight x decay x repeat, for its
value or against it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from math import fsum
from typing import Final, NamedTuple

from twin_sio.agent.traits import (
    CORRECTIONS,
    DISLIKES,
    ENDED,
    EXPLICIT,
    LIKES,
    RATINGS,
    STATED,
    is_sensitive,
    normal,
    own_name,
)
from twin_sio.config import ScoreWeights
from twin_sio.domain import EVIDENCE_VERSION, Evidence

_ALWAYS_OPPOSING: Final = frozenset({"down", "rejected"})
_ALWAYS_COUNTING: Final = STATED | _ALWAYS_OPPOSING | {ENDED}
_NOT_SUPPORTING: Final = _ALWAYS_OPPOSING | {ENDED}
# What is taken from a user's words, and so may have been read otherwise by an earlier version.
_OBSERVED: Final = frozenset({"change", "explicit", "host", "inferred"})


def upgraded(piece: Evidence) -> Evidence:
    """A piece as it reads today, whatever version it was made under: what spoke against a like is a dislike, and a
    change against it is its end."""
    if piece.version >= EVIDENCE_VERSION or piece.key != LIKES or piece.polarity > 0 or piece.kind not in _OBSERVED:
        return piece
    if piece.kind == "change":
        return replace(piece, polarity=1, kind=ENDED, version=EVIDENCE_VERSION)
    return replace(piece, key=DISLIKES, polarity=1, version=EVIDENCE_VERSION)


def known_on(evidence: Iterable[Evidence], as_of: datetime) -> list[Evidence]:
    """What counts by `as_of`, as it reads today: once each, in the order of their instants, nothing that a sensitive
    slot refuses, and of the ratings of one answer the newest."""
    usable = [upgraded(piece) for piece in evidence if piece.observed_at <= as_of and _counts(piece)]
    usable.sort(
        # More than the time and the id: the order must not depend on how the pieces came, to the last bit.
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
    return piece.about or piece.evidence_id, piece.key, own_name(piece.value, piece.entity)


def _counts(piece: Evidence) -> bool:
    return piece.kind in _ALWAYS_COUNTING or not is_sensitive(piece.key)


def supports(piece: Evidence) -> bool:
    """Whether a piece speaks for its value; any other but an end speaks against it."""
    return piece.polarity > 0 and piece.kind not in _NOT_SUPPORTING


def denies(piece: Evidence) -> bool:
    """Whether a piece says in plain words that its value does not hold."""
    return piece.polarity < 0 and piece.kind in EXPLICIT


def is_pinned(pieces: Sequence[Evidence]) -> bool:
    return any(piece.kind in CORRECTIONS and supports(piece) for piece in pieces)


def rejected_at(pieces: Sequence[Evidence]) -> datetime | None:
    """When the rejection that stands was made; None where there is none, or the user confirmed the value since."""
    rejections = [piece.observed_at for piece in pieces if piece.kind == "rejected"]
    if not rejections:
        return None
    # A later confirmation lifts it; of the same instant the rejection holds.
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
    opposing = parts_of(against, as_of, weights)
    if rivals and not any(piece.kind in EXPLICIT for piece, _ in support):
        half_life = weights.half_life(explicit=False)
        guesses: dict[str, Halved] = defaultdict(list)
        for piece in known_on(rivals, as_of):
            if piece.kind not in EXPLICIT and supports(piece):
                guesses[normal(piece.value)].append((piece, half_life))
        for found in guesses.values():
            opposing += parts_of(found, as_of, weights)
    return parts_of(support, as_of, weights), opposing


Halved = list[tuple[Evidence, float]]


def halved(pieces: Sequence[Evidence], weights: ScoreWeights) -> tuple[Halved, Halved]:
    """What supports a value and what opposes it, each with its half-life; what was rejected for good is neither."""
    support = [piece for piece in pieces if supports(piece)]
    against = [piece for piece in pieces if not supports(piece) and piece.kind not in ("rejected", ENDED)]
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
    """The pieces about one value with their factors; within a session the strongest counts whole, the n-th after it
    x repeat^n.

    Strongest first, so that one more piece can never take from the others more than it brings.
    """
    # Said ten times in one sitting is hardly more than once.
    sessions: dict[tuple[str, bool], list[Part]] = defaultdict(list)
    for piece, half_life in pieces:
        decay = 0.5 ** (days_between(piece, as_of) / half_life)
        sessions[source_of(piece)].append(Part(piece, weights.of(piece.kind), decay, 1.0))
    return [
        part._replace(repeat=weights.repeat**nth) if nth else part
        for session in sessions.values()
        for nth, part in enumerate(sorted(session, key=contribution, reverse=True))
    ]


def source_of(piece: Evidence) -> tuple[str, bool]:
    """What of one value is said once: a session; a rating repeats no statement."""
    return piece.session_id, piece.kind in RATINGS


def days_between(piece: Evidence, as_of: datetime) -> float:
    return (as_of - piece.observed_at).total_seconds() / 86_400


def contribution(part: Part) -> float:
    return part.weight * part.decay * part.repeat


def total(parts: Iterable[Part]) -> float:
    return fsum(map(contribution, parts))

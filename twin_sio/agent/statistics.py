"""How well the twin learns, in counts that add up over users and rates that say how sure they are. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf, sqrt
from statistics import median
from typing import Final

from twin_sio.agent.contributions import known_on, supports
from twin_sio.agent.observations import Value, sorted_out
from twin_sio.agent.scoring import confidence
from twin_sio.agent.traits import CORRECTIONS, RATINGS, WEIGHTS, is_sensitive, names_of
from twin_sio.config import ScoreWeights
from twin_sio.domain import Evidence, Json, Trait, TraitStatus

WITHIN_S: Final = (0.0, 60.0, 3_600.0, 86_400.0, 7 * 86_400.0, 30 * 86_400.0, 90 * 86_400.0, inf)
"""Bounds, in seconds, of the time that a trait took to be applied."""

EXTRACTORS_MAX: Final = 20

_FIRST: Final = 50  # pieces about a value within which it is applied, or counts as not: each is weighed anew

_Z: Final = 1.959963984540054  # 95 %
_VERDICTS: Final = frozenset({"rejected"}) | RATINGS
Source = tuple[str, str, TraitStatus]  # kind and extractor of the evidence that came first, and what became of it


@dataclass(frozen=True, slots=True)
class EvidenceCounts:
    """Counts of one user's traits and answers, or of many users'.

    `contradicted`: traits that the user's own words both support and oppose, or that a newer value superseded. What has
    ended is no contradiction.
    `waits_s`: how long each trait took from its first evidence until its confidence reached the threshold.
    """

    traits: Mapping[Source, int] = field(default_factory=dict)
    contradicted: int = 0
    waits_s: Sequence[float] = ()
    answers: int = 0
    answers_using: int = 0

    @property
    def total(self) -> int:
        """All traits."""
        return sum(self.traits.values())

    def having(self, *statuses: TraitStatus) -> int:
        """The traits of these statuses."""
        return sum(count for (_, _, status), count in self.traits.items() if status in statuses)


def tally(
    evidence: Sequence[Evidence], traits: Sequence[Trait], *, answers: int, using: int, weights: ScoreWeights = WEIGHTS
) -> EvidenceCounts:
    """What a user's evidence has become: `traits` is its score; `using` of the `answers` had a trait in the prompt."""
    claims = _claims(evidence, max((trait.as_of for trait in traits), default=None))
    counts: Counter[Source] = Counter()
    contradicted, waits = 0, []
    for trait in traits:
        value = claims[trait.key, names_of(trait)[0]]
        about = value.pieces or value.ends
        first = next((piece for piece in about if supports(piece)), about[0])
        counts[first.kind, first.extractor, trait.status] += 1
        has_ended = any(end.observed_at == trait.valid_to for end in value.ends)
        contradicted += (trait.status == "superseded" and not has_ended) or _is_contradicted(about)
        applied_at = _applied_at(about, weights)
        if applied_at is not None:
            waits.append((applied_at - first.observed_at).total_seconds())
    return EvidenceCounts(dict(counts), contradicted, tuple(waits), answers, using)


def _claims(evidence: Sequence[Evidence], as_of: datetime | None) -> dict[tuple[str, str], Value]:
    """All that is said of each trait, by its key and its first name."""
    places = sorted_out(known_on(evidence, as_of)) if as_of is not None else {}
    return {(place.key, value.names[0]): value for place, values in places.items() for value in values.values()}


def _is_contradicted(pieces: Sequence[Evidence]) -> bool:
    return len({supports(piece) for piece in pieces if piece.kind not in _VERDICTS}) == 2


def _applied_at(pieces: Sequence[Evidence], weights: ScoreWeights) -> datetime | None:
    """When a value's own evidence first reached the threshold; where it is sensitive, not before it was confirmed."""
    may_apply = not is_sensitive(pieces[0].key)
    for nth, piece in enumerate(pieces[:_FIRST], start=1):
        may_apply = may_apply or (piece.kind in CORRECTIONS and supports(piece))
        if may_apply and confidence(pieces[:nth], piece.observed_at, weights) >= weights.apply - 1e-9:
            return piece.observed_at
    return None


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of the share `count / of` (Wilson 1927); (0, 1) where nothing is known."""
    if of == 0:
        return 0.0, 1.0
    share, z2 = count / of, _Z * _Z
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z / (1 + z2 / of) * sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(count: int, of: int) -> Json:
    """`{count, of, rate, low, high}`: the share with its 95 % interval; `rate` is None where there is nothing."""
    low, high = wilson(count, of)
    return {"count": count, "of": of, "rate": count / of if of else None, "low": low, "high": high}


def within(waits_s: Sequence[float]) -> tuple[int, ...]:
    """How many waits are at most each of `WITHIN_S`."""
    return tuple(sum(wait <= bound for wait in waits_s) for bound in WITHIN_S)


def from_stored(stored: Json) -> EvidenceCounts:
    """The sum over all users as the store keeps it, without the waits; empty while there is none. Of the extractors the
    `EXTRACTORS_MAX` that taught most stand by their names, so that there are never more numbers than can be watched."""
    taught: Counter[str] = Counter()
    for row in stored.get("traits", ()):
        taught[row["extractor"]] += row["count"]
    named = {name for name, _ in taught.most_common(EXTRACTORS_MAX)}
    traits: Counter[Source] = Counter()
    for row in stored.get("traits", ()):
        extractor = row["extractor"] if row["extractor"] in named else "other"
        traits[row["kind"], extractor, row["status"]] += row["count"]
    return EvidenceCounts(
        dict(traits),
        stored.get("contradicted", 0),
        answers=stored.get("answers", 0),
        answers_using=stored.get("answers_using", 0),
    )


def report(counts: EvidenceCounts) -> Json:
    """The tally as people read it."""
    bands = Counter[str]()
    sources: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (kind, extractor, status), count in counts.traits.items():
        bands[status] += count
        sources[kind, extractor]["held" if status in ("tentative", "unused") else status] += count
    return {
        "traits": {name: bands[name] for name in ("applied", "tentative", "unused", "rejected", "superseded")},
        "sources": [
            {
                "kind": kind,
                "extractor": extractor,
                **{name: found[name] for name in ("applied", "held", "rejected", "superseded")},
                "reject_rate": rate(found["rejected"], found.total()),
            }
            for (kind, extractor), found in sorted(sources.items())
        ],
        "reject_rate": rate(counts.having("rejected"), counts.total),
        "contradiction_rate": rate(counts.contradicted, counts.total),
        "time_to_apply_s": {"median": median(counts.waits_s) if counts.waits_s else None, "of": len(counts.waits_s)},
        "answers_using_traits": rate(counts.answers_using, counts.answers),
    }

"""What is learnt of people of whom sentences are known that are true: counted by words, for want of slots."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from bench.evaluation.datasets import Claim
from bench.evaluation.dialogues import START
from bench.evaluation.learning import Reader, Share
from twin_sio.domain import Evidence, Exchange, Line
from twin_sio.errors import ModelUnavailable
from twin_sio.store.words import Words


@dataclass(slots=True)
class ClaimResult:
    """A sentence is `met` where a learnt value stands in it, all of its words in whatever form; a value is `supported`
    where it stands in a sentence. Who states more than the sentences say lowers `supported` without being wrong."""

    met: Share = field(default_factory=Share)
    supported: Share = field(default_factory=Share)
    messages: int = 0
    wrong: list[str] = field(default_factory=list)


async def evaluate_claims(
    reader: Reader, claims: Sequence[Claim], seconds: float, tick: Callable[[], None] = lambda: None
) -> ClaimResult:
    """Have `reader` read what each of them says; what `seconds` do not suffice for is left out."""
    result, began, words = ClaimResult(), time.monotonic(), Words()
    for number, one in enumerate(claims):
        if time.monotonic() - began > seconds:
            break
        pieces: list[Evidence] = []
        for exchange in _exchanges(number, one):
            result.messages += 1
            try:
                pieces += await reader.candidates([exchange])
            except ModelUnavailable:
                continue
        _judge(result, one, pieces, words)
        tick()
    return result


def _exchanges(number: int, claims: Claim) -> list[Exchange]:
    return [
        Exchange(
            "user", f"{number}-{at}", "main", "s", START + timedelta(minutes=at), text, "I see.",
            before=(Line("twin", before),) if before else (),
        )
        for at, (before, text) in enumerate(claims.turns)
    ]  # fmt: skip


def _judge(result: ClaimResult, claims: Claim, pieces: Sequence[Evidence], words: Words) -> None:
    sentences = [{stem for stems in words.of([fact]) for stem in stems} for fact in claims.facts]
    values = list(dict.fromkeys(piece.value for piece in pieces))
    stands = [[_stands_in(value, sentence, words) for sentence in sentences] for value in values]
    for at in range(len(sentences)):
        result.met.add(any(row[at] for row in stands))
    for value, row in zip(values, stands, strict=True):
        result.supported.add(any(row))
        if not any(row):
            result.wrong.append(value)


def _stands_in(value: str, sentence: set[str], words: Words) -> bool:
    pieces = words.pieces(value)
    return bool(pieces) and all(any(stem in sentence for stem in stems) for _, stems in pieces)

"""What share of the lines that answer a question is found again among the first 5 and 10."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.evaluation.datasets import Dataset, Talk
from twin_sio.agent import Embedder
from twin_sio.config.groups import Tuning
from twin_sio.store.line_index import LineIndex
from twin_sio.store.ports import StoredLine

CUTS = (5, 10)
FLOOR = Tuning().embeddings_floor


@dataclass(slots=True)
class Retrieved:
    """Of `evidence` lines so many were found within each of `CUTS`."""

    questions: int = 0
    evidence: int = 0
    found: tuple[int, ...] = (0,) * len(CUTS)


async def evaluate_retrieval(
    dataset: Dataset, embedder: Embedder | None, tick: Callable[[], None] = lambda: None
) -> Mapping[str, Retrieved]:
    """For each kind of question, by the index that answers and searches use."""
    results: dict[str, Retrieved] = defaultdict(Retrieved)
    for talk in dataset.talks:
        await _evaluate(talk, embedder, results)
        tick()
    return dict(results)


async def _evaluate(talk: Talk, embedder: Embedder | None, results: Mapping[str, Retrieved]) -> None:
    texts = [line.text for line in talk.lines]
    vectors = await embedder.embed(texts) if embedder is not None else [None] * len(texts)
    index = LineIndex(FLOOR if embedder is not None else None)
    lines = [
        StoredLine(seq, line.conversation, line.is_user, line.text, vector)
        for seq, (line, vector) in enumerate(zip(talk.lines, vectors, strict=True), 1)
    ]
    await asyncio.to_thread(index.add, lines)
    asked = [question.text for question in talk.questions]
    telling = [await asyncio.to_thread(index.distinctive, text) for text in asked]
    wanted = await embedder.embed(telling) if embedder is not None and asked else [None] * len(asked)
    for question, vector in zip(talk.questions, wanted, strict=True):
        seqs = await asyncio.to_thread(index.search, question.text, vector, max(CUTS))
        found = [talk.lines[seq - 1].id for seq in seqs]
        result = results[question.kind]
        result.questions += 1
        result.evidence += len(question.evidence)
        hits = [sum(bool(group & set(found[:cut])) for group in question.evidence) for cut in CUTS]
        result.found = tuple(before + now for before, now in zip(result.found, hits, strict=True))

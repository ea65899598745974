"""The tables, in Markdown: each figure with its 95 % interval (Wilson) and who wrote what it was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.evaluation.claims import ClaimResult
from bench.evaluation.dialogues import Source
from bench.evaluation.learning import AT_ONCE, Learnt, Share
from bench.evaluation.retrieval import CUTS, Retrieved
from twin_sio.agent.statistics import wilson

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
BEGIN, END = "<!-- generated: evaluation -->\n", "<!-- end -->\n"
_BINS = 5
_SCRIPTED = ("strong", "trap")


def shown(share: Share) -> str:
    """`12 of 20 = 60 % (39-78)`."""
    if not share.of:
        return "–"
    low, high = wilson(share.count, share.of)
    return f"{share.count} of {share.of} = {100 * share.count / share.of:.0f} % ({100 * low:.0f}-{100 * high:.0f})"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rest)) + "\n"


def learnt_tables(
    results: Mapping[tuple[str, str], Learnt], sources: Sequence[Source], notes: Mapping[str, str]
) -> str:
    """What was learnt of the own dialogues, a table for each source; `results` by source and reader."""
    parts = []
    for source in sources:
        found = {reader: result for (name, reader), result in results.items() if name == source.name}
        if not found:
            continue
        parts.append(
            f"### Written by {source.written_by}\n\n`tests/data/{source.file}.jsonl`: {notes[source.name]}.\n\n"
        )
        rows = [["", *found]]
        for title, share in (
            ("dialogues read", lambda one: one.dialogues),
            ("facts learnt (recall)", lambda one: one.recall),
            ("plainly stated facts learnt", lambda one: one.plain),
            ("changes and ends learnt", lambda one: one.changes),
            ("of what was learnt, right (precision)", lambda one: one.precision),
            ("dialogues up to date after a change or an end", lambda one: one.updates),
            ("traps learnt", lambda one: one.traps),
            ("messages that teach nothing, left alone", lambda one: one.silent),
            ("messages without an answer", lambda one: one.failed),
        ):
            rows.append([title, *(shown(share(one)) for one in found.values())])
        for title, share in (
            ("true candidates of the model that end as evidence", lambda one: one.kept),
            ("the same, changes and ends", lambda one: one.kept_changes),
        ):
            rows.append([title, *(shown(share(one)) if name in _SCRIPTED else "–" for name, one in found.items())])
        passed = [shown(one.passed) if name == "trap" else "–" for name, one in found.items()]
        rows.append(["wrong candidates of the model that end as evidence", *passed])
        rows.append(["Brier score of the confidences", *(f"{one.brier:.3f}" for one in found.values())])
        seconds = [f"{AT_ONCE * one.seconds / max(1, one.failed.of):.3f}" for one in found.values()]
        rows.append(["seconds a message", *seconds])
        parts += [_table(rows), "Of the traits with a confidence in a range, the share that is so:\n\n"]
        parts.append(_reliability(found))
    return "".join(parts)


def _reliability(found: Mapping[str, Learnt]) -> str:
    rows = [["confidence", *found]]
    for index in range(_BINS):
        low, high = index / _BINS, (index + 1) / _BINS
        held = [[so for p, so in one.pairs if low <= p < high] for one in found.values()]
        if any(held):
            rows.append([f"{low:.1f} to {high:.1f}", *(shown(Share(sum(one), len(one))) for one in held)])
    return _table(rows)


def months_table(words: Mapping[str, Retrieved], both: Mapping[str, Retrieved] | None) -> str:
    """What was found again of the own months of talk, by words alone and with vectors."""
    named = {"by words": words, **({"by words and vectors": both} if both is not None else {})}
    rows = _retrieved({name: one for name, found in named.items() for one in found.values()})
    wrote = "the hand that wrote the search, to see that nothing breaks: it says little of how good it is"
    return f"### Found again, written by {wrote}\n\n`tests/data/months.jsonl`.\n\n{rows}"


def _retrieved(found: Mapping[str, Retrieved]) -> str:
    rows = [["questions", "how many", *(f"lines that answer, among the first {cut}" for cut in CUTS)]]
    for name, one in found.items():
        rows.append([name, str(one.questions), *(shown(Share(count, one.evidence)) for count in one.found)])
    return _table(rows)


def dataset_tables(name: str, retrieved: Mapping[str, Retrieved], claims: Mapping[str, ClaimResult]) -> str:
    """What was found again and learnt of a public set."""
    parts = [f"### {name}, written by its authors, strangers to this project\n\n"]
    if retrieved:
        parts.append(_retrieved(retrieved))
    if claims:
        rows = [["", "sentences that are true of somebody, met", "learnt values that stand in one", "messages"]]
        for reader, result in claims.items():
            rows.append([reader, shown(result.met), shown(result.supported), str(result.messages)])
        parts.append(_table(rows))
    return "".join(parts)


def write(page: Path, text: str) -> None:
    """Put the tables between the page's markers."""
    before, found, rest = page.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"{page} has no markers to write between")
    page.write_text(before + BEGIN + "\n" + text + END + after)

"""What the twin learns from labelled dialogues, and what it rightly does not: `make eval`, or

python -m bench.evaluation                          scripted, rules, the local model, and an endpoint where one is set
python -m bench.evaluation --only rules             one of scripted, rules, local, endpoint; can be given again
OPENAI_API_KEY=sk-... python -m bench.evaluation --only endpoint
OPENAI_BASE_URL=http://... TWIN_MODEL=... python -m bench.evaluation --only endpoint

Scored as HaluMem does it (extraction: recall, precision; updating; false-memory resistance), and for calibration: each
trait's confidence against the labels (reliability, ECE, Brier). The dialogues are tests/data/dialogues.jsonl.
`scripted` is a model that proposes every label and every trap: it shows what the guards let through, and checks this
scorer. The tables go into docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.scripted_model import ScriptedModel
from twin_sio.agent.extraction.model import ModelExtractor
from twin_sio.agent.extraction.rule_extractor import RulesExtractor
from twin_sio.agent.extraction.slots import same_value, tidy
from twin_sio.agent.model import OpenAIModel
from twin_sio.agent.scoring import score
from twin_sio.agent.traits import REPLACED, is_functional, normal
from twin_sio.domain import Evidence, Exchange, Trait
from twin_sio.errors import ModelUnavailable
from twin_sio.runtime.dev_engines.engines import MODEL_NAME, start_model
from twin_sio.runtime.dev_engines.process import EngineError

ROOT = Path(__file__).parents[2]
DIALOGUES = ROOT / "tests" / "data" / "dialogues.jsonl"
PAGE = ROOT / "docs" / "evaluation.md"
BEGIN, END = "<!-- generated: evaluation -->\n", "<!-- end -->\n"
BINS = 5
AT_ONCE = 2
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Fact:
    """What a turn shows of its user."""

    key: str
    value: str
    polarity: int
    kind: str = "explicit"

    @property
    def holds(self) -> bool:
        """Whether it is so, once it was said."""
        return self.polarity > 0 and self.kind != "ended"

    def is_stated_by(self, piece: Evidence) -> bool:
        same = piece.key == self.key and piece.polarity == self.polarity and same_value(piece.value, self.value)
        return same and (piece.kind == "ended") == (self.kind == "ended")


@dataclass(frozen=True, slots=True)
class Said:
    """One message with what is to be learnt from it, and the values that must not be."""

    text: str
    expect: tuple[Fact, ...]
    never: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages of one user, a day apart. `split`: word lists were tuned on it (`tuning`) or not (`held-out`)."""

    id: str
    topic: str
    split: str
    turns: tuple[Said, ...]


def load(path: Path = DIALOGUES) -> list[Dialogue]:
    """The labelled dialogues, one JSON object a line; the first of each topic first, so that a part has all kinds."""
    received = [_dialogue(json.loads(line)) for line in path.read_text().splitlines()]
    return sorted(received, key=lambda dialogue: int(dialogue.id.rpartition("-")[2]))


def _dialogue(received: dict[str, Any]) -> Dialogue:
    turns = tuple(
        Said(turn["text"], tuple(Fact(**fact) for fact in turn["expect"]), tuple(turn["never"]))
        for turn in received["turns"]
    )
    return Dialogue(received["id"], received["topic"], received["split"], turns)


class Reader(Protocol):
    """What is evaluated."""

    async def candidates(self, exchanges: Sequence[Exchange]) -> Sequence[Evidence]: ...


@dataclass(slots=True)
class Result:
    """What came of it, counted. `pairs` are a trait's confidence and whether it is so."""

    dialogues: int = 0
    of: int = 0
    turns: int = 0
    failed: int = 0
    seconds: float = 0.0
    expected: int = 0
    found: int = 0
    learnt: int = 0
    right: int = 0
    traps: int = 0
    fallen_for: list[str] = field(default_factory=list)
    updates: int = 0
    updated: int = 0
    pairs: list[tuple[float, bool]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)

    @property
    def brier(self) -> float:
        """The mean squared distance of confidence and truth; 0 is best."""
        return sum((p - true) ** 2 for p, true in self.pairs) / max(1, len(self.pairs))

    @property
    def ece(self) -> float:
        """Expected calibration error: the distance of mean confidence and share of truth, over the bins."""
        return sum(count * abs(mean - share) for _, count, mean, share in self.reliability()) / max(1, len(self.pairs))

    def reliability(self) -> list[tuple[str, int, float, float]]:
        """For each bin that holds any: its name, how many traits, their mean confidence, the share that is so."""
        rows = []
        for index in range(BINS):
            low, high = index / BINS, (index + 1) / BINS
            held = [pair for pair in self.pairs if low <= pair[0] < high]
            if held:
                mean, share = (sum(pair[which] for pair in held) / len(held) for which in (0, 1))
                rows.append((f"{low:.1f}-{high:.1f}", len(held), mean, share))
        return rows


async def evaluate(
    reader: Reader, dialogues: Sequence[Dialogue], seconds: float, tick: Callable[[], None] = lambda: None
) -> Result:
    """Have `reader` read every dialogue; what `seconds` do not suffice for is left out, whole dialogues at a time."""
    result, began, waiting = Result(of=len(dialogues)), time.monotonic(), list(dialogues)[::-1]

    async def work() -> None:
        while waiting and time.monotonic() - began < seconds:
            dialogue = waiting.pop()
            _judge(result, dialogue, [await _read(reader, result, exchange) for exchange in _exchanges(dialogue)])
            tick()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    result.seconds = time.monotonic() - began
    return result


def _exchanges(dialogue: Dialogue) -> list[Exchange]:
    return [
        Exchange("user", f"{dialogue.id}-{n}", "main", f"s{n}", START + timedelta(days=n), said.text, "I see.")
        for n, said in enumerate(dialogue.turns)
    ]


async def _read(reader: Reader, result: Result, exchange: Exchange) -> Sequence[Evidence]:
    try:
        return await reader.candidates([exchange])
    except ModelUnavailable:
        result.failed += 1
        return await RulesExtractor().extract_by_rules(exchange)  # as the job does


def _judge(result: Result, dialogue: Dialogue, read: Sequence[Sequence[Evidence]]) -> None:
    result.dialogues += 1
    truth: dict[tuple[str, str], bool] = {}
    for said, pieces in zip(dialogue.turns, read, strict=True):
        result.turns += 1
        _judge_turn(result, dialogue, said, pieces)
        _hold(truth, said.expect, is_change=dialogue.topic == "change")
    traits = score("user", [piece for pieces in read for piece in pieces], START + timedelta(days=len(read)))
    result.pairs += [(trait.confidence, _is_so(truth, trait)) for trait in traits if trait.valid_to is None]
    if dialogue.topic == "change":
        result.updates += 1
        applied = {(trait.key, normal(trait.value)) for trait in traits if trait.status == "applied"}
        result.updated += applied == {slot for slot, so in truth.items() if so}


def _judge_turn(result: Result, dialogue: Dialogue, said: Said, pieces: Sequence[Evidence]) -> None:
    result.expected += len(said.expect)
    result.learnt += len(pieces)
    result.traps += len(said.never)
    for fact in said.expect:
        received = any(fact.is_stated_by(piece) for piece in pieces)
        result.found += received
        if not received:
            result.missed.append(f"{dialogue.id}: {fact.key} = {fact.value}")
    for piece in pieces:
        shown = f"{dialogue.id}: {piece.key} = {piece.value} ({piece.kind})"
        if any(fact.is_stated_by(piece) for fact in said.expect):
            result.right += 1
        elif not any(same_value(piece.value, value) for value in said.never):
            result.unlabelled.append(shown)
    for value in said.never:
        result.fallen_for += [f"{dialogue.id}: {value}"] if any(same_value(p.value, value) for p in pieces) else []


def _hold(truth: dict[tuple[str, str], bool], facts: Sequence[Fact], *, is_change: bool) -> None:
    for fact in facts:
        if fact.holds and (is_functional(fact.key) or (is_change and fact.key in REPLACED)):
            truth.update({slot: False for slot in truth if slot[0] == fact.key})
        truth[fact.key, normal(fact.value)] = fact.holds


def _is_so(truth: dict[tuple[str, str], bool], trait: Trait) -> bool:
    return any(so and key == trait.key and same_value(value, trait.value) for (key, value), so in truth.items())


# -- who is evaluated


@asynccontextmanager
async def reader_of(name: str, dialogues: Sequence[Dialogue]) -> AsyncIterator[Reader]:
    """`scripted`, `rules`, `local` or `endpoint`. Raises `EngineError` where the local model is not installed."""
    if name == "rules":
        yield RulesExtractor()
    elif name == "scripted":
        async with ScriptedModel() as server, _asked(server.base_url, "", "scripted") as model:
            for dialogue in dialogues:
                for nth, said in enumerate(dialogue.turns):
                    received = json.dumps(said.text, ensure_ascii=False)
                    kind = "change" if dialogue.topic == "change" and nth > 0 else "explicit"
                    server.script(contains=f'"message": {received}', json_answer=_obedient(said, kind), **_honest(said))
            yield ModelExtractor(model, RulesExtractor())
    elif name == "local":
        with tempfile.TemporaryDirectory() as folder:
            engine = await asyncio.to_thread(start_model, Path(folder))
            try:
                async with _asked(engine.url, "", MODEL_NAME) as model:
                    yield ModelExtractor(model, RulesExtractor())
            finally:
                await asyncio.to_thread(engine.stop)
    else:
        base_url, key, chosen = (os.environ.get(n, "") for n in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "TWIN_MODEL"))
        async with _asked(base_url, key, chosen or "gpt-4o-mini") as model:
            yield ModelExtractor(model, RulesExtractor())


@asynccontextmanager
async def _asked(base_url: str, key: str, name: str) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel(base_url=base_url or None, api_key=key, model=name, complete_s=45)
    try:
        yield model
    finally:
        await model.close()


def _honest(said: Said) -> dict[str, Any]:
    """What an honest second reader says of what the model proposed."""
    return {"doubt": "no", "doubts": {tidy(fact.value).lower(): "yes" for fact in said.expect}}


def _obedient(said: Said, kind: str) -> str:
    """A model that proposes what is so, and everything it is lured into as well."""
    polarity = {1: "support", -1: "oppose"}
    received = [
        {
            "key": f.key,
            "value": f.value,
            "polarity": polarity[f.polarity],
            "kind": f.kind if f.kind == "ended" else kind,
            "quote": said.text,
        }
        for f in said.expect
    ]
    keys = ("interests.likes", "work.role", "location.city", "identity.name", "life.fact")
    lured = [
        {"key": key, "value": value, "polarity": "support", "kind": "explicit", "quote": said.text}
        for value in said.never
        for key in keys
    ]
    return json.dumps({"candidates": [*received, *lured]})


# -- what is written


def tables(results: dict[str, Result]) -> str:
    """The generated part of the page, in Markdown."""
    columns = [
        "dialogues",
        "no answer",
        "recall",
        "precision",
        "updates right",
        "traps learnt",
        "resistance",
        "ECE",
        "Brier",
        "s a message",
    ]
    head = f"| | {' | '.join(columns)} |\n"
    rows = [head, "|---" * (len(columns) + 1) + "|\n"]
    for name, r in results.items():
        cells = (
            f"{r.dialogues} of {r.of}",
            f"{r.failed} of {r.turns}",
            f"{r.found} of {r.expected} ({_share(r.found, r.expected)})",
            f"{r.right} of {r.learnt} ({_share(r.right, r.learnt)})",
            f"{r.updated} of {r.updates}",
            f"{len(r.fallen_for)} of {r.traps}",
            _share(r.traps - len(r.fallen_for), r.traps),
            f"{r.ece:.3f}",
            f"{r.brier:.3f}",
            f"{AT_ONCE * r.seconds / max(1, r.turns):.3f}",
        )
        rows.append(f"| {name} | " + " | ".join(cells) + " |\n")
    rows.append("\nReliability: of the traits with a confidence in a range, the share that is so.\n\n")
    rows.append("| | confidence | traits | mean confidence | so |\n|---|---|---|---|---|\n")
    for name, r in results.items():
        rows += [f"| {name} | {span} | {n} | {mean:.2f} | {share:.2f} |\n" for span, n, mean, share in r.reliability()]
    return "".join(rows)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def write(page: Path, text: str) -> None:
    """Put the tables between the page's markers."""
    before, found, rest = page.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"{page} has no markers to write between")
    page.write_text(before + BEGIN + "\n" + text + "\n" + END + after)


async def run(
    names: Sequence[str], dialogues: Sequence[Dialogue], seconds: float, console: Console
) -> dict[str, Result]:
    """The results of each, with a bar while it lasts; the tuning and the held-out part apart."""
    results: dict[str, Result] = {}
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for name in names:
            bar = progress.add_task(name, total=len(dialogues))
            async with reader_of(name, dialogues) as reader:
                for split in ("tuning", "held-out"):
                    part = [dialogue for dialogue in dialogues if dialogue.split == split]
                    share = seconds * len(part) / max(1, len(dialogues))
                    results[f"{name}, {split}"] = await evaluate(reader, part, share, partial(progress.advance, bar))
    return results


def main() -> int:
    """The exit code: 0, 2 for what cannot be run, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.evaluation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ("scripted", "rules", "local", "endpoint")
    parser.add_argument("--only", action="append", choices=known, help="evaluate this one (again for more)")
    parser.add_argument(
        "--seconds", type=float, default=300, help="at most so long for each; what is left over is not counted"
    )
    parser.add_argument(
        "--show", action="store_true", help="list what was missed, what was not labelled, and each trap"
    )
    parser.add_argument("--no-page", action="store_true", help="print only; leave docs/evaluation.md as it is")
    asked = parser.parse_args()
    configured = any(os.environ.get(name) for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"))
    names = asked.only or [name for name in known if name != "endpoint" or configured]
    console = Console(stderr=True)
    try:
        results = asyncio.run(run(names, load(), asked.seconds, console))
    except KeyboardInterrupt:
        console.print("stopped; nothing was written")
        return 130
    except EngineError as error:
        console.print(str(error))
        return 2
    print(tables(results))
    for name, result in results.items() if asked.show else ():
        for what in ("missed", "unlabelled", "fallen_for"):
            print(f"{name}, {what}:", *getattr(result, what), sep="\n  ")
    if not asked.no_page:
        write(PAGE, tables(results))
        console.print(f"written to {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

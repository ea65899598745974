"""What the twin learns from what people say, what it rightly does not, and what it finds again: `make eval`, or

python -m bench.evaluation                        the own dialogues, by everybody who can be asked; writes the page
python -m bench.evaluation --only rules --show    one reader, and what it missed and got wrong
OPENAI_API_KEY=sk-... python -m bench.evaluation --only endpoint
python -m bench.evaluation --dataset locomo10.json   a public set; prints, and writes nothing

The readers:
{readers}

The own dialogues are tests/data/phone_dialogues.jsonl, written by a hand that has not seen the code, and
dialogues.jsonl, written by the one that wrote the rules; proposals.jsonl holds what a strong model would propose
of them, and what a foolish one would. A public set is recognised by its content: LoCoMo, LongMemEval, PersonaChat,
PrefEval, HaluMem. docs/evaluation.md says where they are, and what is counted how.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.evaluation import report
from bench.evaluation.claims import ClaimResult, evaluate_claims
from bench.evaluation.datasets import Dataset, DatasetError, months
from bench.evaluation.datasets import load as load_dataset
from bench.evaluation.dialogues import DATA, SOURCES, languages, load
from bench.evaluation.learning import Learnt, evaluate
from bench.evaluation.readers import READERS, reader_of
from bench.evaluation.retrieval import evaluate_retrieval
from twin_sio.agent.embeddings import LocalEmbedder
from twin_sio.runtime.dev_engines.process import EngineError

_COLUMNS = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
_TOLD_MOST = 300  # people of a public set, evenly out of all


async def own(readers: Sequence[str], seconds: float, console: Console) -> dict[tuple[str, str], Learnt]:
    """What each reader learns of each source's dialogues."""
    results: dict[tuple[str, str], Learnt] = {}
    with Progress(*_COLUMNS, console=console) as progress:
        for source in SOURCES:
            dialogues = load(source)
            for name in readers:
                bar = progress.add_task(f"{source.name}, {name}", total=len(dialogues))
                async with reader_of(name, dialogues) as reader:
                    tick = partial(progress.advance, bar)
                    results[source.name, name] = await evaluate(reader, dialogues, seconds / len(SOURCES), tick)
    return results


async def found_again() -> str:
    """What is found of the own months of talk, as a table."""
    talk = months(DATA / "months.jsonl")
    words = await evaluate_retrieval(talk, None)
    embedder = LocalEmbedder() if LocalEmbedder.is_installed() else None
    return report.months_table(words, await evaluate_retrieval(talk, embedder) if embedder is not None else None)


async def public(dataset: Dataset, readers: Sequence[str], seconds: float, console: Console) -> str:
    """What is found again and learnt of a public set, as tables."""
    embedder = LocalEmbedder() if LocalEmbedder.is_installed() else None
    claims = dataset.claims[:: max(1, len(dataset.claims) // _TOLD_MOST)]
    learnt: dict[str, ClaimResult] = {}
    with Progress(*_COLUMNS, console=console) as progress:
        bar = progress.add_task("found again", total=len(dataset.talks))
        retrieved = await evaluate_retrieval(dataset, embedder, partial(progress.advance, bar))
        for name in readers if claims else ():
            bar = progress.add_task(name, total=len(claims))
            async with reader_of(name, ()) as reader:
                learnt[name] = await evaluate_claims(reader, claims, seconds, partial(progress.advance, bar))
    return report.dataset_tables(dataset.name, retrieved, learnt)


def _parser() -> argparse.ArgumentParser:
    described = "\n".join(f"  {name:9} {what}" for name, what in READERS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench.evaluation",
        description=(__doc__ or "").format(readers=described),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", choices=READERS, help="this reader alone (again for more)")
    parser.add_argument("--dataset", type=Path, metavar="PATH", help="a public set instead of the own dialogues")
    parser.add_argument(
        "--seconds", type=float, default=300, help="at most so long for each reader; the rest is not counted"
    )
    parser.add_argument("--show", action="store_true", help="list what was missed, what was wrong, and each trap")
    parser.add_argument("--no-page", action="store_true", help="print only; leave docs/evaluation.md as it is")
    return parser


def main() -> int:
    """The exit code: 0, 2 for what cannot be run, 130 after Ctrl-C."""
    asked = _parser().parse_args()
    configured = any(os.environ.get(name) for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"))
    # The embedded model takes half a minute for a message, and is asked by nobody else either.
    can_be_asked = [name for name in READERS if name != "local" and (name != "endpoint" or configured)]
    console = Console(stderr=True)
    try:
        if asked.dataset is not None:
            strangers = [name for name in asked.only or can_be_asked if name in ("rules", "endpoint")]
            print(asyncio.run(public(load_dataset(asked.dataset), strangers, asked.seconds, console)))
            return 0
        results = asyncio.run(own(asked.only or can_be_asked, asked.seconds, console))
    except KeyboardInterrupt:
        console.print("stopped; nothing was written")
        return 130
    except (EngineError, DatasetError) as error:
        console.print(str(error), markup=False)
        return 2
    notes = {source.name: languages(load(source)) for source in SOURCES}
    text = report.learnt_tables(results, SOURCES, notes) + asyncio.run(found_again())
    print(text)
    for (source, name), result in results.items() if asked.show else ():
        for what in ("missed", "wrong", "fallen_for"):
            print(f"{source}, {name}, {what}:", *getattr(result, what), sep="\n  ")
    if not asked.no_page and not asked.only:
        report.write(report.PAGE, text)
        console.print(f"written to {report.PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

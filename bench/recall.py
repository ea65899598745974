"""What it costs to search months of talk: `python -m bench.recall`, in about two minutes

python -m bench.recall                  1,000, 10,000, 20,000 and 50,000 lines; writes docs/performance.md
python -m bench.recall --lines 5000     so many lines, and nothing written

Sealed lines with vectors in a MongoDB of its own, searched as an answer does it. Beside it an answer streams: a task of
the loop that writes a chunk each 10 ms and is measured for how late it comes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.fernet import Fernet

from twin_sio.agent.embeddings import LocalEmbedder
from twin_sio.runtime.dev_engines.engines import start_mongod
from twin_sio.services.search import MessageSearch
from twin_sio.store import mongo
from twin_sio.store.cache import LineIndexes
from twin_sio.store.encryption import FieldCipher

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- generated: recall -->\n", "<!-- end -->\n"
SIZES = (1_000, 10_000, 20_000, 50_000)
SEARCHES = 100
CHUNK_S = 0.01
_WORDS = 20_000


class Writer:
    """Lines of a made-up language whose words are as common as those of a real one (Zipf)."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        letters = "etaoinshrdlucmfwypvbgk"
        self._words = ["".join(self._random.choices(letters, k=self._random.randint(2, 9))) for _ in range(_WORDS)]
        self._weights = [1 / rank for rank in range(1, _WORDS + 1)]

    def line(self) -> str:
        """About 18 words."""
        return " ".join(self._random.choices(self._words, self._weights, k=max(1, int(self._random.gauss(18, 9)))))

    def question(self) -> str:
        """About 8 words."""
        return " ".join(self._random.choices(self._words, self._weights, k=8)) + "?"


async def fill(db: mongo.Database, user: str, count: int, sealer: FieldCipher, embedder: LocalEmbedder) -> None:
    """So many lines of both sides, in fifty conversations."""
    writer, events, began = Writer(), db["events"], datetime(2026, 1, 1, tzinfo=UTC)
    for start in range(1, count + 1, 1_000):
        seqs = range(start, min(start + 1_000, count + 1))
        texts = [writer.line() for _ in seqs]
        vectors = await embedder.embed(texts)
        await events.insert_many(
            {
                "user_id": user, "seq": seq, "type": ("twin_message", "user_message")[seq % 2], "message_id": f"m{seq}",
                "conversation_id": f"c{seq * 50 // (count + 1)}", "session_id": None, "in_response_to": None,
                "at": began + timedelta(minutes=seq), "payload": sealer.seal({"text": text}), "epoch": 0,
                "vector": sealer.seal(vector), "vector_of": embedder.model,
            }
            for seq, text, vector in zip(seqs, texts, vectors, strict=True)
        )  # fmt: skip


@asynccontextmanager
async def streaming() -> AsyncIterator[list[float]]:
    """An answer that streams meanwhile; how late its chunks came, in ms."""
    late: list[float] = []

    async def stream() -> None:
        while True:
            due = time.perf_counter() + CHUNK_S
            await asyncio.sleep(CHUNK_S)
            late.append((time.perf_counter() - due) * 1000)
            json.dumps([{"text": "a chunk of an answer", "index": n} for n in range(100)])  # some 0.1 ms of work

    task = asyncio.create_task(stream())
    try:
        yield late
    finally:
        task.cancel()


async def timed(ask: Callable[[], Awaitable[object]], times: int) -> list[float]:
    """How long each took, in ms."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


async def measure(db: mongo.Database, count: int) -> list[str]:
    """One row of the table."""
    user, sealer, embedder = f"user-{count}", FieldCipher([Fernet.generate_key().decode()]), LocalEmbedder()
    await fill(db, user, count, sealer, embedder)
    memories = mongo.MongoMemories(db, sealer)
    indexes = LineIndexes(memories, embedder.model, 0.3)
    search = MessageSearch(memories, indexes, embedder)
    writer = Writer(seed=2)
    gc.collect()
    gc.freeze()  # as the server does
    async with streaming() as late_building:
        (building,) = await timed(lambda: indexes.get(user, 600), 1)
    alone = await timed(lambda: search.find(user, writer.question(), 20, patience_s=1, asked=count), SEARCHES)
    async with streaming() as late:
        beside = await timed(lambda: search.find(user, writer.question(), 20, patience_s=1, asked=count), SEARCHES)
    shown = [
        f"{count:,}",
        f"{building / 1000:.2f} s",
        f"{max(late_building):.0f} ms",
        f"{indexes.held_bytes / 2**20:.1f}",
    ]
    shown += [
        f"{statistics.median(alone):.1f} / {p95(alone):.1f} ms",
        f"{statistics.median(beside):.1f} / {p95(beside):.1f} ms",
    ]
    return [*shown, f"{max(late):.1f} ms"]


async def run(sizes: Sequence[int]) -> str:
    """The table, in Markdown."""
    head = ["lines", "made in", "loop held meanwhile, at most", "MiB", "a search: median / p95"]
    head += ["the same beside a streaming answer", "loop held, at most"]
    rows = [head, ["---"] * len(head)]
    with tempfile.TemporaryDirectory() as folder:
        engine = await asyncio.to_thread(start_mongod, Path(folder))
        client, db = mongo.connect(engine.url, "recall_bench", 30_000)
        try:
            await mongo.create_indexes(db)
            for count in sizes:
                rows.append(await measure(db, count))
                print(" | ".join(rows[-1]), file=sys.stderr)
        finally:
            client.close()
            await asyncio.to_thread(engine.stop)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{machine}; sealed lines of 18 words with vectors of 256 dimensions, MongoDB on the same cores.\n\n{table}"


def main() -> int:
    """The exit code: 0, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, help="this size alone; writes nothing")
    asked = parser.parse_args()
    try:
        table = asyncio.run(run([asked.lines] if asked.lines else SIZES))
    except KeyboardInterrupt:
        return 130
    print(table)
    if not asked.lines:
        text = PAGE.read_text()
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(before + BEGIN + "\n" + table + "\n" + END + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())

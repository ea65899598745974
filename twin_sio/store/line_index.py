"""One user's lines, found by their words and by their vectors: SQLite's FTS5 in memory, and a matrix beside it.

A statement takes its input, and gives its result, as one JSON value: the driver lets go of the interpreter's lock for
each row that it steps to and takes it again, which beside a busy event loop is 5 ms a row.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from twin_sio.store.ports import LINE_CHARACTERS, StoredLine
from twin_sio.store.words import Words

_VECTOR_TYPE: Final = np.dtype("<f2")

_CANDIDATES: Final = 200  # lines that words and vectors each propose
_ASKED_CHARACTERS: Final = 2_000  # of what is asked
_WORDS_ASKED: Final = 32  # of what is asked, the rarest
_HITS_LOOKED_AT: Final = 20_000  # a bound on what one search costs: the commonest words are left out beyond it
_ROWS_AT_ONCE: Final = 8_192  # vectors compared at once: a copy of them has 8 MiB
_COMMON_SHARE: Final = 0.1
_COMMON_LINES: Final = 10
"""A word that stands in more lines than this, and in a larger share of them, tells no line from another: the names of
those who talk, and what everybody says. Among words the rarer count for more; a vector knows no such thing."""
_LATE: Final = 64  # of the newest lines, those that may still get a vector
_PAGE_BYTES: Final = 1024

# How much of a line's score the next one has a share in, and the one before: an answer stands a line after its
# question and often shares no word with it. What these and the next ones do for the result: docs/decisions/021.
_TO_NEXT: Final = 0.5
_TO_PREVIOUS: Final = 0.25
_TWIN: Final = 0.8  # what the twin said counts so much: what users ask for is mostly what they have said themselves
_RANK: Final = 20  # of reciprocal rank fusion
_BY_VECTOR: Final = 0.5  # the weight of the ranks by vectors, beside 1 of those by words
_SURE: Final = 0.3  # the cosine from which on people see what a line has to do with their words
_MEAN_OF: Final = 20  # lines from which on the mean of their vectors is nearly all taken off

_SCHEMA: Final = f"""
PRAGMA page_size = {_PAGE_BYTES};
PRAGMA journal_mode = OFF;
PRAGMA temp_store = MEMORY;
CREATE TABLE line (seq INTEGER PRIMARY KEY, talk INTEGER NOT NULL, is_user INTEGER NOT NULL);
CREATE INDEX in_talk ON line (talk, seq);
CREATE VIRTUAL TABLE said USING fts5 (words, tokenize = "ascii", columnsize = 1);
CREATE VIRTUAL TABLE known USING fts5vocab (said, 'row');
"""
_ADD_LINES: Final = """
INSERT INTO line SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
FROM json_each(?)
"""
_ADD_WORDS: Final = """
INSERT INTO said (rowid, words) SELECT json_extract(value, '$[0]'), json_extract(value, '$[3]') FROM json_each(?)
"""
_COUNTS: Final = "SELECT json_group_object(term, doc) FROM known WHERE term IN (SELECT value FROM json_each(?))"
_FOUND: Final = """
WITH hit AS (
  SELECT rowid AS seq, rank AS score FROM said WHERE said MATCH ? AND rowid <> ? ORDER BY rank LIMIT ?
)
SELECT json_group_array(json_array(seq, -score)) FROM hit
"""
_AROUND: Final = """
SELECT json_group_array(json_array(
  line.seq, line.is_user,
  (SELECT max(seq) FROM line AS other WHERE other.talk = line.talk AND other.seq < line.seq),
  (SELECT min(seq) FROM line AS other WHERE other.talk = line.talk AND other.seq > line.seq)
)) FROM line WHERE seq IN (SELECT value FROM json_each(?))
"""


class LineIndex:
    """Every method blocks, for milliseconds, and belongs in a thread; any number of threads may call."""

    def __init__(self, floor: float | None) -> None:
        """`floor`: the cosine from which on a line is related by its vector; None: there are no vectors."""
        self._floor = floor
        self._lock = threading.Lock()
        self._words = Words()
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self._talks: dict[str, int] = {}
        self._bare: set[int] = set()  # of the newest lines those without a vector
        self._vectors = _Vectors()
        # Written under the lock, and read without it: nobody on the event loop waits for a thread.
        self.count = 0
        self.oldest = 0
        self.newest = 0
        self.complete_to = 0
        """The seq after which something may be missing: lines that came since, or vectors."""
        self.bytes = 0
        """The memory that it takes, about."""

    def __del__(self) -> None:
        self._db.close()

    def add(self, lines: Sequence[StoredLine]) -> None:
        """Add lines in any order; of one that is there already, its vector."""
        with self._lock:
            fresh = self._fresh(lines)
            words = self._words.of([line.text[:LINE_CHARACTERS] for line in fresh])
            rows = [
                (line.seq, self._talks.setdefault(line.conversation_id, len(self._talks)), line.is_user, " ".join(said))
                for line, said in zip(fresh, words, strict=True)
            ]
            if rows:
                sent = json.dumps(rows)
                self._db.execute("BEGIN")
                self._db.execute(_ADD_LINES, (sent,))
                self._db.execute(_ADD_WORDS, (sent,))
                self._db.execute("COMMIT")
            self._bare.update(line.seq for line in fresh)
            vectors = {line.seq: line.vector for line in lines if line.vector and line.seq in self._bare}
            self._vectors.add(vectors)
            self._bare.difference_update(vectors)
            self._recount()

    def _fresh(self, lines: Sequence[StoredLine]) -> list[StoredLine]:
        asked = json.dumps([line.seq for line in lines])
        query = "SELECT json_group_array(seq) FROM line WHERE seq IN (SELECT value FROM json_each(?))"
        there = set(self._one(query, asked))
        return [line for line in {line.seq: line for line in lines}.values() if line.seq not in there]

    def remove_before(self, seq: int) -> None:
        """Forget every line of before this seq."""
        with self._lock:
            if self.oldest < seq:
                self._remove("seq < ?", "rowid < ?", seq)
                self._vectors.keep(self._vectors.seqs >= seq)
                self._recount()

    def remove(self, seqs: Collection[int]) -> None:
        """Forget these lines."""
        with self._lock:
            listed = "IN (SELECT value FROM json_each(?))"
            self._remove(f"seq {listed}", f"rowid {listed}", json.dumps(list(seqs)))
            self._vectors.keep(~np.isin(self._vectors.seqs, list(seqs)))
            self._bare.difference_update(seqs)
            self._recount()

    def _remove(self, lines: str, words: str, what: int | str) -> None:
        self._db.execute("BEGIN")
        self._db.execute(f"DELETE FROM said WHERE {words}", (what,))  # noqa: S608 - our own text
        self._db.execute(f"DELETE FROM line WHERE {lines}", (what,))  # noqa: S608
        self._db.execute("COMMIT")

    def _recount(self) -> None:
        query = "SELECT json_array(count(*), coalesce(min(seq), 0), coalesce(max(seq), 0)) FROM line"
        self.count, self.oldest, newest = self._one(query)
        self.newest = max(self.newest, newest)
        self._bare = {seq for seq in self._bare if seq > self.newest - _LATE} if self._floor is not None else set()
        self.complete_to = min((seq - 1 for seq in self._bare), default=self.newest)
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        self.bytes = int(pages) * _PAGE_BYTES + self._vectors.held_bytes + 100 * len(self._talks)

    def oldest_of(self, most: int) -> int:
        """The seq of the oldest of the `most` newest lines; 0 where there are no more than these."""
        query = "SELECT seq FROM line ORDER BY seq DESC LIMIT 1 OFFSET ?"
        with self._lock:
            return int(self._db.execute(query, (most - 1,)).fetchone()[0]) if self.count > most else 0

    def distinctive(self, text: str) -> str:
        """The words of the text that tell one line from another; all of it where there are none."""
        with self._lock:
            pieces = self._words.pieces(text[:_ASKED_CHARACTERS])
            counts = self._counts({stem for _, stems in pieces for stem in stems})
        most = max(_COMMON_LINES, _COMMON_SHARE * self.count)
        kept = [word for word, stems in pieces if max((counts.get(stem, 0) for stem in stems), default=0) <= most]
        return " ".join(kept) or text

    def search(self, text: str, vector: bytes | None, most: int, *, without: int = 0, beside: bool = True) -> list[int]:
        """The seqs of the lines that have to do with `text`, the nearest first; the line of seq `without` is not
        counted at all. `vector` is that of what `text` has that is `distinctive`. `beside`: also lines that only stand
        next to such a line, or may mean the same."""
        with self._lock:
            by_words = self._by_words(text, without)
            by_vector: dict[int, float] = {}
            if vector is not None and self._floor is not None:
                by_vector = self._vectors.nearest(vector, self._floor, without)
            around = self._around({*by_words, *by_vector})
        scores: dict[int, float] = defaultdict(float)
        for ranks, weight in ((_ranks(_spread(by_words, around)), 1.0), (_ranks(by_vector), _BY_VECTOR)):
            for seq, rank in ranks.items():
                scores[seq] += weight / (_RANK + rank)
        scores.pop(without, None)
        if not beside:
            near = {*by_words, *(seq for seq, likeness in by_vector.items() if likeness >= _SURE)}
            scores = {seq: score for seq, score in scores.items() if seq in near}
        return sorted(scores, key=lambda seq: (-scores[seq], -seq))[:most]

    def _by_words(self, text: str, without: int) -> Mapping[int, float]:
        counts = self._counts(set(self._words.of([text[:_ASKED_CHARACTERS]])[0]))
        chosen: list[str] = []
        hits = 0
        for word in sorted(counts, key=lambda word: (counts[word], word))[:_WORDS_ASKED]:
            hits += counts[word]
            if chosen and hits > _HITS_LOOKED_AT:
                break
            chosen.append(word)
        if not chosen:
            return {}
        query = " OR ".join(f'"{word}"' for word in chosen)
        return dict(self._one(_FOUND, query, without, _CANDIDATES))

    def _counts(self, words: Collection[str]) -> Mapping[str, int]:
        """In how many lines each of the words stands, where it stands in any."""
        counts: dict[str, int] = self._one(_COUNTS, json.dumps(sorted(words)))
        return counts

    def _around(self, seqs: Collection[int]) -> Mapping[int, tuple[int, int | None, int | None]]:
        """Of each line: whether the user said it, and its neighbours in the conversation."""
        return {seq: (*rest,) for seq, *rest in self._one(_AROUND, json.dumps(list(seqs)))}

    def _one(self, query: str, *values: Any) -> Any:
        return json.loads(self._db.execute(query, values).fetchone()[0])


def _spread(scores: Mapping[int, float], around: Mapping[int, tuple[int, int | None, int | None]]) -> dict[int, float]:
    """The scores with their neighbours' shares."""
    spread: dict[int, float] = defaultdict(float)
    for seq, score in scores.items():
        is_user, before, after = around[seq]
        spread[seq] += score if is_user else score * _TWIN
        if after is not None:
            spread[after] += score * _TO_NEXT
        if before is not None:
            spread[before] += score * _TO_PREVIOUS
    return spread


def _ranks(scores: Mapping[int, float]) -> dict[int, int]:
    """The place of each, the best first; of two alike the later line."""
    return {seq: rank for rank, seq in enumerate(sorted(scores, key=lambda seq: (-scores[seq], -seq)))}


class _Vectors:
    """Vectors in the order in which they came, as rows of one matrix that grows by a quarter as it fills.

    They are compared without what all of them have in common, their mean: it is how these people talk, not what of.
    """

    def __init__(self) -> None:
        self._rows = np.zeros((0, 0), _VECTOR_TYPE)
        self._seqs = np.zeros(0, np.int64)
        self._sum = np.zeros(0, np.float32)
        self._count = 0

    @property
    def seqs(self) -> Any:
        return self._seqs[: self._count]

    @property
    def held_bytes(self) -> int:
        return self._rows.nbytes + self._seqs.nbytes

    def add(self, vectors: Mapping[int, bytes]) -> None:
        """Add vectors; what has another length than the first is of another model."""
        width = self._rows.shape[1] or len(next(iter(vectors.values()), b"")) // _VECTOR_TYPE.itemsize
        fit = [(seq, vector) for seq, vector in vectors.items() if len(vector) == width * _VECTOR_TYPE.itemsize]
        if fit:
            end = self._count + len(fit)
            self._grow(end, width)
            fresh = np.frombuffer(b"".join(v for _, v in fit), _VECTOR_TYPE).reshape(-1, width)
            self._rows[self._count : end] = fresh
            self._seqs[self._count : end] = [seq for seq, _ in fit]
            self._sum = (self._sum if self._count else 0) + fresh.sum(axis=0, dtype=np.float32)
            self._count = end

    def _grow(self, needed: int, width: int) -> None:
        if needed <= len(self._rows):
            return
        room = max(64, needed + needed // 4)
        rows, seqs = np.zeros((room, width), _VECTOR_TYPE), np.zeros(room, np.int64)
        if self._count:
            rows[: self._count], seqs[: self._count] = self._rows[: self._count], self.seqs
        self._rows, self._seqs = rows, seqs

    def keep(self, which: Any) -> None:
        """Forget the vectors for which `which` is false."""
        if not which.all():
            self._rows, self._seqs = self._rows[: self._count][which], self.seqs[which]
            self._count = len(self._seqs)
            self._sum = self._rows.sum(axis=0, dtype=np.float32)

    def nearest(self, to: bytes, floor: float, without: int) -> dict[int, float]:
        """The cosines of the nearest lines that reach the floor."""
        if not self._count or len(to) != self._rows.shape[1] * _VECTOR_TYPE.itemsize:
            return {}
        mean = self._sum / (self._count + _MEAN_OF)
        asked = np.frombuffer(to, _VECTOR_TYPE).astype(np.float32) - mean
        likeness = np.concatenate([self._cosines(at, asked, mean) for at in range(0, self._count, _ROWS_AT_ONCE)])
        most = min(_CANDIDATES, len(likeness))
        best = np.argpartition(-likeness, most - 1)[:most]
        return {
            int(self._seqs[row]): float(likeness[row])
            for row in best
            if likeness[row] >= floor and self._seqs[row] != without
        }

    def _cosines(self, begin: int, asked: Any, mean: Any) -> Any:
        """Of some rows, each with the mean taken off, to `asked`."""
        rows = self._rows[begin : min(begin + _ROWS_AT_ONCE, self._count)].astype(np.float32)
        products = rows @ np.stack([asked, mean], axis=1)
        squares = 1 - 2 * products[:, 1] + mean @ mean  # the rows are of length 1
        lengths = np.sqrt(np.maximum(squares, 1e-12)) * max(float(np.linalg.norm(asked)), 1e-6)
        return (products[:, 0] - mean @ asked) / lengths

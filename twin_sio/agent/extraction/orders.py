"""How much a text looks like an order about what is stored: a linear model over its words and pieces of words.

`instructions` looks for what such orders are known by; this finds more of those that are not. It was fitted to messages
of thirty-three authors in some thirty languages; `tools/fit_orders.py` says what it finds of one that it has not seen.
It understands nothing, costs some harmless sentences, and does not find every order. Pure.
"""

from __future__ import annotations

import re
import struct
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from math import log, sqrt
from typing import Final

WEIGHTS: Final = "orders.f16"
"""Of each place that a feature may fall into, little-endian halves; the last one is the bias."""
PLACES: Final = 1 << 16
THRESHOLD: Final = 0.2
"""The score from which on a text counts as an order."""
STRICT_THRESHOLD: Final = -0.2
"""The same for those who have nothing else to tell an order by; it costs them some harmless texts."""
SUSPECT_THRESHOLD: Final = -0.5
"""The score from which on a text may be an order: so may one in fifty of what people write."""

_WINDOW: Final = 40  # words that are judged together
_WORD: Final = re.compile(r"[^\W_]+|[^\w\s]")
_BREAKS: Final = frozenset(".!?;:,。！？")
_NUMBER: Final = re.compile(r"(?=.*\d)\w{7,}")  # of an order, a device, a person: what stands in it says nothing
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_PIECE: Final = 4
_LONGEST_WORD: Final = 40


def looks_like_order(plain: str, threshold: float) -> bool:
    """Whether a text (`instructions.normalised`) looks like an order; it takes as long as that is."""
    return score(plain, _weights()) > threshold


def score(plain: str, weights: Sequence[float]) -> float:
    """The score of the part of a text that looks most like an order."""
    bias = weights[PLACES]
    return max(bias + sum(weights[at] * value for at, value in features(words)) for words in _windows(words_of(plain)))


def _windows(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """So many at a time, each half of them twice."""
    for at in range(0, max(1, len(words) - _WINDOW // 2), _WINDOW // 2):
        yield words[at : at + _WINDOW]


def features(words: Sequence[str]) -> list[tuple[int, float]]:
    """What a text is known by: places, and how much each counts; together of length 1."""
    found = {name: 1 + log(count) for name, count in _counted(words).items()}
    length = sqrt(sum(value * value for value in found.values())) or 1.0
    return [(zlib.crc32(name.encode("utf-8", "replace")) % PLACES, value / length) for name, value in found.items()]


def words_of(plain: str) -> Sequence[str]:
    """The words and the punctuation of a text, without long numbers."""
    return [word for word in _WORD.findall(plain) if not _NUMBER.fullmatch(word)]


def _counted(words: Sequence[str]) -> Mapping[str, int]:
    counted: Counter[str] = Counter(f"2{one} {two}" for one, two in pairwise(words))
    for before, word, after in zip([".", *words], words, [*words[1:], "."], strict=False):
        if before in _BREAKS and word not in _BREAKS:  # it begins a clause
            counted.update((f"f{word}", f"f{word} {after}"))
    for word in words:
        word = word[:_LONGEST_WORD]
        counted[f"1{word}"] += 1
        if _UNSPACED.search(word):
            counted.update(f"c{word[at : at + n]}" for n in (1, 2, 3) for at in range(len(word) - n + 1))
        elif len(word) > _PIECE:
            framed = f"<{word}>"
            counted.update(f"4{framed[at : at + _PIECE]}" for at in range(len(framed) - _PIECE + 1))
    return counted


@cache
def _weights() -> Sequence[float]:
    data = files("twin_sio.agent.extraction").joinpath(WEIGHTS).read_bytes()
    return array("f", struct.unpack(f"<{PLACES + 1}e", data))

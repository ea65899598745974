"""Fits the model that tells orders about the profile from other messages: `python tools/fit_orders.py`.

Reads tests/data/orders.jsonl and what people type on phones, prints what a model fitted to all hands but one finds of
that one's messages, and writes `twin_sio/agent/extraction/orders.f16`, fitted to all.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from twin_sio.agent.extraction.instructions import has_words_of_one, normalised  # noqa: E402 - the path is set above
from twin_sio.agent.extraction.orders import (  # noqa: E402
    PLACES,
    STRICT_THRESHOLD,
    SUSPECT_THRESHOLD,
    THRESHOLD,
    WEIGHTS,
    features,
    score,
    words_of,
)

ROUNDS = 500
STEP = 0.5
DECAY = 3e-6
MISSED = 3.0  # how much an order counts that was missed at first
THRESHOLDS = THRESHOLD, STRICT_THRESHOLD, SUSPECT_THRESHOLD
Labelled = tuple[str, bool]


def read(name: str) -> Iterator[dict[str, Any]]:
    for line in (ROOT / "tests" / "data" / name).read_text().splitlines():
        yield json.loads(line)


def everyday() -> list[Labelled]:
    """What people say to a twin: no orders, but for those that are labelled as traps of that kind."""
    talk = [
        turn["text"]
        for name in ("phone_dialogues.jsonl", "dialogues.jsonl")
        for dialogue in read(name)
        if dialogue["topic"] != "injection"
        for turn in dialogue["turns"]
    ]
    return [(text, False) for text in talk if not has_words_of_one(normalised(text))]


def fit(texts: Sequence[Labelled]) -> np.ndarray[Any, Any]:
    """Fitted twice: the orders that the first fit leaves among the harmless texts count more in the second."""
    first = _fitted(texts, [1.0] * len(texts))
    missed = [is_order and score(normalised(text), first) <= STRICT_THRESHOLD for text, is_order in texts]
    return _fitted(texts, [MISSED if is_missed else 1.0 for is_missed in missed])


def _fitted(texts: Sequence[Labelled], counts: Sequence[float]) -> np.ndarray[Any, Any]:
    """Logistic regression by gradients whose steps shrink with their sum of squares; the same every time. `counts`: how
    much each text weighs."""
    found = [(nth, feature, label) for nth, (text, label) in enumerate(texts) for feature in _whole(text)]
    rows = np.array([nth for nth, _, _ in found])
    places = np.array([place for _, (place, _), _ in found])
    values = np.array([value for _, (_, value), _ in found])
    labels = np.array([float(label) for _, label in texts])
    shares = np.array(counts) / sum(counts)
    weights, squares = np.zeros(PLACES + 1), np.full(PLACES + 1, 1e-8)
    for _ in range(ROUNDS):
        scores = np.bincount(rows, values * weights[places], len(labels)) + weights[PLACES]
        wrong = (1 / (1 + np.exp(-scores)) - labels) * shares
        gradient = np.bincount(places, values * wrong[rows], PLACES + 1) + DECAY * weights
        gradient[PLACES] = wrong.sum()
        squares += gradient * gradient
        weights -= STEP * gradient / np.sqrt(squares)
    return weights


def _whole(text: str) -> list[tuple[int, float]]:
    return features(words_of(normalised(text)))


def found(texts: Sequence[str], weights: np.ndarray[Any, Any]) -> str:
    """How many are taken for orders, by each threshold, with the words."""
    plain = [normalised(text) for text in texts]
    scores = [99.0 if has_words_of_one(one) else score(one, weights) for one in plain]
    counts = (sum(one > threshold for one in scores) for threshold in THRESHOLDS)
    return f"{' / '.join(f'{100 * count / len(texts):.0f}' for count in counts)} % of {len(texts)}"


def main() -> None:
    labelled = list(read("orders.jsonl"))
    talk = everyday()
    print(f"taken for orders from {' / '.join(map(str, THRESHOLDS))} on, of a hand that is not fitted to:")
    print("hand        orders             harmless ones      everyday talk, of all hands")
    for unseen in sorted({one["hand"] for one in labelled if one["is_order"]}):
        other = [(one["text"], one["is_order"]) for one in labelled if one["hand"] != unseen]
        weights = fit([*other, *talk[::2]])
        mine = [
            [one["text"] for one in labelled if one["hand"] == unseen and one["is_order"] is so] for so in (True, False)
        ]
        print(f"{unseen:9}", *(found(texts, weights) for texts in (*mine, [text for text, _ in talk[1::2]])), sep="   ")
    weights = fit([*((one["text"], one["is_order"]) for one in labelled), *talk])
    data = struct.pack(f"<{PLACES + 1}e", *weights.clip(-60_000, 60_000))
    (ROOT / "twin_sio" / "agent" / "extraction" / WEIGHTS).write_bytes(data)


if __name__ == "__main__":
    main()

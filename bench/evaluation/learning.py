"""What a reader learns from dialogues, counted against their labels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from bench.evaluation.dialogues import LEARNABLE, START, Dialogue, Label, Turn, names_of
from twin_sio.agent.extraction.slots import same_value
from twin_sio.agent.scoring import score
from twin_sio.agent.traits import is_functional
from twin_sio.domain import Evidence, Exchange, Profile, Trait
from twin_sio.errors import ModelUnavailable
from twin_sio.jobs.exchanges import known_values

AT_ONCE = 2


class Reader(Protocol):
    """What is evaluated."""

    async def candidates(
        self, exchanges: Sequence[Exchange], known: Mapping[str, Sequence[str]] | None = None
    ) -> Sequence[Evidence]: ...


@dataclass(slots=True)
class Share:
    """So many of so many."""

    count: int = 0
    of: int = 0

    def add(self, is_so: bool) -> None:
        self.count += is_so
        self.of += 1


@dataclass(slots=True)
class Learnt:
    """What came of it.

    Of the labels: `recall`, and of those that are `plain`, or `changes` and ends; of what was learnt `precision`; of
    the dialogues in which something changes or ends `updates`, whose profile says so afterwards; of the values that
    must not be learnt `traps`; of the messages that teach nothing those that are left `silent`. Of a scripted model's
    candidates: the true ones that are `kept`, the wrong ones that `passed`. `pairs` are a trait's confidence and
    whether it is so.
    """

    dialogues: Share = field(default_factory=Share)
    recall: Share = field(default_factory=Share)
    plain: Share = field(default_factory=Share)
    changes: Share = field(default_factory=Share)
    precision: Share = field(default_factory=Share)
    updates: Share = field(default_factory=Share)
    traps: Share = field(default_factory=Share)
    silent: Share = field(default_factory=Share)
    failed: Share = field(default_factory=Share)
    kept: Share = field(default_factory=Share)
    kept_changes: Share = field(default_factory=Share)
    passed: Share = field(default_factory=Share)
    seconds: float = 0.0
    pairs: list[tuple[float, bool]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    fallen_for: list[str] = field(default_factory=list)

    @property
    def brier(self) -> float:
        """The mean squared distance of confidence and truth; 0 is best."""
        return sum((p - so) ** 2 for p, so in self.pairs) / max(1, len(self.pairs))


async def evaluate(
    reader: Reader, dialogues: Sequence[Dialogue], seconds: float, tick: Callable[[], None] = lambda: None
) -> Learnt:
    """Have `reader` read every dialogue; what `seconds` do not suffice for is left out, whole dialogues at a time."""
    result, began, waiting = Learnt(), time.monotonic(), list(dialogues)[::-1]
    result.dialogues.of = len(dialogues)

    async def work() -> None:
        while waiting and time.monotonic() - began < seconds:
            dialogue = waiting.pop()
            _judge(result, dialogue, await _read(reader, result, dialogue))
            tick()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    result.seconds = time.monotonic() - began
    return result


async def _read(reader: Reader, result: Learnt, dialogue: Dialogue) -> list[Sequence[Evidence]]:
    """What is read in each message, while what was learnt of the earlier ones is known, as it is in the service."""
    read: list[Sequence[Evidence]] = []
    for number, exchange in enumerate(dialogue.exchanges()):
        traits = score("user", [piece for pieces in read for piece in pieces], START + timedelta(days=number))
        try:
            read.append(await reader.candidates([exchange], known_values(Profile("user", number, traits))))
            result.failed.add(False)
        except ModelUnavailable:
            read.append(())
            result.failed.add(True)
    return read


def _judge(result: Learnt, dialogue: Dialogue, read: Sequence[Sequence[Evidence]]) -> None:
    result.dialogues.count += 1
    for turn, pieces in zip(dialogue.turns, read, strict=True):
        _judge_turn(result, dialogue.id, turn, pieces)
    traits = score("user", [piece for pieces in read for piece in pieces], START + timedelta(days=len(read)))
    labels = [label for turn in dialogue.turns for label in turn.expect]
    result.pairs += [(trait.confidence, _is_so(labels, trait)) for trait in traits if trait.valid_to is None]
    if any(label.kind in ("change", "ended") for label in labels):
        result.updates.add(_is_up_to_date(labels, traits))


def _judge_turn(result: Learnt, name: str, turn: Turn, pieces: Sequence[Evidence]) -> None:
    for label in turn.expect:
        found = any(label.is_learnt_by(piece) for piece in pieces)
        result.recall.add(found)
        if label.is_plain:
            result.plain.add(found)
        if label.kind in ("change", "ended"):
            result.changes.add(found)
        if not found:
            result.missed.append(f"{name}: {label.key} = {label.value} ({label.kind})")
    for piece in pieces:
        is_right = _is_right(piece, turn)
        result.precision.add(is_right)
        if not is_right:
            result.wrong.append(f"{name}: {piece.key} = {piece.value} ({piece.kind})")
    for value in turn.never:
        is_caught = any(
            same_value(piece.value, value)
            and piece.polarity > 0
            and piece.entity is None
            and not _is_right(piece, turn)
            for piece in pieces
        )
        result.traps.add(is_caught)
        if is_caught:
            result.fallen_for.append(f"{name}: {value}")
    if not turn.expect:
        result.silent.add(not any(piece.entity is None for piece in pieces))
    for one in turn.strong:
        if one["kind"] in LEARNABLE:
            kept = any(_is_from(piece, one) for piece in pieces)
            result.kept.add(kept)
            if one["kind"] in ("change", "ended"):
                result.kept_changes.add(kept)
    for one in turn.traps:
        result.passed.add(any(_is_from(piece, one) and not _is_right(piece, turn) for piece in pieces))


def _is_right(piece: Evidence, turn: Turn) -> bool:
    """Whether it is a label, or what a strong model would rightly propose."""
    strong = (one for one in turn.strong if one["kind"] in LEARNABLE)
    return any(label.is_learnt_by(piece) for label in turn.expect) or any(_is_from(piece, one) for one in strong)


def _is_from(piece: Evidence, candidate: Mapping[str, Any]) -> bool:
    """Whether the evidence is this candidate: it may stand in another slot, but not be of somebody else, nor say the
    opposite."""
    values = [one for one in (candidate["value"], candidate.get("name", "")) if one]
    polarity = 1 if candidate.get("polarity", "support") == "support" else -1
    return (
        (piece.kind == "ended") == (candidate["kind"] == "ended")
        and piece.polarity == polarity
        and (piece.entity is not None or candidate.get("about", "self") == "self")
        and any(same_value(one, other) for one in names_of(piece) for other in values)
    )


def _is_so(labels: Sequence[Label], trait: Trait) -> bool:
    """Whether a trait is so at the end: the last that was said of its value says so."""
    said = [label for label in labels if _is_about(label, trait)]
    return bool(said) and said[-1].holds and not _is_displaced(said[-1], labels)


def _is_about(label: Label, trait: Trait) -> bool:
    named = [trait.value, *((trait.entity.name,) if trait.entity is not None and trait.entity.name else ())]
    return any(same_value(one, other) for one in label.values for other in named)


def _is_displaced(label: Label, labels: Sequence[Label]) -> bool:
    """Whether a later label has taken the place of this one, in a slot of one value."""
    later = labels[labels.index(label) + 1 :]
    return is_functional(label.key) and any(one.key == label.key and one.holds for one in later)


def _is_up_to_date(labels: Sequence[Label], traits: Sequence[Trait]) -> bool:
    """Whether what is so at the end is applied, and nothing that was so before is, of what changed or ended."""
    applied = [trait for trait in traits if trait.status == "applied"]
    for label in labels:
        said = [one for one in labels if same_value(one.value, label.value)]
        is_so = said[-1].holds and not _is_displaced(said[-1], labels)
        is_moved = label.kind in ("change", "ended") or _is_displaced(label, labels)
        if is_moved and any(_is_about(label, trait) for trait in applied) != is_so:
            return False
    return True

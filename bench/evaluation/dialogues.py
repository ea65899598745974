"""The project's own labelled dialogues, and what a strong model and a foolish one would propose of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from twin_sio.agent.extraction.slots import canonical, same_value
from twin_sio.domain import Evidence, Exchange, Line

DATA = Path(__file__).parents[2] / "tests" / "data"
START = datetime(2026, 1, 1, tzinfo=UTC)
LEARNABLE = ("explicit", "change", "ended", "inferred")
BEFORE = 3  # lines before a message, as the job that learns has them


@dataclass(frozen=True, slots=True)
class Source:
    """Who wrote the dialogues of a file, as the report says it."""

    file: str
    name: str
    written_by: str


SOURCES = (
    Source("phone_dialogues", "phones", "a hand that has not seen the code: what people type on phones"),
    Source("dialogues", "grammar", "the hand that wrote the rules; half of it held out while they were tuned"),
)


@dataclass(frozen=True, slots=True)
class Label:
    """What a turn shows of its user, or of somebody in their life (`about`). `is_plain`: a person would say that it is
    plainly stated. `also`: the key and the value that a strong model gives the same."""

    key: str
    value: str
    polarity: int
    kind: str = "explicit"
    about: str = "self"
    name: str = ""
    is_plain: bool = True
    also: tuple[str, str] | None = None

    @property
    def holds(self) -> bool:
        """Whether it is so, once it was said."""
        return self.polarity > 0 and self.kind != "ended"

    @property
    def values(self) -> list[str]:
        """What it may be called."""
        return [one for one in (self.value, self.name, self.also[1] if self.also is not None else "") if one]

    def is_learnt_by(self, piece: Evidence) -> bool:
        """Whether the evidence says the same: of the same kind of slot, the same value, and that it holds or not."""
        if piece.polarity != self.polarity or (piece.kind == "ended") != (self.kind == "ended"):
            return False
        keys = [(self.key, self.value), *([self.also] if self.also is not None else [])]
        is_kind = _category(piece.key, piece.value) in {_category(key, value) for key, value in keys}
        return is_kind and any(same_value(one, other) for one in names_of(piece) for other in self.values)


def names_of(piece: Evidence) -> list[str]:
    """What the evidence calls what it is about."""
    entity = (piece.entity.name, piece.entity.relation) if piece.entity is not None else ()
    return [one for one in (piece.value, *entity) if one]


def _category(key: str, value: str) -> str:
    """What kind of thing a key is about; `work.place` and `work.employer` are names for one, as are all the tastes."""
    slot = canonical(key, value)
    name = slot.key if slot is not None else key
    return name.partition(".")[0] if name != "interests.dislikes" else name


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: what the twin had said just before, what is to be learnt from it, and the values that must not
    be. `strong` and `traps` are what a strong and an obedient model would propose."""

    twin: str
    text: str
    expect: tuple[Label, ...]
    never: tuple[str, ...]
    strong: tuple[Mapping[str, Any], ...] = ()
    traps: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages of one user, a day apart."""

    id: str
    topic: str
    language: str
    turns: tuple[Turn, ...]

    def exchanges(self) -> list[Exchange]:
        """The messages as the job that learns has them."""
        lines: list[Line] = []
        found = []
        for number, turn in enumerate(self.turns):
            if turn.twin:
                lines.append(Line("twin", turn.twin))
            at = START + timedelta(days=number)
            message_id, session = f"{self.id}-{number}", f"s{number}"
            before = tuple(lines[-BEFORE:])
            found.append(Exchange("user", message_id, "main", session, at, turn.text, "I see.", before=before))
            lines.append(Line("user", turn.text))
        return found


def load(source: Source, folder: Path = DATA) -> list[Dialogue]:
    """The dialogues of one source; the first of each topic first, so that a part has all kinds."""
    proposed: dict[tuple[str, int], Any] = {}
    for line in (folder / "proposals.jsonl").read_text().splitlines():
        one = json.loads(line)
        proposed[one["id"], one["turn"]] = one
    lines = (folder / f"{source.file}.jsonl").read_text().splitlines()
    found = [_dialogue(json.loads(line), proposed) for line in lines]
    return sorted(found, key=lambda dialogue: int(dialogue.id.rpartition("-")[2]))


def _dialogue(received: Mapping[str, Any], proposed: Mapping[tuple[str, int], Any]) -> Dialogue:
    turns = []
    for number, turn in enumerate(received["turns"]):
        candidates = proposed.get((received["id"], number), {"strong": (), "traps": ()})
        strong, traps = tuple(candidates["strong"]), tuple(candidates["traps"])
        labels = _labels(turn["expect"], [one for one in strong if one["kind"] in LEARNABLE])
        turns.append(Turn(turn.get("twin", ""), turn["text"], labels, tuple(turn["never"]), strong, traps))
    return Dialogue(received["id"], received["topic"], received.get("language", "en"), tuple(turns))


def _labels(expected: Sequence[Mapping[str, Any]], strong: Sequence[Mapping[str, Any]]) -> tuple[Label, ...]:
    """The labels, each with what a strong model calls it: the author of both has put them in the same order."""
    paired = strong if len(strong) == len(expected) else [None] * len(expected)
    return tuple(
        Label(
            one["key"],
            one["value"],
            one["polarity"],
            one.get("kind", "explicit"),
            one.get("about", "self"),
            one.get("name", ""),
            one.get("plain", True),
            (same["key"], same["value"]) if same is not None else None,
        )
        for one, same in zip(expected, paired, strict=True)
    )


def languages(dialogues: Sequence[Dialogue]) -> str:
    """How many of them are in which languages, the commonest first."""
    counts: dict[str, int] = {}
    for dialogue in dialogues:
        counts[dialogue.language] = counts.get(dialogue.language, 0) + 1
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))

"""Public sets of conversations, as their authors publish them: LoCoMo, LongMemEval, PersonaChat, PrefEval, HaluMem.

None of them is part of this project; docs/evaluation.md says where they are and what their licences allow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class DatasetError(Exception):
    """The file cannot be evaluated; the text says why, for a person."""


@dataclass(frozen=True, slots=True)
class TalkLine:
    """What one side said in a conversation."""

    id: str
    conversation: str
    is_user: bool
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked later. Of each group of `evidence` one line is to be found. `kind` names the question's row."""

    text: str
    kind: str
    evidence: tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class Talk:
    """All that one user said with their twin, in order, and what is asked about it."""

    lines: tuple[TalkLine, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Lines of a user (with what the other side had said just before), and sentences that are true of them."""

    turns: tuple[tuple[str, str], ...]
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """What can be evaluated of a file: `talks` for what is found again, `told` for what is learnt."""

    name: str
    talks: tuple[Talk, ...] = ()
    claims: tuple[Claim, ...] = ()


def load(path: Path) -> Dataset:
    """The file's content; its format is recognised. Raises `DatasetError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
    if _PARLAI.match(text):
        return _parlai(text)
    content = _parsed(path, text)
    for fits, read in _FORMATS:
        if fits(content):
            try:
                found = read(content)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                name = read.__name__.removeprefix("_")
                raise DatasetError(f"{path} looks like {name}, and is not: {type(error).__name__} {error}") from None
            if not (found.talks or found.claims):
                break
            return found
    raise DatasetError(
        f"{path} is in none of the known formats: LoCoMo, LongMemEval, PrefEval (JSON), PersonaChat (JSON, or the text "
        "of ParlAI), HaluMem (JSON Lines). docs/evaluation.md says where to get them."
    )


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is neither JSON nor JSON Lines: {error}") from None


def _first(content: Any) -> Mapping[str, Any]:
    one = content[0] if isinstance(content, list) and content else content
    return one if isinstance(one, Mapping) else {}


def _listed(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


# -- our own


def months(path: Path) -> Dataset:
    """The project's own months of talk: a conversation a line, and last the questions with the lines that answer."""
    listed = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = tuple(
        TalkLine(f"{talk['conversation']}:{at}", talk["conversation"], side == "u", text)
        for talk in listed[:-1]
        for at, (side, text) in enumerate(talk["lines"])
    )
    questions = tuple(
        Question(text, "in the first person", tuple(frozenset([one]) for one in evidence))
        for text, evidence in listed[-1]["questions"]
    )
    return Dataset("months", (Talk(lines, questions),))


# -- LoCoMo


def _locomo(content: Any) -> Dataset:
    """Two people; each question is asked as published, and in the first person of whom it is about."""
    talks = []
    for sample in _listed(content):
        said = sample["conversation"]
        speakers = (said["speaker_a"], said["speaker_b"])
        sessions = sorted((int(name[8:]), lines) for name, lines in said.items() if re.fullmatch(r"session_\d+", name))
        for user, other in (speakers, speakers[::-1]):
            lines = tuple(
                TalkLine(line["dia_id"], str(number), line["speaker"] == user, line["text"])
                for number, session in sessions
                for line in session
                if line.get("text")
            )
            there = {line.id for line in lines}
            talks.append(Talk(lines, tuple(_locomo_questions(sample["qa"], user, other, there))))
    return Dataset("LoCoMo", tuple(talks))


def _locomo_questions(asked: Sequence[Any], user: str, other: str, there: set[str]) -> Iterator[Question]:
    for one in asked:
        text = str(one["question"])
        named = sorted((text.find(name), name) for name in (user, other) if name in text)
        ids = [found for part in one.get("evidence", ()) for found in re.findall(r"D\d+:\d+", str(part))]
        evidence = tuple(frozenset([one_id]) for one_id in dict.fromkeys(ids) if one_id in there)
        # Of category 5 are questions about what was never said.
        if not evidence or one.get("category") == 5 or not named or named[0][1] != user:
            continue
        yield Question(text, "as published, with names", evidence)
        yield Question(first_person(text, user, other), "in the first person", evidence)


def first_person(question: str, user: str, other: str) -> str:
    """The question as `user` would ask it of `other`."""
    name = re.escape(user)
    for pattern, mine in (
        (rf"\b{name}['’]s\b", "my"),
        (rf"\bis {name}\b", "am I"),
        (rf"\b{name} is\b", "I am"),
        (rf"\bdoes {name}\b", "do I"),
        (rf"\bhas {name}\b", "have I"),
        (rf"\b{name} has\b", "I have"),
        (rf"\b{name}\b", "I"),
        (rf"\b{re.escape(other)}['’]s\b", "your"),
        (rf"\b{re.escape(other)}\b", "you"),
    ):
        question = re.sub(pattern, mine, question)
    return question


# -- LongMemEval


def _longmemeval(content: Any) -> Dataset:
    """Each question has a history of its own, in which the lines with the answer are marked."""
    talks = []
    for one in _listed(content):
        lines, evidence = [], []
        for name, session in zip(one["haystack_session_ids"], one["haystack_sessions"], strict=True):
            for number, turn in enumerate(session):
                line = TalkLine(f"{name}:{number}", str(name), turn["role"] == "user", turn["content"])
                lines.append(line)
                if turn.get("has_answer"):
                    evidence.append(frozenset([line.id]))
        if evidence:  # the others ask for what was never said
            talks.append(Talk(tuple(lines), (Question(one["question"], one["question_type"], tuple(evidence)),)))
    return Dataset("LongMemEval", tuple(talks))


# -- PersonaChat

_PARLAI = re.compile(r"1 (?:your|partner's) persona: ")


def _personachat(content: Any) -> Dataset:
    """The one whose persona is told is the user; the sentences of the persona are what is true of them."""
    claims = []
    for dialogue in (one for part in content.values() if isinstance(part, list) for one in part):
        last = dialogue["utterances"][-1]
        said = [*last["history"], last["candidates"][-1]]
        turns = tuple(zip(said[::2], said[1::2], strict=False))
        claims.append(Claim(turns, tuple(dialogue["personality"])))
    return Dataset("PersonaChat", claims=tuple(claims))


def _parlai(text: str) -> Dataset:
    """The same as text: lines numbered anew in each dialogue, first the persona, then what is said and the reply."""
    claims: list[Claim] = []
    facts: list[str] = []
    turns: list[tuple[str, str]] = []
    for line in text.splitlines():
        number, _, rest = line.partition(" ")
        if number == "1" and (facts or turns):
            claims.append(Claim(tuple(turns), tuple(facts)))
            facts, turns = [], []
        if rest.startswith("your persona: "):
            facts.append(rest.removeprefix("your persona: "))
        elif "\t" in rest:
            before, reply = rest.split("\t")[:2]
            turns.append((before, reply))
    claims.append(Claim(tuple(turns), tuple(facts)))
    return Dataset("PersonaChat", claims=tuple(one for one in claims if one.turns))


# -- PrefEval


def _prefeval(content: Any) -> Dataset:
    """What people prefer, stated or shown in a conversation, and a question whose answer has to know of it."""
    claims, lines, questions = [], [], []
    for number, one in enumerate(_listed(content)):
        spoken = one.get("conversation")
        turns = [turn.get("user", "") for turn in spoken.values()] if isinstance(spoken, Mapping) else []
        said = [text for text in turns if text] or [one["preference"]]
        claims.append(Claim(tuple(("", text) for text in said), (one["preference"],)))
        ids = [f"{number}:{at}" for at in range(len(said))]
        lines += [TalkLine(name, str(number), True, text) for name, text in zip(ids, said, strict=True)]
        questions.append(Question(one["question"], "preference", (frozenset(ids),)))
    return Dataset("PrefEval", (Talk(tuple(lines), tuple(questions)),), tuple(claims))


# -- HaluMem


def _halumem(content: Any) -> Dataset:
    """Sessions with what is to be remembered of each; evidence is any line of the session that tells it."""
    talks, claims = [], []
    for user in _listed(content):
        lines: list[TalkLine] = []
        questions: list[tuple[Any, int]] = []
        tells: dict[str, frozenset[str]] = {}
        for number, session in enumerate(user["sessions"]):
            spoken = [
                TalkLine(f"{number}:{at}", str(number), turn["role"] == "user", turn["content"])
                for at, turn in enumerate(session["dialogue"])
            ]
            lines += spoken
            points = [point["memory_content"] for point in session.get("memory_points") or ()]
            tells |= dict.fromkeys(points, frozenset(line.id for line in spoken))
            before = ["", *(line.text for line in spoken)]
            turns = tuple((before[at], line.text) for at, line in enumerate(spoken) if line.is_user)
            claims.append(Claim(turns, tuple(points)))
            questions += [(one, number) for one in session.get("questions") or ()]
        talks.append(Talk(tuple(lines), tuple(_halumem_questions(questions, tells))))
    return Dataset("HaluMem", tuple(talks), tuple(claims))


def _halumem_questions(asked: Iterable[tuple[Any, int]], tells: Mapping[str, frozenset[str]]) -> Iterator[Question]:
    for one, _ in asked:
        groups = [tells.get(point["memory_content"]) for point in one.get("evidence") or ()]
        evidence = tuple(dict.fromkeys(group for group in groups if group))
        if evidence:
            yield Question(one["question"], str(one.get("question_type", "question")), evidence)


_FORMATS: Sequence[tuple[Callable[[Any], bool], Callable[[Any], Dataset]]] = (
    (lambda content: {"conversation", "qa"} <= _first(content).keys(), _locomo),
    (lambda content: {"haystack_sessions", "question"} <= _first(content).keys(), _longmemeval),
    (lambda content: {"sessions", "persona_info"} <= _first(content).keys(), _halumem),
    (lambda content: {"preference", "question"} <= _first(content).keys(), _prefeval),
    (lambda content: isinstance(content, Mapping) and bool({"train", "valid"} & content.keys()), _personachat),
)

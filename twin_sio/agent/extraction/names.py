"""Whether what a pattern found is a name: of a place, an employer, a school, a person.

Pure; the words are those of the clause's language.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from twin_sio.agent.extraction.clauses import Clause
from twin_sio.agent.extraction.languages import Language

_NAME_WORDS: Final = 4
_ARTICLES: Final = ("articles", "any_article", "indefinite")


def named(clause: Clause, begin: int, _: int, is_caseless: bool) -> str | None:
    """What bears a name: as far as its words have capitals; a writer who uses none is believed for two words."""
    cut = _end_of_name(clause, begin)
    words = clause.spelled[begin:cut].split()
    bare = words[:-1] if words and len(words) > 1 and clause.language.has("place_end", words[-1]) else words
    if not words or any(clause.language.has("not_place", word) for word in bare) or words[0].isdecimal():
        return None
    source = clause.source(begin, cut)
    if is_capitalized(source):
        parts = source.split()
        kept = list(takewhile(lambda part: is_capitalized(part) or clause.language.has("inside_name", part), parts))
        return source if len(kept) == len(parts) <= _NAME_WORDS else None
    is_short = len(words) <= (_NAME_WORDS - 1 if clause.language.has("place_heads", words[0]) else 2)
    return source if is_caseless and is_short else None


def place(clause: Clause, begin: int, end: int, is_caseless: bool) -> str | None:
    """A country or a region that is known, without its article; any other place as far as it bears a name."""
    language = clause.language
    cut = _end_of_name(clause, begin)
    words = clause.spelled[begin:cut].split()
    plain = without_article(language, words)
    if language.has("countries", " ".join(plain)) or language.has("regions", " ".join(plain)):
        return clause.source(begin + sum(len(word) + 1 for word in words[: len(words) - len(plain)]), cut)
    if len(plain) < len(words):
        return None
    return named(clause, begin, end, is_caseless)


def employer(clause: Clause, begin: int, end: int, is_caseless: bool) -> str | None:
    """A kind of workplace ("a hospital"), or a firm by its name; no country."""
    language = clause.language
    cut = _end_of_name(clause, begin)
    words = clause.spelled[begin:cut].split()
    plain, name = without_article(language, words), " ".join(words)
    start = begin + len(name) - len(" ".join(plain))
    if any(language.has("workplace", " ".join(plain[-n:])) for n in (1, 2, 3) if n <= len(plain)):
        bad = any(language.has("not_inside", word) or language.has("role_not", word) for word in plain)
        bad = bad or len(plain) > _NAME_WORDS or (len(plain) == 1 and language.has("vague_workplace", plain[0]))
        return None if bad else clause.source(start, cut)
    if any(language.has("not_employer", word) for word in plain):
        return None
    if any(language.has(places, " ".join(plain)) for places in ("countries", "regions")):
        return None
    return named(clause, start, end, is_caseless and start == begin)


def school(clause: Clause, begin: int, end: int) -> str | None:
    """A school, which its pattern has found by its last word."""
    words = clause.spelled[begin:end].split()
    return None if any(clause.language.has("not_place", word) for word in words[:-1]) else clause.source(begin, end)


def person(clause: Clause, begin: int, end: int, is_caseless: bool) -> str | None:
    """A person's name; of several words only with capitals, where its writer uses any."""
    cut = min(_end_of_name(clause, begin), end)
    words = clause.spelled[begin:cut].split()
    if not words or any(not is_name(clause.language, word) for word in words):
        return None
    source = clause.source(begin, cut)
    if all(map(is_capitalized, source.split())):
        return source
    return source if len(words) == 1 or is_caseless else None


def first_name(clause: Clause, begin: int, end: int, is_caseless: bool) -> str | None:
    """A name that is one beyond doubt: a usual one, or with a capital."""
    name = person(clause, begin, end, is_caseless)
    is_usual = name is not None and clause.language.has("first_names", name.casefold())
    return name if name and (is_usual or is_capitalized(name)) else None


def introduced(clause: Clause, begin: int, end: int, _: bool) -> str | None:
    """A name by which somebody introduces themselves: after a greeting, or a usual first name."""
    language = clause.language
    source = clause.source(begin, end)
    words = clause.spelled[begin:end].split()
    if not (clause.is_contiguous(0, end) and all(is_name(language, word) for word in words)):  # "I'm fine, Peter"
        return None
    if language.has("first_names", words[0]):
        return source if len(words) == 1 or all(map(is_capitalized, source.split())) else None
    known = any(language.has(name, words[0]) for name in ("job", "nationality", "faith", "diet", "countries"))
    return source if clause.is_greeted and not known and all(map(is_capitalized, source.split())) else None


def is_name(language: Language, word: str) -> bool:
    """Whether a word may be part of a person's name."""
    return len(word) > 1 and word.replace("-", "").replace("'", "").isalpha() and not language.has("not_name", word)


def is_capitalized(word: str) -> bool:
    """Whether it begins with a capital."""
    return word[:1].isupper()


def _end_of_name(clause: Clause, begin: int) -> int:
    """Where a name ends: at a comma, and at a word that goes on about something else."""
    at = begin
    for word in clause.spelled[begin:].split(" "):
        if word == "," or clause.language.has("after_name", word):
            return max(begin, at - 1)
        at += len(word) + 1
    return len(clause.spelled)


def without_article(language: Language, words: Sequence[str]) -> Sequence[str]:
    """The words without an article before them, unless there is nothing else."""
    return words[1:] if len(words) > 1 and any(language.has(name, words[0]) for name in _ARTICLES) else words

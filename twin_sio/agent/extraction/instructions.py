"""Whether a message gives an order about what is stored of its writer: a prompt injection. Pure; the words are in
`instructions.toml`.

It is looked for in the text and asks no model: a model that is talked into something is talked into it in every
question that it is asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

from twin_sio.agent.extraction.orders import THRESHOLD, looks_like_order
from twin_sio.agent.extraction.slots import table

_DATA: Final[dict[str, Any]] = table("instructions.toml")
_MARKS: Final = _DATA["marks"]
_WORDS: Final = {name: frozenset(words) for name, words in _DATA["words"].items()}
_SENTENCE: Final = re.compile(r"[^.!?;\n。！？]+")
_TOKEN: Final = re.compile(r"[\w'-]+")
_SPEAKER: Final = re.compile(r"^[^\w\n]{0,12}_{0,4}(\w[\w ]{0,30}?)\W?\s?[:>\]=]", re.MULTILINE)
_CODE: Final = re.compile(
    "|".join(
        (
            rf"(?<![^\W\d])(?:{'|'.join(sorted(map(re.escape, _MARKS['names'])))})\s{{0,3}}=(?!=)\s{{0,3}}\w",
            r"[^\W\d]\s{0,3}:=|[^\W\d]\s{0,3}=(?!=)\s{0,3}[\[{\"']",  # what no shorthand of people has
            r"(?<![\w.])\w{1,32}[._]\w{1,32}\s{0,3}=(?!=)",
            r"[^\W\d]=[^\s=;]{1,80};",
            r"<\w+[^<>]{0,80}=\s*[\"']|\w\([^()]{0,80}=\s*[\"']",
            r":\s?\w{1,32}\s?(?:>>|=>|→)|^[^\S\n]*>>>",
        )
    ),
    re.MULTILINE,
)
"""Code and data, as no one writes of himself: an assignment to what a record has, or in the form of a programming
language, a tag, a call with named arguments. "height = 170", "Monday=gym" and "Berlin → Rome" people write, too."""
_KEY: Final = re.compile(
    rf"(?<![\w.])(?:{'|'.join(sorted(table('keys.toml')['categories']))}|user|profile|memory|traits)\.[a-z_]+"
)
_HEADING: Final = re.compile(r"^[^\S\n]*#{2,}\s*\w", re.MULTILINE)
_SPACED_OUT: Final = re.compile(r"(?<!\w[ .*_-])(?<!\w)(?:\w[ .*_-]){4,}+\w?(?!\w)")
_INVISIBLE: Final = re.compile("[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]")
_PHRASE_WORDS: Final = 5


def _phrases(name: str, within: dict[str, Any]) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(_TOKEN.findall(phrase)) for phrase in within[name])


_PHRASES: Final = _phrases("phrases", _MARKS)
_NOUNS: Final = _phrases("nouns", _DATA["words"])
_ORDERS: Final = _phrases("orders", _DATA["words"])
_SPEAKERS: Final = frozenset(_MARKS["speakers"])


def is_instruction(text: str, threshold: float = THRESHOLD) -> bool:
    """Whether `text` asks that something be stored, set, changed or ignored, or plays a part in the protocol of a
    model: where it has the words of one, or looks like one from `threshold` on (`orders`). It takes as long as the text
    is."""
    plain = normalised(text)
    return has_words_of_one(plain) or looks_like_order(plain, threshold)


def has_words_of_one(plain: str) -> bool:
    """Whether a text (`normalised`) has the words of an instruction."""
    if any(mark in plain for mark in _MARKS["anywhere"]) or any(
        pattern.search(plain) for pattern in (_CODE, _KEY, _HEADING)
    ):
        return True
    if any(found[1].strip() in _SPEAKERS for found in _SPEAKER.finditer(plain)):
        return True
    return any(_orders(found[0]) for found in _SENTENCE.finditer(plain))


def normalised(text: str) -> str:
    """`text` without regard to case, to invisible signs, to the kinds of signs that look alike, and to what stands
    between the letters of "r e c o r d"."""
    plain = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold().replace("’", "'")
    return _SPACED_OUT.sub(lambda found: re.sub(r"[ .*_-]", "", found[0]) + " ", plain)


def _orders(sentence: str) -> bool:
    if any(verb in sentence for verb in _DATA["unspaced"]["verbs"]) and any(
        noun in sentence for noun in _DATA["unspaced"]["nouns"]
    ):
        return True
    words = _TOKEN.findall(sentence)
    has = _runs(words)
    if not has.isdisjoint(_PHRASES):
        return True
    if _has_order(words, _WORDS["verbs"]) and not has.isdisjoint(_NOUNS):
        return True
    if _has_order(words, _WORDS["overrides"]) and not has.isdisjoint(_ORDERS):
        return True
    return _commands(words)


def _runs(words: Sequence[str]) -> set[tuple[str, ...]]:
    """Every run of words that may be a phrase."""
    return {tuple(words[at : at + n]) for n in range(1, _PHRASE_WORDS + 1) for at in range(len(words) - n + 1)}


def _has_order(words: Sequence[str], verbs: frozenset[str]) -> bool:
    """Whether one of the verbs stands there without one who does it."""
    subjects = _WORDS["subjects"]
    return any(word in verbs and (at == 0 or words[at - 1] not in subjects) for at, word in enumerate(words))


def _commands(words: Sequence[str]) -> bool:
    """Whether a sentence begins like "change my name to"."""
    begin = next((at for at, word in enumerate(words) if word not in _WORDS["polite"]), len(words))
    if not (begin + 1 < len(words) and words[begin] in _WORDS["commands"]):
        return False
    if words[begin + 1] not in _WORDS["possessives"]:
        return False
    return not _WORDS["aims"].isdisjoint(words[begin + 2 : begin + 6])

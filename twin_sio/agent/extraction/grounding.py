"""Whether a value stands in the words of a text, in whatever form: with or without accents, apostrophes and capitals,
as another form of a word, written as one. Pure; of words, not of meanings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Final

from twin_sio.agent.extraction.slots import canonical

_STEM: Final = 3  # letters that forms of one word share at least
_JOINED_MAX: Final = 4  # words that may be written as one
_WORD: Final = re.compile(r"\d+|(?:[^\W\d]|[+#])+")  # "75mg" is a number and a unit, "75e" one with an ending
# Thai to Burmese, Khmer, kana, Han: written without spaces between words.
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


class Words:
    """The words of texts, which values are looked up in. They are taken apart when they are first looked at."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    @cached_property
    def plain(self) -> str:
        """The texts, as values are compared."""
        return " \n ".join(map(plain_text, self._texts))

    def have(self, word: str) -> bool:
        """Whether `word` is one of them, or stands in what is written without spaces between words."""
        return word in self._by_beginning.get(word[:_STEM], ()) or word in self._unspaced

    def have_form_of(self, word: str) -> bool:
        """Whether they have `word`, or another form of it."""
        return self.have(word) or any(_is_same_stem(word, other) for other in self._by_beginning.get(word[:_STEM], ()))

    @cached_property
    def _by_beginning(self) -> Mapping[str, Collection[str]]:
        """By their first letters, since only words that share these can be forms of one; what is short for another
        word, by the first letters of that as well."""
        found: dict[str, set[str]] = {}
        for word in set(_WORD.findall(self.plain)):
            found.setdefault(word[:_STEM], set()).add(word)
            for long in _long_forms(word):
                found.setdefault(long[:_STEM], set()).add(long)
        return found

    @cached_property
    def _unspaced(self) -> str:
        return " ".join(_UNSPACED.findall(self.plain))


def words_of(text: str) -> list[str]:
    """The words of a text, as they are compared."""
    return _WORD.findall(plain_text(text))


def stands_in(value: str, words: Words) -> bool:
    """Whether `value` stands in a text as it is, or word by word."""
    return plain_text(value) in words.plain or words_stand_in(value, words)


def words_stand_in(value: str, *said: Words) -> bool:
    """Whether the words of `value` stand in those of any text, in whatever form: each that is a name or a number, and
    half of the others."""
    named = _WORD.findall(value)
    parts = [_WORD.findall(plain_text(word)) for word in named]
    is_there = [any(words.have_form_of(part) for part in each for words in said) for each in parts]
    for begin in range(len(parts)):  # "New York City", written "newyorkcity"
        for end in range(begin + 2, min(begin + _JOINED_MAX, len(parts)) + 1):
            joined = "".join(chain(*parts[begin:end]))
            if any(words.have(joined) for words in said):
                is_there[begin:end] = [True] * (end - begin)
    missing = [word for word, there in zip(named, is_there, strict=True) if not there]
    # A name, or a number, is right or wrong: no form of it stands for another.
    if any(word[0].isupper() or not word.isalpha() for word in missing):
        return False
    return 2 * len(missing) <= len(named) and len(missing) < len(named)


def _is_same_stem(word: str, other: str) -> bool:
    """Whether two words may be forms of one ("run", "running")."""
    if min(len(word), len(other)) < _STEM or word.isdecimal():
        return word == other
    shared = next((n for n, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    return shared >= max(_STEM, (min(len(word), len(other)) + 1) // 2)


def _long_forms(word: str) -> Sequence[str]:
    """The words that `word` is short for ("ts")."""
    slot = canonical("any.thing", word)
    long = plain_text(slot.value) if slot is not None else word
    return _WORD.findall(long) if long != word else ()


def plain_text(text: str) -> str:
    """`text` as values are compared: without regard to case, accents, spacing and the kind of quotation marks."""
    return _with_places(_spelled(text))[0]


def bare_with_places(text: str) -> tuple[str, list[int]]:
    """`text` as quotes are compared, and for each of its characters where it stands in `text`: as `plain_text`, and
    without apostrophes, which models set where people leave them out."""
    return _with_places((at, one) for at, one in _spelled(text) if one != "'")


def _with_places(spelled: Iterable[tuple[int, str]]) -> tuple[str, list[int]]:
    plain: list[str] = []
    places: list[int] = []
    for at, character in spelled:
        if character.isspace():
            if not plain or plain[-1] == " ":
                continue
            character = " "
        plain.append(character)
        places.append(at)
    while plain and plain[-1] == " ":
        plain.pop()
        places.pop()
    return "".join(plain), places


_SAME: Final = {
    "’": "'",
    "‘": "'",
    "ʼ": "'",
    "′": "'",
    "`": "'",
    "´": "'",
    "“": '"',
    "”": '"',
    "„": '"',
    "«": '"',
    "»": '"',
    "–": "-",
    "—": "-",
}


def _spelled(text: str) -> Iterator[tuple[int, str]]:
    for at, character in enumerate(text):
        if character.isascii():
            yield at, character.lower()
        else:
            for one in unicodedata.normalize("NFKD", _SAME.get(character, character).casefold()):
                if not unicodedata.combining(one):
                    yield at, one

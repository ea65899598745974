"""The words of a text as they are searched for: stems without case and accents; numbers and names as they are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

from Stemmer import Stemmer

# Of scripts that put no spaces between words every two signs that follow each other count as one.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_PIECE: Final = re.compile(f"([{_UNSPACED}]+)|((?:(?![{_UNSPACED}])[^\\W_\u0900-\u0dff]|[\u0900-\u0dff])+)")
_WORD_CHARACTERS: Final = 40  # of a longer one, which is no word, the beginning

# Which language a word is of is not asked: it counts under its stem in each language of its script, so that a message
# in two languages is read as well as one in one. The range that a script begins and ends with, and its languages.
_SCRIPTS: Final[Sequence[tuple[str, str, Sequence[str]]]] = (
    ("a", "\u024f", ("english", "german", "spanish", "french")),
    ("\u0370", "\u03ff", ("greek",)),
    ("\u0400", "\u052f", ("russian",)),
    ("\u0530", "\u058f", ("armenian",)),
    ("\u0600", "\u06ff", ("arabic",)),
    ("\u0900", "\u097f", ("hindi",)),
    ("\u0b80", "\u0bff", ("tamil",)),
)


class Words:
    """Takes texts apart. For one thread at a time: a stemmer of the library has a state."""

    def __init__(self) -> None:
        # No cache: it would hold users' words for as long as the process lives.
        self._stemmers = [
            (first, last, [Stemmer(language, 0) for language in languages]) for first, last, languages in _SCRIPTS
        ]

    def of(self, texts: Sequence[str]) -> list[list[str]]:
        """The stems of each text, in the order of its words; a word with several has them one after the other."""
        known: dict[str, tuple[str, ...]] = {}
        return [[stem for _, stems in self._words(text, known) for stem in stems] for text in texts]

    def pieces(self, text: str) -> list[tuple[str, tuple[str, ...]]]:
        """Each word of the text, in lower case, and its stems; of scripts without spaces each run of signs."""
        return list(self._words(text, {}))

    def _words(self, text: str, known: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for match in _PIECE.finditer(unicodedata.normalize("NFKC", text).casefold()):
            unspaced, word = match.groups()
            if unspaced:
                yield unspaced, tuple(unspaced[at : at + 2] for at in range(max(1, len(unspaced) - 1)))
            elif len(word) > 1 or word.isdecimal():  # a single letter is what an apostrophe has cut off
                stems = known.get(word)
                if stems is None:
                    stems = known[word] = self._stems(word[:_WORD_CHARACTERS])
                yield word, stems

    def _stems(self, word: str) -> tuple[str, ...]:
        for first, last, stemmers in self._stemmers:
            if first <= word[0] <= last:
                stems = [_plain(stemmer.stemWord(word)) for stemmer in stemmers]
                return tuple(dict.fromkeys(stem for stem in stems if stem))
        return (_plain(word),)


def _plain(word: str) -> str:
    """Without accents: on phones they are left out as often as not."""
    if word.isascii():
        return word
    return "".join(sign for sign in unicodedata.normalize("NFKD", word) if not unicodedata.combining(sign))

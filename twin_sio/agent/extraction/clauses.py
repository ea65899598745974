"""The clauses of a message, each in its language, as its words are spelled there, and whether it is a plain statement.

Pure. It errs on one side: what may be a question, a daydream, a quotation, a joke or a game is no plain statement.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from twin_sio.agent.extraction.languages import Language, is_of, languages, spoken

LONGEST: Final = 4000
"""Characters of a message that are looked at: who writes more has pasted something."""

_WORDS_MAX: Final = 40  # of a clause; what goes on for longer is no plain statement
_CHARACTERS_MAX: Final = 300  # of a clause
_OPENERS_MAX: Final = 12  # "well, so, you know", one after the other
_SMALL: Final = 2  # small words from which on a sentence may be of two languages
_BESIDE_WORDS: Final = 4
_SENTENCES_MAX: Final = 150  # of a message
_SENTENCE_WORDS_MAX: Final = 200  # more is a list, or no prose

Stance = Literal["plain", "wish", "reported"]

# Runs of signs and of blanks are looked at from their beginning only: from each of their characters it would take the
# square of their length.
# A blank after its end may be missing ("chicken.I love it"): then a word with a capital follows, or "i", and a word
# comes before.
_SENTENCE_END: Final = re.compile(
    r"(?:(?<![.!?…])[.!?…]++[\"'”’»)]*+(?=\s|$)|(?<=[^\W\d_]{3})[.!?](?=(?:[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ']*|i(?:'?m|'?ve)?)\s)|[。！？]|\n+|;)"
)
_TOKEN: Final = re.compile(r"\w(?:[\w'’+#&/.@°:-]*[\w+#])?['’]?|[^\s\w]")
_QUOTED: Final = re.compile(
    r"\"[^\"]*(?:\"|$)|“[^”]*(?:”|$)|„[^“”]*(?:[“”]|$)|«[^»]*(?:»|$)|```.*?(?:```|$)|`[^`\n]*`|^[ \t]*>[^\n]*|"
    r"(?<!\w)['‘](?:[^'’\n]|(?<=\w)['’](?=\w))+['’](?!\w)",
    re.DOTALL | re.MULTILINE,
)
_IRONIC: Final = re.compile(r"(?<!\w)/s(?!\w)|[🙄😏🙃😜🤡]")
# Signs around a word that say nothing of it.
_SILENT: Final = frozenset("\"'“”„«»‘’*_`´")


class Word(NamedTuple):
    """A word as it is typed, without regard to case, and where it stands in the message. A sign is a word, too."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Clause:
    """A piece of a message, from `start` on.

    `spelled` are its words as its language spells them, one blank between two; `places` where each begins in it,
    `words` where each comes from. `is_greeted`: it follows a greeting; `is_elided`: it goes on about the subject of the
    one before.
    """

    start: int
    text: str
    language: Language
    stance: Stance
    spelled: str
    places: tuple[int, ...]
    words: tuple[Word, ...]
    is_greeted: bool
    is_elided: bool
    sentence: int

    def source(self, begin: int, end: int) -> str:
        """What `spelled[begin:end]` is in the message."""
        first = max(0, bisect_right(self.places, begin) - 1)
        words = self.words[first : bisect_right(self.places, end - 1, lo=first)]
        return self.text[words[0].start - self.start : words[-1].end - self.start] if words else ""

    def is_contiguous(self, begin: int, end: int) -> bool:
        """Whether the message has nothing but blanks between the words of `spelled[begin:end]`."""
        first, last = bisect_right(self.places, begin) - 1, bisect_right(self.places, end - 1)
        words = self.words[max(0, first) : last]
        gaps = (self.text[one.end - self.start : two.start - self.start] for one, two in pairwise(words))
        return not any(gap.strip() for gap in gaps)

    def part(self, *spans: tuple[int, int]) -> Clause:
        """A clause of these parts of it alone, as if nothing stood between them."""
        spelled, places, words = [], [], []
        length = 0
        for begin, end in spans:
            for at, place in enumerate(self.places):
                if begin <= place < end:
                    part = self.spelled[place:].partition(" ")[0]
                    spelled.append(part)
                    places.append(length)
                    words.append(self.words[at])
                    length += len(part) + 1
        return replace(self, spelled=" ".join(spelled), places=tuple(places), words=tuple(words))

    def after(self, words: str) -> Clause:
        """The clause behind words that were left out."""
        parts = words.split()
        places = [0]
        for part in parts:
            places.append(places[-1] + len(part) + 1)
        shift = places.pop()
        return replace(
            self,
            spelled=f"{words} {self.spelled}",
            places=(*places, *(place + shift for place in self.places)),
            words=(*[self.words[0]] * len(parts), *self.words),
        )


def clauses(text: str) -> tuple[Clause, ...]:
    """The clauses of a message in their order, but for those in no language that is covered."""
    text = text[:LONGEST]
    # Before the sentences are split: a quotation may hold several.
    quoted = [found.span() for found in _QUOTED.finditer(text)]
    sentences = [
        words
        for begin, end in _sentences(text)
        if 0 < len(words := [_word(found) for found in _TOKEN.finditer(text, begin, end)]) <= _SENTENCE_WORDS_MAX
    ][:_SENTENCES_MAX]
    sentences = _joined(sentences)
    # Of the whole message: a short sentence alone does not show its language.
    likely = spoken([word.text for words in sentences for word in words])
    found: list[Clause] = []
    is_greeted = False
    for number, words in enumerate(sentences):
        stop = sentences[number + 1][0].start if number + 1 < len(sentences) else len(text)
        sentence = _Sentence(text, words, text[words[0].start : stop], likely, quoted, number)
        # Whatever follows is part of the game.
        if sentence.is_play:
            break
        if sentence.takes_back:
            # "Just kidding" is about the sentence before, and about no other.
            found = [one for one in found if one.sentence != number - 1]
            continue
        pieces = list(sentence.clauses(is_greeted=is_greeted))
        found += pieces
        is_greeted = sentence.is_greeting
    return tuple(found)


def _joined(sentences: Sequence[list[Word]]) -> list[list[Word]]:
    """A sentence whose last word ends none goes on: "Every. Single. Day."."""
    found: list[list[Word]] = []
    for words in sentences:
        if found and any(one.has("unfinished", found[-1][-1].text) for one in languages()):
            found[-1] = [*found[-1], *words]
        else:
            found.append(words)
    return found


def _word(found: re.Match[str]) -> Word:
    return Word(found[0].replace("’", "'").lower(), found.start(), found.end())


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    for found in _SENTENCE_END.finditer(text):
        yield at, found.start()
        at = found.end()
    yield at, len(text)


class _Sentence:
    """A sentence, while it is taken apart. `raw` is it with the signs at its end."""

    def __init__(
        self,
        text: str,
        words: Sequence[Word],
        raw: str,
        likely: Language | None,
        quoted: Sequence[tuple[int, int]],
        number: int,
    ) -> None:
        self._text, self._words, self._raw, self._quoted, self._number = text, words, raw, quoted, number
        self._plain = [word.text for word in words]
        self._language = spoken(self._plain, likely) or likely
        self._joining = self._languages(_SMALL)  # "car" joins clauses in French
        self._spelled = {one.code: _spelled(one, words)[0] for one in self._languages()}
        self._asks = raw.rstrip(" \"'”’»)\n").endswith(("?", "？")) or "¿" in raw

    def _languages(self, least: int = 1) -> list[Language]:
        """Those of which it has at least so many small words, and its own."""
        return [
            one
            for one in languages()
            if one is self._language
            or sum(part in one.words["small"] for word in self._plain for part in one.spelled(word)) >= least
        ]

    @property
    def is_play(self) -> bool:
        """Whether it begins a game, or a task about another's text, that goes on to the end of the message."""
        return any(one.speech.play.match(self._spelled[one.code]) for one in self._languages())

    @property
    def takes_back(self) -> bool:
        """Whether it says that the one before was none in earnest."""
        return any(one.speech.taken_back.match(self._spelled[one.code]) for one in self._languages())

    @property
    def is_greeting(self) -> bool:
        """Whether it is nothing but a greeting."""
        return any(
            (found := one.greetings.match(spelled := _spelled(one, self._words)[0])) is not None
            and len(spelled.split()) <= len(found[0].split()) + 1
            for one in languages()
        )

    def clauses(self, *, is_greeted: bool) -> Iterator[Clause]:
        if _IRONIC.search(self._raw) or any(self._is_unreal(one) for one in self._languages()):
            return
        is_reported = any(one.speech.reported.search(self._spelled[one.code]) for one in self._languages())
        pieces = list(self._pieces())
        is_own = False
        for n, (words, follows) in enumerate(pieces):
            begin, end = words[0].start, words[-1].end
            language = spoken([word.text for word in words], self._language) or self._language
            if language is None or len(words) > _WORDS_MAX or end - begin > _CHARACTERS_MAX:
                is_own = False
                continue
            spelled, places, sources = _spelled(language, words)
            # "Well, you know, I ...": what begins a sentence and says nothing.
            opened = language.openers.match(spelled, 0, 80 * _OPENERS_MAX)
            cut = opened.end() if opened is not None else 0
            begins = spelled[cut:]
            is_elided = follows and begins.partition(" ")[0] in language.words["verbs"]
            asked = self._asks and (n == len(pieces) - 1 or language.speech.asks.match(begins) is not None)
            asked = asked or language.speech.asks.match(begins) is not None
            greets = is_greeted or language.greetings.match(spelled) is not None
            if language.subject and is_elided:
                kept = is_own
            else:
                kept, is_own = True, language.is_own(begins)
            if not begins or asked or not kept or self._is_cited(begin, end) or not is_of(language, begins):
                continue
            yield Clause(
                begin,
                self._text[begin:end],
                language,
                "reported" if is_reported else "wish" if language.speech.maybe.search(begins) else "plain",
                begins,
                tuple(place - cut for place in places if place >= cut),
                sources[len(places) - sum(place >= cut for place in places) :],
                greets,
                is_elided,
                self._number,
            )

    def _is_unreal(self, language: Language) -> bool:
        spelled, speech = self._spelled[language.code], language.speech
        return any(pattern.search(spelled) for pattern in (speech.unreal, speech.ironic))

    def _is_cited(self, begin: int, end: int) -> bool:
        """Whether `begin` to `end` has something in common with a quotation; those stand in their order."""
        after = bisect_right(self._quoted, begin, key=lambda span: span[1])
        return after < len(self._quoted) and self._quoted[after][0] < end

    def _pieces(self) -> Iterator[tuple[list[Word], bool]]:
        """The words of each clause, and whether it is joined to the one before."""
        piece: list[Word] = []
        follows = False
        for at, word in enumerate(self._words):
            if word.text in _SILENT:
                continue
            is_sign = not word.text[0].isalnum() and word.text not in ("&", ",")
            if is_sign or (word.text == "," and (self._asks or self._begins(at + 1))):
                if piece:
                    yield piece, follows
                piece, follows = [], word.text == ","
            elif piece and self._breaks(at) and not self._is_beside(piece, at):
                yield piece, follows
                piece, follows = [word], True
            elif piece or word.text != ",":
                piece.append(word)
        while piece and piece[-1].text == ",":
            piece.pop()
        if piece:
            yield piece, follows

    def _begins(self, at: int) -> bool:
        """Whether the words from `at` on begin a clause of their own."""
        for one in self._joining:
            skip = at
            while skip < len(self._plain) and self._plain[skip] in one.words["joins"]:
                skip += 1
            if skip < len(self._plain):
                first = one.spelled(self._plain[skip])[0]
                if first in one.words["subjects"] or first in one.words["verbs"] or first in one.words["always_break"]:
                    return True
        return False

    def _is_beside(self, piece: Sequence[Word], at: int) -> bool:
        """Whether the subject that follows stands beside another: "my wife and I"."""
        if at + 1 == len(self._plain) or len(piece) > _OPENERS_MAX + _BESIDE_WORDS:
            return False
        for one in self._joining:
            if self._plain[at] in one.words["joins"] and one.spelled(self._plain[at + 1])[0] in one.words["oneself"]:
                spelled = "".join(f"{part} " for each in piece for part in one.spelled(each.text))
                opened = one.openers.match(spelled)
                words = spelled[opened.end() if opened is not None else 0 :].split()
                is_alone = len(words) == 1 and len(piece) == 1 and piece[0] is self._words[0]
                is_named = is_alone or (words[:1] and words[0] in one.words["own"] and len(words) <= _BESIDE_WORDS)
                return bool(is_named) and one.words["verbs"].isdisjoint(words)
        return False

    def _breaks(self, at: int) -> bool:
        """Whether the word at `at` begins a clause, as "but" does, and "and" before a subject."""
        word = self._plain[at]
        for one in self._joining:
            if word in one.words["always_break"]:
                return True
            if at + 1 < len(self._plain):
                following = one.spelled(self._plain[at + 1])[0]
                if word in one.words["joins"] and (
                    following in one.words["subjects"] or following in one.words["verbs"]
                ):
                    return True
                if word in one.words["break_before_subject"] and following in one.words["subjects"]:
                    return True
        return False


def _spelled(language: Language, words: Sequence[Word]) -> tuple[str, list[int], tuple[Word, ...]]:
    parts: list[str] = []
    places: list[int] = []
    sources: list[Word] = []
    length = 0
    for word in words:
        if not word.text[0].isalnum() and word.text not in (",", "&"):
            continue
        for part in language.spelled(word.text):
            is_stressed = language.has("verbs", part) or language.has("adverbs", part)
            if is_stressed and parts and part == parts[-1]:  # "hate hate HATE mushrooms", "really really"
                continue
            parts.append(part)
            places.append(length)
            sources.append(word)
            length += len(part) + 1
    return " ".join(parts), places, tuple(sources)

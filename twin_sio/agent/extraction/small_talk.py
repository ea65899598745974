"""Which messages cannot hold a fact, by what can be seen without reading: they cost no call of a model. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from twin_sio.agent.extraction.slots import table
from twin_sio.domain import Exchange

_WORD: Final = re.compile(r"[\w'’]+")
_ASIDE: Final = re.compile(r"```.*?(?:```|\Z)|https?://\S+|^[ \t]*>[^\n]*", re.DOTALL | re.MULTILINE)
_LONGEST: Final = 4_000
_WORDS_MAX: Final = 4  # of a phrase of small talk


def _phrases() -> frozenset[str]:
    return frozenset(phrase for phrases in table("small_talk.toml").values() for phrase in phrases)


_SMALL_TALK: Final = _phrases()


def may_teach(exchange: Exchange) -> bool:
    """Whether a message may hold a fact: false where, code, links and quotations aside, it has no letter and no digit,
    or where it is small talk from end to end ("ok thanks"). Right after a question of the twin all that has a word may.
    """
    words = [word for word in _WORD.findall(_plain(exchange.text)) if word.strip("_'")]
    if not words:
        return False
    last = exchange.before[-1] if exchange.before else None
    if last is not None and last.role == "twin" and _asks(last.text):
        return True
    return not _is_small_talk(words)


def _asks(text: str) -> bool:
    return any(mark in text for mark in "?？؟")


def _is_small_talk(words: list[str]) -> bool:
    """Whether the words are phrases of small talk, one after the other."""
    at = 0
    while at < len(words):
        taken = next(
            (
                n
                for n in range(_WORDS_MAX, 0, -1)
                if " ".join(words[at : at + n]) in _SMALL_TALK and at + n <= len(words)
            ),
            0,
        )
        if not taken:
            return False
        at += taken
    return True


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", _ASIDE.sub(" ", text[:_LONGEST])).casefold().replace("’", "'")
    return re.sub(r"(\w)\1{2,}", r"\1\1", text)  # "sooo", "hahahaaa"

"""What a model thinks before it answers, where a server leaves that in the text. Pure."""

from __future__ import annotations

import re
from typing import Final

from twin_sio.agent.model.call_forms import Call
from twin_sio.agent.model.harmony import BEGINS, Harmony

# How models mark what they think.
_MARKS: Final = tuple(
    (begin, re.compile(re.escape(end), re.IGNORECASE))
    for begin, end in (
        ("<think>", "</think>"),
        ("<thinking>", "</thinking>"),
        ("<thought>", "</thought>"),
        ("<reasoning>", "</reasoning>"),
        ("<seed:think>", "</seed:think>"),
        ("[think]", "[/think]"),
        ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    )
)
_BEGINS: Final = (*(begin for begin, _ in _MARKS), *BEGINS)
_LONGEST_MARK: Final = 30


class Head:
    """Tells the reasoning at the head of a text from what comes after it."""

    def __init__(self) -> None:
        self.reasoned = False
        self.thought = ""
        """The reasoning so far; the reader may empty it."""
        self.calls: list[Call] = []
        """Calls of tools amid it; the reader empties it."""
        self.is_over = False
        """All that comes from now on is text."""
        self._held = ""
        self._harmony: Harmony | None = None
        self._close: re.Pattern[str] | None = None  # the mark that ends the reasoning

    def take(self, text: str) -> str:
        """What of the text so far is no reasoning; empty while that cannot be told."""
        if self._harmony is not None:
            return self._from(self._harmony, self._harmony.take(text))
        self._held += text
        while True:
            if self._close is not None:
                if (place := self._close.search(self._held)) is None:
                    self.thought += self._held[:-_LONGEST_MARK]
                    self._held = self._held[-_LONGEST_MARK:]
                    return ""
                self.thought += self._held[: place.start()]
                self._held, self._close = self._held[place.end() :], None
            head = self._held.lstrip()
            if not head:
                self._held = self._held[-_LONGEST_MARK:]
                return ""
            low = head[:_LONGEST_MARK].lower()
            opened = next(((begin, end) for begin, end in _MARKS if low.startswith(begin)), None)
            if opened is None:
                if any(begin.startswith(low) for begin in _BEGINS):
                    return ""
                text, self._held = (head if self.reasoned else self._held), ""
                if low.startswith(BEGINS):
                    self.reasoned, self._harmony = True, Harmony()
                    return self._from(self._harmony, self._harmony.take(head))
                self.is_over = True
                return text
            self.reasoned = True
            self._held, self._close = head[len(opened[0]) :], opened[1]

    def end(self) -> str:
        """What was held back and is text after all."""
        if self._harmony is not None:
            return self._from(self._harmony, self._harmony.end())
        return "" if self._close else self._held

    def _from(self, harmony: Harmony, text: str) -> str:
        self.thought += harmony.thought
        self.calls += harmony.calls
        harmony.thought = ""
        harmony.calls.clear()
        self.is_over = harmony.is_over
        return text


def without_reasoning(text: str) -> str:
    """A whole text without the reasoning at its head, also where that has lost its first mark."""
    head = Head()
    text = head.take(text) + head.end()
    for _, close in _MARKS if not head.reasoned else ():
        if places := list(close.finditer(text)):
            return text[places[-1].end() :]
    return text

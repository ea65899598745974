"""What a reasoning model thinks before it answers (`<think>` … `</think>`), where a server has no reasoning parser and
leaves that in the text. Pure."""

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
_OPEN: Final = re.compile("|".join(re.escape(begin) for begin, _ in _MARKS), re.IGNORECASE)
_CLOSE: Final = re.compile("|".join(close.pattern for _, close in _MARKS), re.IGNORECASE)
_CLOSING: Final = re.compile("/[trsTRS]")  # which every last mark holds, and few other texts
_QUOTES: Final = frozenset("`\"'")
_BEGINS: Final = (*(begin for begin, _ in _MARKS), *BEGINS)
_LONGEST_MARK: Final = 30
_WITHHELD_MAX: Final = 256 * 1024  # characters; what goes on for longer without its mark is text


class Head:
    """Tells the reasoning at the head of a text from what comes after it."""

    def __init__(self, *, unmarked: bool = False) -> None:
        """`unmarked`: it begins with reasoning whose first mark is missing."""
        self.reasoned = False
        self.thought = ""
        """The reasoning so far; the reader may empty it."""
        self.calls: list[Call] = []
        """Calls of tools amid it; the reader empties it."""
        self.is_over = False
        """All that comes from now on is text."""
        self.found_unmarked = False
        """Reasoning has ended that no mark had begun."""
        self._unmarked = unmarked
        self._withheld_characters = 0
        self._withheld: list[str] | None = None  # what is text after all if no mark ends it
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
                if (place := self._end_of_thoughts(self._close)) is None:
                    self._think(self._held[:-_LONGEST_MARK])
                    self._held = self._held[-_LONGEST_MARK:]
                    return self.end() if self._withheld_characters > _WITHHELD_MAX else ""
                self._think(self._held[: place.start()])
                self._held, self._close = self._held[place.end() :], None
                self.found_unmarked = self.found_unmarked or self._withheld is not None
                self._withheld = None
            head = self._held.lstrip()
            if not head:
                self._held = self._held[-_LONGEST_MARK:]
                return ""
            low = head[:_LONGEST_MARK].lower()
            opened = next(((begin, end) for begin, end in _MARKS if low.startswith(begin)), None)
            if opened is None:
                if any(begin.startswith(low) for begin in _BEGINS):
                    return ""
                if self._unmarked and not self.reasoned and not low.startswith(BEGINS):
                    self.reasoned, self._withheld, self._close = True, [], _CLOSE
                    continue
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
        if self._withheld is not None:
            text = "".join(self._withheld) + self._held
            self.is_over, self._withheld, self._close, self._held = True, None, None, ""
            return text
        return "" if self._close else self._held

    def _end_of_thoughts(self, close: re.Pattern[str]) -> re.Match[str] | None:
        """The mark that ends them. Where that was not to be known by a first one, they may also speak of it."""
        for place in close.finditer(self._held):
            before, behind = self._held[: place.start()], self._held[place.end() :]
            if self._withheld is None or not (_is_quoted(before, behind) or (before[-1:] in _QUOTES and not behind)):
                return place
        return None

    def expect_marks(self) -> None:
        """The server tells reasoning from text after all."""
        self._unmarked = False

    def _think(self, text: str) -> None:
        self.thought += text
        if self._withheld is not None:
            self._withheld.append(text)
            self._withheld_characters += len(text)

    def _from(self, harmony: Harmony, text: str) -> str:
        self.thought += harmony.thought
        self.calls += harmony.calls
        harmony.thought = ""
        harmony.calls.clear()
        self.is_over = harmony.is_over
        return text


class LoneClosingTag:
    """Finds the mark that ends reasoning which no mark has begun, in a text that is shown meanwhile."""

    def __init__(self) -> None:
        self.found = False
        self.thought = ""
        """Once it is found: all that stood before it."""
        self._texts: list[str] = []
        self._held = ""  # with a mark, behind which nothing came so far

    def take(self, text: str) -> str:
        """What of the next piece is text: all of it, or what stands behind the mark. Once that is found, no more is to
        be given."""
        if not self._held and ">" not in text and "]" not in text and "\u25b7" not in text:  # for every token
            self._texts.append(text)
            return text
        text, self._held = self._held + text, ""
        recent = "".join(self._texts[-_LONGEST_MARK:])[-_LONGEST_MARK:] + text
        if _CLOSING.search(recent) and _CLOSE.search(recent):
            said = "".join(self._texts) + text
            for mark in _CLOSE.finditer(said, len(said) - len(recent)):
                ends = _ends_reasoning(said, mark)
                if ends:
                    self.found, self.thought = True, said[: mark.start()]
                    return said[mark.end() :].lstrip()
                if ends is None:
                    self._held = text
                    return ""
        self._texts.append(text)
        return text

    def end(self, *, has_calls: bool) -> str:
        """What was held back and is text after all: a text that ends in a mark speaks of it, unless it calls tools."""
        held, self._held = self._held, ""
        if not (held and has_calls):
            return held
        said = "".join(self._texts) + held
        self.found, self.thought = True, said[: [*_CLOSE.finditer(said)][-1].start()]
        return ""


def _ends_reasoning(said: str, mark: re.Match[str]) -> bool | None:
    """Whether a mark ends what was said before it, and is not spoken of: it stands at an end of a line. None while
    nothing stands behind it."""
    before, behind = said[: mark.start()], said[mark.end() :]
    if before.count("```") % 2 or _OPEN.search(before):
        return False
    if not behind.strip():
        return None
    if _is_quoted(before, behind):
        return False
    return before.rstrip(" \t")[-1:] in ("", "\n") or behind.lstrip(" \t")[0] in "\r\n"


def _is_quoted(before: str, behind: str) -> bool:
    return before[-1:] in _QUOTES and behind[:1] == before[-1:]


def without_reasoning(text: str) -> str:
    """A whole text without the reasoning at its head, also where that has lost its first mark."""
    head = Head()
    text = head.take(text) + head.end()
    for _, close in _MARKS if not head.reasoned else ():
        if places := list(close.finditer(text)):
            return text[places[-1].end() :]
    return text

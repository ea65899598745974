"""Calls of tools that a model has written into its text, where a server leaves them there. Pure.

A server without a tool-call parser for what its model is trained to write (`call_forms`) passes that on as text. A
mark counts where a call follows it, and not in quotes: a model may speak of it. An answer without a mark is a call
where all of it is calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from twin_sio.agent.model.call_forms import MARKS, Call, begins, begins_unmarked, calls_in, unfinished, unmarked_calls
from twin_sio.agent.model.calls import MAX_ARGUMENTS_CHARACTERS
from twin_sio.agent.model.failures import Failed

_ENDS: Final = tuple(end for end in MARKS.values() if end)
_BEGIN: Final = re.compile("|".join(map(re.escape, MARKS)))
_QUOTES: Final = frozenset("`\"'")
_BLANKS_MAX: Final = 200  # at the end of a line, before what may become a mark; more of them are text


class WrittenCalls:
    """Tells the calls in a text from the rest of it."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """`tools`: those that it was offered, as the API has them."""
        self.found: list[Call] = []
        """Calls; the reader empties it."""
        self._tools = tools
        self._names = [str((tool.get("function") or {}).get("name")) for tool in tools]
        self._is_unmarked: bool | None = None  # it begins with a call without a mark; None: that cannot be told yet
        self._held = ""  # what may be the beginning of a mark, with the end of a line before it; or of a call
        self._mark = ""  # what has begun the call that is being written
        self._searched = 0  # characters of a call in which no end was found
        self._last = ""  # the last character that was text
        self._is_behind = False  # a call has ended, and only blanks came since

    def take(self, text: str) -> str:
        """What of the text so far is no call; empty while that cannot be told. Raises `Failed` for one that is too
        long."""
        self._held += text
        if self._is_unmarked is None:
            self._is_unmarked = begins_unmarked(self._held, self._names)
        if self._is_unmarked is not False and len(self._held) <= MAX_ARGUMENTS_CHARACTERS:
            return ""
        self._is_unmarked = False
        shown = ""
        while True:
            if self._mark:
                if not self._end_call():
                    return shown
                continue
            if self._is_behind and self._drop_stray():
                return shown
            found = _BEGIN.search(self._held)
            if found is None:
                return shown + self._cut(len(self._held) - _doubtful(self._held))
            begin, mark = found.start(), found[0]
            before = self._held[begin - 1] if begin else self._last
            is_call = before not in _QUOTES and begins(mark, self._held[found.end() :], self._names)
            if is_call is False:
                shown += self._cut(found.end())
                continue
            shown += self._cut(len(self._held[:begin].rstrip()))
            if is_call is None:
                return shown
            self._held, self._mark, self._searched = self._held.lstrip(), mark, 0

    def end(self) -> str:
        """What was held back and is text after all. A call whose last mark is missing is a call."""
        if self._is_unmarked is not False:
            self.found += unmarked_calls(self._held) if self._is_unmarked else []
            self._is_unmarked, held = False, self._held
            self._held = ""
            return "" if self.found else self.take(held) + self.end()
        if not self._mark:
            return self._cut(len(self._held))
        self._add(self._held)
        self._held, self._mark = "", ""
        return ""

    def _end_call(self) -> bool:
        """Whether the call that is being written ends in what is there."""
        mark = MARKS[self._mark]
        place = self._held.find(mark, self._searched) if mark else -1
        if place < 0:
            if len(self._held) > MAX_ARGUMENTS_CHARACTERS:
                raise Failed(again=False)
            self._searched = max(0, len(self._held) - len(mark))
            return False
        self._add(self._held[:place])
        self._held, self._mark, self._is_behind = self._held[place + len(mark) :], "", True
        return True

    def _drop_stray(self) -> bool:
        """Drop the marks behind a call that end none; whether more of one may be to come."""
        while True:
            behind = self._held.lstrip()
            stray = next((mark for mark in _ENDS if behind.startswith(mark)), None)
            if stray is None:
                return bool(behind) and any(mark.startswith(behind) for mark in _ENDS)
            self._held = behind[len(stray) :]

    def _cut(self, size: int) -> str:
        """So many characters of what is held, as text: what goes on behind a call is a paragraph of its own."""
        text, self._held = self._held[:size], self._held[size:]
        if self._is_behind:
            text = text.lstrip()
            if text:
                text, self._is_behind = f"\n\n{text}" if self._last else text, False
        self._last = text[-1:] or self._last
        return text

    def _add(self, written: str) -> None:
        # The mark of one function is its beginning, too.
        body = written if written.startswith("<function=") else written[len(self._mark) :]
        self.found += calls_in(body, self._tools)


def _doubtful(text: str) -> int:
    """How many of its last characters may begin a mark, with the end of a line before them."""
    size = unfinished(text, MARKS)
    stem = text[: len(text) - size]
    blanks = stem[len(stem.rstrip()) :]
    return size + len(blanks) if "\n" in blanks and len(blanks) <= _BLANKS_MAX else size

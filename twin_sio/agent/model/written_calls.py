"""Calls of tools that a model has written into its text, where a server leaves them there. Pure.

Qwen, Hermes and those trained alike write `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, and a server
without a parser for it passes that on as text. The mark counts where an object follows it, and not in quotes: a model
may speak of it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from twin_sio.agent.model.calls import MAX_ARGUMENTS_CHARACTERS
from twin_sio.agent.model.failures import Failed

_BEGIN: Final = "<tool_call>"
_END: Final = "</tool_call>"
_QUOTES: Final = frozenset("`\"'")
_BLANKS_MAX: Final = 200  # at the end of a line, before what may become a mark; more of them are text
_NAME: Final = re.compile(r'"name"\s*:\s*"([^"\\\s]{1,64})"')
_NAMELESS: Final = "unknown"  # the model is told that there is no such tool


class WrittenCalls:
    """Tells the calls in a text from the rest of it."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        """Calls, as the API has them; the reader empties it."""
        self._held = ""  # what may be the beginning of a mark, with the end of a line before it; or of a call
        self._is_call = False
        self._searched = 0  # characters of a call in which no end was found
        self._last = ""  # the last character that was text
        self._is_behind = False  # a call has ended, and only blanks came since

    def take(self, text: str) -> str:
        """What of the text so far is no call; empty while that cannot be told. Raises `Failed` for one that is too
        long."""
        self._held += text
        shown = ""
        while True:
            if self._is_call:
                if not self._end_call():
                    return shown
                continue
            begin = self._held.find(_BEGIN)
            if begin < 0:
                return shown + self._cut(len(self._held) - _doubtful(self._held))
            behind = self._held[begin + len(_BEGIN) :].lstrip()
            before = self._held[begin - 1] if begin else self._last
            if before in _QUOTES or (behind and behind[0] not in "{["):
                shown += self._cut(begin + len(_BEGIN))
                continue
            shown += self._cut(len(self._held[:begin].rstrip()))
            if not behind:
                return shown
            self._held, self._is_call, self._searched = behind, True, 0

    def end(self) -> str:
        """What was held back and is text after all. A call whose last mark is missing is a call."""
        if not self._is_call:
            return self._cut(len(self._held))
        self._add(self._held)
        self._held, self._is_call = "", False
        return ""

    def _end_call(self) -> bool:
        """Whether the call that is being written ends in what is there."""
        place = self._held.find(_END, self._searched)
        if place < 0:
            if len(self._held) > MAX_ARGUMENTS_CHARACTERS:
                raise Failed(again=False)
            self._searched = max(0, len(self._held) - len(_END))
            return False
        self._add(self._held[:place])
        self._held, self._is_call, self._is_behind = self._held[place + len(_END) :], False, True
        return True

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
        try:
            read = json.loads(written, strict=False)
        except (ValueError, RecursionError):
            name = _NAME.search(written)
            # As arguments they are refused, and the model is told why.
            self._call(name[1] if name else _NAMELESS, written.strip())
            return
        for one in read if isinstance(read, list) else [read]:
            call = one.get("function", one) if isinstance(one, dict) else {}
            call = call if isinstance(call, dict) else {}
            self._call(call.get("name"), call.get("arguments", call.get("parameters")))

    def _call(self, name: object, arguments: object) -> None:
        named = name if isinstance(name, str) and name else _NAMELESS
        self.found.append({"function": {"name": named, "arguments": arguments}})


def _doubtful(text: str) -> int:
    """How many of its last characters may begin a mark, with the end of a line before them."""
    size = next((n for n in range(min(len(_BEGIN) - 1, len(text)), 0, -1) if text.endswith(_BEGIN[:n])), 0)
    stem = text[: len(text) - size]
    blanks = stem[len(stem.rstrip()) :]
    return size + len(blanks) if "\n" in blanks and len(blanks) <= _BLANKS_MAX else size

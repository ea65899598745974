"""What gpt-oss writes, where a server leaves it as it is: messages in channels. Pure.

Each is a header up to `<|message|>` and a body. `analysis` is thought, `final` the answer; `commentary` is text, unless
its header has `to=`: then it is a call.
"""

from __future__ import annotations

import re
from typing import Final

from twin_sio.agent.model.call_forms import Call, unfinished
from twin_sio.agent.model.calls import MAX_ARGUMENTS_CHARACTERS
from twin_sio.agent.model.failures import Failed

BEGINS: Final = ("<|channel|>", "<|start|>")
_BODY: Final = "<|message|>"
_ENDS: Final = ("<|end|>", "<|call|>", "<|return|>", *BEGINS)
_END: Final = re.compile("|".join(map(re.escape, _ENDS)))
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")
_TO: Final = re.compile(r"\bto=(?:functions\.)?([\w.-]{1,64})")
_OF_OTHERS: Final = re.compile(r"<\|start\|>\s*(?!assistant\b)\w")
_HEADER_MAX: Final = 300  # characters; what goes on for longer is none


class Harmony:
    """Reads the messages from their first mark on, up to the final one: all that comes behind its header is text."""

    def __init__(self) -> None:
        self.thought = ""
        """The reasoning so far; the reader may empty it."""
        self.calls: list[Call] = []
        """Calls; the reader empties it."""
        self.is_over = False
        self._held = ""
        self._channel = ""  # empty: a header is read
        self._called = ""
        self._arguments = ""
        self._has_begun = False  # a header was read
        self._has_spoken = False
        self._is_apart = False  # the next text is a paragraph of its own

    def take(self, text: str) -> str:
        """The text that it adds."""
        self._held += text
        shown = ""
        while self._held and not self.is_over:
            if not self._channel:
                if not self._take_header():
                    break
            elif self._channel == "final":
                self.is_over = True
            else:
                found = _END.search(self._held)
                size = found.start() if found else len(self._held) - unfinished(self._held, _ENDS)
                shown += self._said(self._held[:size])
                self._held = self._held[size:]
                if found is None:
                    break
                self._end_body()
        if self.is_over:
            shown += self._spoken(self._held.lstrip() if self._is_apart else self._held)
            self._held = ""
        return shown

    def end(self) -> str:
        """What was held back and is text after all."""
        text = ""
        if self._channel:
            text = self._said(self._held)
            self._end_body()
        elif not self._has_begun:
            text = self._held
        self._held = ""
        return text

    def _take_header(self) -> bool:
        """Whether there is a header to be read, or none can come."""
        self._held = self._held.lstrip()
        place = self._held.find(_BODY)
        if place < 0 or place > _HEADER_MAX:
            self.is_over = len(self._held) > _HEADER_MAX
            return self.is_over
        header, self._held = self._held[:place], self._held[place + len(_BODY) :]
        self._has_begun = True
        channel, to = _CHANNEL.search(header), _TO.search(header)
        self._called, self._channel = "", channel[1] if channel else "final"
        if _OF_OTHERS.match(header):  # it has made a result up
            self._channel = "analysis"
        elif to:
            self._called, self._channel = to[1], "commentary"
        return True

    def _said(self, text: str) -> str:
        if self._called:
            self._arguments += text
            if len(self._arguments) > MAX_ARGUMENTS_CHARACTERS:
                raise Failed(again=False)
        elif self._channel == "analysis":
            self.thought += text
        else:
            return self._spoken(text)
        return ""

    def _spoken(self, text: str) -> str:
        self._has_spoken = self._has_spoken or bool(text.strip())
        if text and self._is_apart:
            text, self._is_apart = f"\n\n{text}", False
        return text

    def _end_body(self) -> None:
        if self._called:
            self.calls.append({"function": {"name": self._called, "arguments": self._arguments.strip()}})
        elif self._channel != "analysis":
            self._is_apart = self._has_spoken
        self._channel = self._called = self._arguments = ""
        if not self._held.startswith(BEGINS):
            self._held = _END.sub("", self._held, count=1)

"""Text from elsewhere on a terminal: shown, never obeyed."""

from __future__ import annotations

import re
from typing import Protocol

# C0 (without tab and newline), DEL and C1: what begins an escape sequence, moves the cursor, sets title or clipboard.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """The text with U+FFFD for each control character; a line may end in CR LF."""
    return _CONTROL.sub(_REPLACEMENT, text.replace("\r\n", "\n"))


class Output(Protocol):
    """Where a command prints to."""

    def write(self, text: str, /) -> int:
        """Write the text."""
        ...

    def flush(self) -> None:
        """Hand on what is held."""
        ...


class PrintableStream:
    """A stream that a terminal may stand behind: what is written to it leaves as `printable` text.

    `as_json`: JSON is written to it, where a control character becomes its escape, so that the value stays the same.
    """

    def __init__(self, stream: Output, *, as_json: bool = False) -> None:
        self._stream = stream
        self._as_json = as_json

    def write(self, text: str, /) -> int:
        """Write, and return how many characters were taken: all."""
        shown = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text) if self._as_json else printable(text)
        self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """Hand on what the stream behind holds."""
        self._stream.flush()

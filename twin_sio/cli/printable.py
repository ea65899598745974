"""Text from elsewhere on a terminal: shown, never obeyed."""

from __future__ import annotations

import re
import sys
from io import TextIOWrapper
from typing import Protocol

# C0 (without tab and newline), DEL and C1: what begins an escape sequence, moves the cursor, sets title or clipboard.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """The text with U+FFFD for each control character; a line may end in CR LF."""
    return _CONTROL.sub(_REPLACEMENT, text.replace("\r\n", "\n"))


def take_any_encoding() -> None:
    """From now on the standard streams replace what their encoding does not have, and never fail of it."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


class Output(Protocol):
    """Where a command prints to."""

    def write(self, text: str, /) -> int:
        """Write the text."""
        ...

    def flush(self) -> None:
        """Write what is held."""
        ...


class PrintableStream:
    """A stream that a terminal may stand behind: what is written to it leaves as `printable` text.

    `as_json`: JSON is written to it, where a control character, and what the stream's encoding does not have, becomes
    its escape, so that the value stays the same.
    """

    def __init__(self, stream: Output, *, as_json: bool = False) -> None:
        self._stream = stream
        self._as_json = as_json

    def write(self, text: str, /) -> int:
        """Write, and return how many characters were taken: all."""
        shown = self._json(text) if self._as_json else printable(text)
        self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """Write what the stream behind holds."""
        self._stream.flush()

    def _json(self, text: str) -> str:
        escaped = _CONTROL.sub(_escape, text)
        try:
            escaped.encode(getattr(self._stream, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            return _NOT_ASCII.sub(_escape, escaped)
        return escaped


def _escape(found: re.Match[str]) -> str:
    """The character as JSON escapes it: in UTF-16, so one beyond its first plane is two escapes."""
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))

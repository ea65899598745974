"""Gathers the tokens of an answer into chunks, and what is said in several steps into paragraphs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable


def separator(before: str) -> str:
    """What stands between `before` and what is said in the next step."""
    return "" if not before or before.endswith("\n\n") else "\n\n"


def paragraphs(texts: Iterable[str]) -> str:
    """What was said in several steps, some of which may have said nothing."""
    whole = ""
    for text in filter(None, texts):
        whole += separator(whole) + text
    return whole


class ChunkBuffer:
    """Sends the first piece at once, and what comes after it at most once per interval."""

    def __init__(self, send: Callable[[str], None], interval_s: float, before: str = "") -> None:
        """What comes stands in a paragraph of its own behind `before`."""
        self._send = send
        self._interval_s = interval_s
        self._pieces: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._separator = separator(before)
        self._said: list[str] = []
        self.begun = False

    @property
    def text(self) -> str:
        """All that was sent."""
        return "".join(self._said)

    def add(self, text: str) -> None:
        self._pieces.append(text)
        if not self.begun or not self._interval_s:
            self.begun = True
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self.flush)

    def flush(self) -> None:
        """Send what is held."""
        text = "".join(self._pieces)
        self.drop()
        if text:
            self._said.append(text)
            self._send(self._separator + text)
            self._separator = ""

    def drop(self) -> None:
        """Forget what is held, and the timer."""
        self._pieces.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

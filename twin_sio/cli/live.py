"""An answer on a terminal while it is being written. Pure: text in, what to print out.

What is complete (lines, or blocks of Markdown) is printed once and scrolls away; the rest, unfinished, stays in the
live region above the prompt. An answer that begins anew (after a take-over) cannot be unprinted: what differs is
printed again, and said so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

RESTARTED = "(the answer begins anew)"

_SMALL = 2_000
"""Characters of unfinished text that are looked at again with every chunk."""


def complete_lines(text: str) -> list[str]:
    """The lines at the beginning of the text that have their end, each with it."""
    return [f"{line}\n" for line in text.split("\n")[:-1]]


@dataclass(slots=True)
class LiveAnswer:
    """`grow` takes the whole text so far and returns the pieces to print; `tail` is what stays in the live region.

    `complete`: the pieces at the beginning of an unfinished text that nothing that follows can change; together they
    are a beginning of that text.
    """

    complete: Callable[[str], list[str]] = complete_lines
    text: str = ""
    printed: int = 0
    looked_at: int = 0  # characters of the tail when nothing in it was complete

    @property
    def tail(self) -> str:
        return self.text[self.printed :]

    @property
    def has_begun(self) -> bool:
        return self.printed > 0

    def grow(self, text: str) -> list[str]:
        pieces = self._restart_where_needed(text)
        self.text = text
        tail = self.tail
        # A long piece is looked at again when it is an eighth longer: else its cost would grow with its square.
        if len(tail) > max(_SMALL, self.looked_at + self.looked_at // 8) or len(tail) <= _SMALL:
            found = self.complete(tail)
            self.printed += sum(map(len, found))
            self.looked_at = 0 if found else len(tail)
            pieces += [piece.removesuffix("\n") for piece in found]
        return pieces

    def finish(self, text: str) -> list[str]:
        """The pieces that are left once the final text is known."""
        pieces = self.grow(text)
        return [*pieces, self.tail] if self.tail else pieces

    def _restart_where_needed(self, text: str) -> list[str]:
        if text.startswith(self.text[: self.printed]):
            return []
        self.printed = self.looked_at = 0
        return [RESTARTED]

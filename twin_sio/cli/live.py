"""An answer on a terminal while it is being written. Pure: text in, lines out.

Lines that are complete are printed once and scroll away; the last, unfinished one stays in the live region above the
prompt. An answer that begins anew (after a take-over) cannot be unprinted: what differs is printed again, and said so.
"""

from __future__ import annotations

from dataclasses import dataclass

RESTARTED = "(the answer begins anew)"


@dataclass(slots=True)
class LiveAnswer:
    """`grow` takes the whole text so far and returns the lines to print; `tail` is what stays in the live region."""

    text: str = ""
    printed: int = 0

    @property
    def tail(self) -> str:
        return self.text[self.printed :]

    @property
    def has_begun(self) -> bool:
        return self.printed > 0

    def grow(self, text: str) -> list[str]:
        lines = self._restart_where_needed(text)
        end = text.rfind("\n") + 1
        if end > self.printed:
            lines += text[self.printed : end - 1].split("\n")
            self.printed = end
        self.text = text
        return lines

    def finish(self, text: str) -> list[str]:
        """The lines that are left once the final text is known."""
        lines = self.grow(text)
        return [*lines, self.tail] if self.tail else lines

    def _restart_where_needed(self, text: str) -> list[str]:
        if text.startswith(self.text[: self.printed]):
            return []
        self.printed = 0
        return [RESTARTED]

"""What a fault measured, what it may be at most, and at which size it is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.faults.record import Sum

T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """The full form, or the short one of the test suite."""

    full: bool
    seed: int = 1

    def pick(self, short: T, full: T) -> T:
        return full if self.full else short

    def within(self, seconds: float) -> float:
        """A bound of time. The short form shares its cores with other tests: there it only finds what hangs."""
        return seconds if self.full else max(10 * seconds, 5.0)


@dataclass
class Figures:
    """One line of figures. A fault passes when none of them is over its bound."""

    fault: str
    said: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def count(self, name: str, found: int, *, at_most: int | None = 0, exactly: int | None = None) -> None:
        """A number of things; `at_most=None` only notes it."""
        self.said.append(f"{name} {found}")
        if exactly is not None and found != exactly:
            self.broken.append(f"{name} {found}, not {exactly}")
        elif exactly is None and at_most is not None and found > at_most:
            self.broken.append(f"{name} {found} > {at_most}")

    def judge(self, total: Sum) -> None:
        """Nothing lost, doubled, out of order, other than the log has it, or joined to another text."""
        for name in ("lost", "doubled", "inverted", "false", "misjoined"):
            self.count(name, getattr(total, name))

    def time(self, name: str, found_s: float, *, at_most_s: float | None = None) -> None:
        """A duration in seconds."""
        shown = f"{found_s * 1000:.0f} ms" if found_s < 1 else f"{found_s:.2f} s"
        self.said.append(f"{name} {shown}")
        if at_most_s is not None and not found_s <= at_most_s:
            self.broken.append(f"{name} {shown} > {at_most_s:g} s")

    def holds(self, what: str, is_so: bool) -> None:
        """A condition; only said where it does not hold."""
        if not is_so:
            self.broken.append(f"not so: {what}")

    def note(self, text: str) -> None:
        self.said.append(text)

    @property
    def passed(self) -> bool:
        return not self.broken

    def __str__(self) -> str:
        line = f"{self.fault:<4} {'PASS' if self.passed else 'FAIL'}  {', '.join(self.said)}"
        return "\n      broken: ".join([line, *self.broken])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed; infinite where there are none."""
    if not values:
        return math.inf
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]

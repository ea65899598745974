"""How much was asked for in a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `amount` within any `per_s` seconds; 0: no bound. `name` keeps kinds of things apart."""

    name: str
    amount: int
    per_s: int


class Quotas(Protocol):
    """What may be asked for in a time, counted over all instances; while Redis is away, over this one alone.

    No method raises, and none waits longer than half a second.
    """

    async def take(self, quota: Quota, of: str) -> int | None:
        """Count one; None. Where that would be one too many nothing is counted: ms until it would not be."""
        ...

    async def spend(self, quota: Quota, of: str, amount: int) -> None:
        """Count `amount` that was used already, even past the bound. The window begins with the first amount."""
        ...

    async def retry_after_ms(self, quota: Quota, of: str) -> int | None:
        """None while less than the bound was spent; otherwise ms until the window ends."""
        ...

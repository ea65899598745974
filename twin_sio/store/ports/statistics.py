"""Counts of what was learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twin_sio.domain import Json


@dataclass(frozen=True, slots=True)
class Answers:
    """How many answers a user got up to a seq, and in how many the prompt held a trait. Failed ones do not count."""

    through_seq: int = 0
    count: int = 0
    using: int = 0


class Statistics(Protocol):
    """What was counted about each user's profile, and the sum over all. Numbers only, no text of anybody."""

    async def answers(self, user_id: str, epoch: int = 0) -> Answers:
        """The user's answers of this epoch as of now; those that were counted before are not read again."""
        ...

    async def put(
        self, user_id: str, at: datetime, counts: Json, answers: Answers, stamp: str | None, epoch: int = 0
    ) -> None:
        """Keep the counts; the user is due again with the next write of the profile, which had `stamp`."""
        ...

    async def due(self, before: datetime, limit: int) -> Sequence[str]:
        """Users whose profile was written since it was counted, or was counted last before `before`."""
        ...

    async def postpone(self, user_id: str) -> None:
        """Leave a user who could not be counted out of what is due for a while, each time for longer."""
        ...

    async def recompute_total(self) -> None:
        """Add all users up; for `total`."""
        ...

    async def total(self) -> Json:
        """The counts of all users, as they were when they were summed up last; empty before."""
        ...

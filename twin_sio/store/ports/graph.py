"""The graph of the profile, and the outbox that feeds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twin_sio.domain import Fact, Trait


class GraphUnavailable(Exception):
    """The graph could not be read or written; trying again is safe."""


class Facts(Protocol):
    """The graph of present and past facts. It may be lost, and built again. Every method raises `GraphUnavailable`."""

    async def read(self, user_id: str) -> Sequence[Fact]:
        """The user's facts, at most 1,000; reading creates no graph."""
        ...

    async def write(
        self, user_id: str, facts: Sequence[Fact], gone: Sequence[Fact], traits_gone: Sequence[str]
    ) -> None:
        """Write `facts` over those of the same id; delete `gone`, and `traits_gone`, which have no facts left."""
        ...

    async def erase(self, user_id: str) -> None:
        """Delete the user's graph."""
        ...


@dataclass(frozen=True, slots=True)
class Projection:
    """A version of a profile that has not been written to the graph."""

    user_id: str
    version: int
    at: datetime
    traits: tuple[Trait, ...]


class Outbox(Protocol):
    """What is still to be written to the graph: versions, stored in one transaction with the profile, and erasures."""

    async def due(self, limit: int) -> Sequence[str]:
        """Users with something that should be tried now."""
        ...

    async def take(self, user_id: str) -> Projection | None:
        """The user's oldest version, reserved for the caller for a minute; None where none is due."""
        ...

    async def done(self, projection: Projection) -> bool:
        """It was written to the graph; false where the user was erased since it was taken."""
        ...

    async def postpone(self, user_id: str, first_s: float, most_s: float) -> None:
        """Try the user again after `first_s`, the next time after twice that, up to `most_s`."""
        ...

    async def length(self) -> int:
        """How many versions wait, of all users; about."""
        ...

    async def erase(self, user_id: str, at: datetime) -> None:
        """The user's graph is to be deleted, and the versions up to `at`."""
        ...

    async def is_erasing(self, user_id: str) -> bool:
        """Whether the user was erased, and the graph still holds what it held before."""
        ...

    async def erasure(self, user_id: str) -> datetime | None:
        """The time of an erasure that is due; None where none is."""
        ...

    async def erased(self, user_id: str, at: datetime) -> None:
        """Mark the erasure as done. After the first pass it is due once more a minute later, to delete what a
        concurrent writer added."""
        ...

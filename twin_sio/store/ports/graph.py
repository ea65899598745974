"""The graph of the profile, and the outbox that feeds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twin_sio.domain import (
    Fact,
    Trait,
)


class GraphUnavailable(Exception):
    """The graph did not do as it was told; telling it again is safe."""


class Facts(Protocol):
    """The graph of what holds and what held. It may be lost, and made anew. All raise `GraphUnavailable`."""

    async def read(self, user_id: str) -> Sequence[Fact]:
        """All that is held of the user, at most 1,000; asking leaves nothing behind."""
        ...

    async def write(
        self, user_id: str, facts: Sequence[Fact], gone: Sequence[Fact], traits_gone: Sequence[str]
    ) -> None:
        """Hold `facts`, in the place of those of the same id; hold `gone`, and traits without facts, no longer."""
        ...

    async def erase(self, user_id: str) -> None:
        """Leave no graph of the user."""
        ...


@dataclass(frozen=True, slots=True)
class Projection:
    """A version of a profile that the graph has not been told."""

    user_id: str
    version: int
    at: datetime
    traits: tuple[Trait, ...]


class Outbox(Protocol):
    """What the graph has not been told: versions, written together with the profile's, and erasures."""

    async def due(self, limit: int) -> Sequence[str]:
        """Users with something that should be tried now."""
        ...

    async def take(self, user_id: str) -> Projection | None:
        """The user's oldest version, for the caller alone for a minute; None where none is, or it is not due."""
        ...

    async def done(self, projection: Projection) -> bool:
        """The graph was told; false where the user was erased since it was taken."""
        ...

    async def postpone(self, user_id: str, first_s: float, most_s: float) -> None:
        """Try the user again after `first_s`, the next time after twice that, up to `most_s`."""
        ...

    async def length(self) -> int:
        """How many versions wait, of all users; about."""
        ...

    async def erase(self, user_id: str, at: datetime) -> None:
        """The user's graph has to go, and what it was to be told up to `at`."""
        ...

    async def erasure(self, user_id: str) -> datetime | None:
        """When the graph was to go, while it is to be looked after; None where nothing is due."""
        ...

    async def erased(self, user_id: str, at: datetime) -> None:
        """The erasure of `at` was carried out. The first time, it is due once more a minute later: whoever was writing
        has ended by then."""
        ...

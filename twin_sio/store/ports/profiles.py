"""Profiles and their evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twin_sio.domain import Evidence, Profile, Trait, TraitChange

SCORING_VERSION = 6
"""Of how a profile is computed from evidence: where a stored profile has another, it is computed anew. Increase it with
every change of the rules that profiles are to follow at once."""


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """The profile, the changes of its version that are not published yet, and its revision."""

    profile: Profile
    unpublished: tuple[TraitChange, ...]
    revision: str | None = None
    epoch: int = 0
    good_until: datetime | None = None
    """When some of its evidence becomes too old to count; None: never."""


@dataclass(frozen=True, slots=True)
class ConnectSnapshot:
    """What a connection needs to know of its user's data."""

    head: int
    """The newest seq of the log; 0 where there is none."""
    profile_version: int
    """0 where there is no profile."""
    is_owed: bool
    """Whether an answer is pending or running."""
    epoch: int = 0
    """How often the user was erased."""
    is_erasing: bool = False
    """Whether something of before the last erasure may still be there, and be read."""


class ConnectSnapshots(Protocol):
    """What every connection begins with, in one query."""

    async def of(self, user_id: str) -> ConnectSnapshot:
        """The user's snapshot, of what can no longer be rolled back."""
        ...


class Profiles(Protocol):
    """Evidence (append-only) and the traits computed from it."""

    async def add_evidence(self, evidence: Sequence[Evidence], epoch: int = 0) -> int:
        """Store what is new; the same evidence twice is one. Returns how many were new."""
        ...

    async def evidence(self, user_id: str, epoch: int = 0) -> Sequence[Evidence]:
        """All evidence about the user, of this epoch and later, that is not too old to count."""
        ...

    async def remove_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Keep these pieces no longer: there is no more room for them."""
        ...

    async def get(self, user_id: str) -> StoredProfile:
        """The profile; version 0 and no traits for a new user."""
        ...

    async def revision(self, user_id: str) -> str | None:
        """Another one after every write of the profile, and never the same again, not after an erasure either; None
        where there is no profile. Much cheaper than the profile."""
        ...

    async def replace(
        self, profile: Profile, unpublished: Sequence[TraitChange], epoch: int = 0, oldest: datetime | None = None
    ) -> bool:
        """Store as the version after the stored one; false where another writer was first, or is of a later epoch.
        `oldest`: when the oldest evidence that it was made of was observed."""
        ...

    async def refresh(self, profile: StoredProfile, traits: Sequence[Trait], oldest: datetime | None) -> None:
        """Replace the traits by equal ones (of other evidence), under the same version; nothing where another writer
        was first."""
        ...

    async def users(self) -> Sequence[str]:
        """All users who have a profile."""
        ...

    async def mark_published(self, user_id: str, version: int) -> None:
        """The changes of this version are in the log."""
        ...

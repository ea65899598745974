"""Export, erasure and migration of a user's data."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from twin_sio.domain import (
    Json,
    Trait,
)
from twin_sio.store.ports.profiles import StoredProfile


@dataclass(frozen=True, slots=True)
class Erased:
    """An erasure: the user's epoch from now on, and how much was removed, per collection."""

    epoch: int
    counts: Mapping[str, int]


class PersonalData(Protocol):
    """Everything that is kept about a user, as a whole.

    An erasure is a fence that no clock of a server decides: each user has an epoch, which grows with it, and whatever
    is written (every `epoch` of these ports) says in which one it began. What is of an earlier one is refused where
    that is known, and removed again where it is not: within moments by whoever wrote it, and by `erasures_due` where
    the writer has died since.
    """

    def export(self, user_id: str) -> AsyncGenerator[Json, None]:
        """Everything, one value after the other: `{kind, ...}`, kind `event`, `turn`, `context`, `evidence`, `profile`,
        `conversation`, `statistics`, `projection`. Values JSON can hold; times in ISO 8601. Holds few at a time."""
        ...

    async def epoch(self, user_id: str) -> int:
        """How often the user was erased: for work that begins now, and with nothing that has an epoch of its own."""
        ...

    async def erase(self, user_id: str) -> Erased:
        """Begin a new epoch and remove all of the earlier ones; what remains is a hash of the user's id.

        The user's seqs go on where they were. Running it again removes nothing.
        """
        ...

    async def erase_late(self, user_id: str, epoch: int) -> int:
        """Remove what of before this epoch was written since; how much there was."""
        ...

    async def erasures_due(self, limit: int) -> Sequence[tuple[str, int]]:
        """`(user_id, epoch)` of erasures that are to be carried out again; for the caller alone for a minute."""
        ...

    async def erased(self, user_id: str, epoch: int) -> None:
        """The erasure was carried out again: it is due once more, later, or over."""
        ...


class Migrations(Protocol):
    """What an earlier version has written under names that tell of what they name."""

    async def name_users(self, limit: int) -> int:
        """Name users by their hash; how many that was."""
        ...

    async def name_evidence(self, limit: int) -> int:
        """Name evidence by the key, where there is one; how much that was."""
        ...

    async def profiles_to_rename(self, limit: int) -> Sequence[str]:
        """Users whose stored traits have ids of before there was a key."""
        ...

    async def rename_traits(self, user_id: str, profile: StoredProfile, traits: Sequence[Trait]) -> None:
        """Put these traits, the same under other ids, into the place of the profile's, unless it was written since."""
        ...

"""Export, erasure and migration of a user's data."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from twin_sio.domain import Json, Trait
from twin_sio.store.ports.profiles import StoredProfile


@dataclass(frozen=True, slots=True)
class Erased:
    """An erasure: the user's epoch from now on, and how many documents were removed, by collection."""

    epoch: int
    counts: Mapping[str, int]


class PersonalData(Protocol):
    """Everything that is stored about a user, as a whole.

    Erasure depends on no server's clock: each user has an epoch, which each erasure increments, and every write names
    the epoch in which it began (`epoch` in these ports). A write of an earlier epoch is refused where the writer knows
    the present one, and removed again where it does not: within moments by the writer itself, or by `erasures_due`
    where the writer has died.
    """

    def export(self, user_id: str) -> AsyncGenerator[Json, None]:
        """Everything, one value after the other: `{kind, ...}`, kind `event`, `turn`, `context`, `evidence`, `profile`,
        `conversation`, `statistics`, `projection`. Values JSON can hold; times in ISO 8601. Holds few at a time."""
        ...

    async def epoch(self, user_id: str) -> int:
        """How often the user was erased: for work that begins now from nothing that has an epoch."""
        ...

    async def erase(self, user_id: str) -> Erased:
        """Begin a new epoch and remove all of the earlier ones; what remains is a hash of the user's id.

        The user's seqs go on where they were. Running it again removes nothing. From now on the
        user's connections are refused (`ConnectSnapshot.is_erasing`) until `allow_connections`, for a quarter of an
        hour at most.
        """
        ...

    async def allow_connections(self, user_id: str, epoch: int) -> None:
        """The erasure that began this epoch is done, and all instances were told: the user may connect again."""
        ...

    async def erase_late(self, user_id: str, epoch: int) -> int:
        """Remove what was written late, of earlier epochs; how many documents."""
        ...

    async def erasures_due(self, limit: int) -> Sequence[tuple[str, int]]:
        """`(user_id, epoch)` of erasures to be carried out again; reserved for the caller for a minute."""
        ...

    async def erased(self, user_id: str, epoch: int) -> None:
        """The erasure was carried out again: schedule the next pass, or none after the last."""
        ...


MigrationStep = Literal["name_user", "name_evidence", "rename_traits", "rescore"]


class Migrations(Protocol):
    """Finds what an earlier version has stored otherwise: ids that reveal the user or the text, profiles that were
    scored under an earlier reading of their evidence."""

    async def users_to_name(self, limit: int) -> Sequence[str]:
        """Users whose id is not a hash yet; like all that is found here, without what is postponed."""
        ...

    async def name_user(self, user_id: str) -> None:
        """Give the user their hash as id."""
        ...

    async def evidence_to_name(self, limit: int) -> Sequence[tuple[str, str]]:
        """The user and the id of evidence whose id was made without the key, where there is one."""
        ...

    async def name_evidence(self, name: str) -> None:
        """Give a piece of evidence its keyed id in place of `name`."""
        ...

    async def profiles_to_rename(self, limit: int) -> Sequence[str]:
        """Users whose stored traits have ids without the key."""
        ...

    async def rename_traits(self, user_id: str, profile: StoredProfile, traits: Sequence[Trait]) -> None:
        """Replace the profile's traits by these, the same under other ids, unless it was written meanwhile."""
        ...

    async def profiles_to_score(self, limit: int) -> Sequence[str]:
        """Users whose stored profile was made by earlier rules of scoring (`SCORING_VERSION`)."""
        ...

    async def postpone(self, step: MigrationStep, name: str) -> None:
        """Leave a user, a piece of evidence or a profile out of this step for a while, each time for longer."""
        ...

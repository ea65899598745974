"""What an earlier version named or read otherwise is brought up to date while the service runs, a little at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from twin_sio.clock import monotonic
from twin_sio.services.each_user import succeeded
from twin_sio.services.trait_ids import TraitIds
from twin_sio.store.ports import Migrations, MigrationStep, Profiles

log = structlog.get_logger("migration")

_AT_ONCE = 200  # of each kind in a step, which a sweep waits for
_SCORED_AT_ONCE = 50  # profiles, which take longer
_REST_S = 3600.0  # before it is looked again: an instance of the earlier version may still have been writing


class MigrationService:
    """Users are named by a hash, evidence and traits by a key, and every profile is scored as evidence reads today.
    Stopping in the middle loses nothing, and running it again, or twice at once, changes nothing."""

    def __init__(
        self,
        migrations: Migrations,
        profiles: Profiles,
        trait_ids: TraitIds,
        rescore: Callable[[str], Awaitable[None]],
    ) -> None:
        """`rescore`: `ProfileService.rescore`."""
        self._rescore = rescore
        self._migrations = migrations
        self._profiles = profiles
        self._trait_ids = trait_ids
        self._rests_until = 0.0

    async def step(self) -> int:
        """The next part of it; how many users and pieces it looked at, 0 once nothing is left. What fails is postponed,
        and stops nothing else. Raises `StorageUnavailable`."""
        if monotonic() < self._rests_until:
            return 0
        done = [
            await self._do("name_user", user_id, user_id, self._migrations.name_user(user_id))
            for user_id in await self._migrations.users_to_name(_AT_ONCE)
        ]
        done += [
            await self._do("name_evidence", user_id, name, self._migrations.name_evidence(name))
            for user_id, name in await self._migrations.evidence_to_name(_AT_ONCE)
        ]
        done += [
            await self._do("rename_traits", user_id, user_id, self._rename(user_id))
            for user_id in await self._migrations.profiles_to_rename(_AT_ONCE)
        ]
        done += [
            await self._do("rescore", user_id, user_id, self._rescore(user_id))
            for user_id in await self._migrations.profiles_to_score(_SCORED_AT_ONCE)
        ]
        if done:
            log.info("migrated", count=sum(done), skipped=len(done) - sum(done))
        else:
            self._rests_until = monotonic() + _REST_S
        return len(done)

    async def _do(self, step: MigrationStep, user_id: str, name: str, work: Awaitable[None]) -> bool:
        if await succeeded(user_id, step, work):
            return True
        await self._migrations.postpone(step, name)
        return False

    async def _rename(self, user_id: str) -> None:
        stored = await self._profiles.get(user_id)
        traits = self._trait_ids.renamed(user_id, stored.profile.traits)
        await self._migrations.rename_traits(user_id, stored, traits)

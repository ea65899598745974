"""What an earlier version named or read otherwise is brought up to date while the service runs, a little at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from twin_sio.clock import monotonic
from twin_sio.services.each_user import isolated
from twin_sio.services.trait_ids import TraitIds
from twin_sio.store.ports import Migrations, Profiles

log = structlog.get_logger("migration")

_AT_ONCE = 200
_SCORED_AT_ONCE = 50
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
        """The next part of it; how much that was, 0 once nothing is left. Raises `StorageUnavailable`."""
        if monotonic() < self._rests_until:
            return 0
        done = await self._migrations.name_users(_AT_ONCE)
        done += await self._migrations.name_evidence(_AT_ONCE)
        for user_id in await self._migrations.profiles_to_rename(_AT_ONCE):
            with isolated(user_id, "rename_traits"):
                stored = await self._profiles.get(user_id)
                traits = self._trait_ids.renamed(user_id, stored.profile.traits)
                await self._migrations.rename_traits(user_id, stored, traits)
                done += 1
        for user_id in await self._migrations.profiles_to_score(_SCORED_AT_ONCE):
            with isolated(user_id, "rescore"):
                await self._rescore(user_id)
                done += 1
        if done:
            log.info("migrated", count=done)
        else:
            self._rests_until = monotonic() + _REST_S
        return done

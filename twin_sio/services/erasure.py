"""The end of everything that is kept about a user: in the store, in the queue, and in what Redis remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from twin_sio.delivery.messages import UserErased
from twin_sio.services.each_user import succeeded
from twin_sio.services.ports import Delivery, Jobs
from twin_sio.store.ports import PersonalData, Presence

log = structlog.get_logger("erasure")

_LATE_S = 0.2  # after which writers on other instances have usually received the erasure
_LATE_LOOKS = 4  # at most; as a rule the first finds nothing
_AT_ONCE = 100  # erasures that are due


class ErasureService:
    """Erases, and looks again: at once for what was being written meanwhile, later for what died on its way."""

    def __init__(self, personal: PersonalData, presence: Presence, delivery: Delivery, jobs: Jobs) -> None:
        self._personal = personal
        self._presence = presence
        self._delivery = delivery
        self._jobs = jobs

    async def erase(self, user_id: str) -> Mapping[str, int]:
        """Remove everything and end the user's sessions; how much there was, per store. Raises `StorageUnavailable`:
        then not everything is removed."""
        erased = await self._personal.erase(user_id)
        self._delivery.broadcast(UserErased(user_id, erased.epoch))
        await self._personal.allow_connections(user_id, erased.epoch)  # once all others have been told
        counts = dict(erased.counts)
        counts["jobs"] = await self._jobs.erase(user_id)
        counts["redis"] = await self._forget(user_id)
        for _ in range(_LATE_LOOKS):
            await asyncio.sleep(_LATE_S)
            late = await self._personal.erase_late(user_id, erased.epoch)
            if not late + await self._jobs.erase(user_id) + await self._forget(user_id):
                break
        return counts

    async def again(self) -> int:
        """Carry out once more what is due; how many erasures. Raises `StorageUnavailable`."""
        due = await self._personal.erasures_due(_AT_ONCE)
        for user_id, epoch in due:
            await succeeded(user_id, "erasure", self._again(user_id, epoch))  # what fails is due again in a minute
        return len(due)

    async def _again(self, user_id: str, epoch: int) -> None:
        late = await self._personal.erase_late(user_id, epoch)
        self._delivery.broadcast(UserErased(user_id, epoch))  # some may not have received it
        await self._personal.allow_connections(user_id, epoch)
        late += await self._jobs.erase(user_id) + await self._delivery.erase(user_id)
        if late:
            log.warning("erased_late", count=late)
        await self._personal.erased(user_id, epoch)

    async def _forget(self, user_id: str) -> int:
        return await self._delivery.erase(user_id) + await self._presence.erase(user_id)

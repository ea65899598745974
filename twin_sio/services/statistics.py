"""How well the twin learns: counted per user, in the background and when asked for, and added up for operators."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from twin_sio.agent.scoring import score
from twin_sio.agent.statistics import WITHIN_S, EvidenceCounts, from_stored, report, tally, within
from twin_sio.clock import Clock, iso
from twin_sio.config import ScoreWeights
from twin_sio.domain import Evidence, Json
from twin_sio.errors import TooLate
from twin_sio.services.each_user import succeeded
from twin_sio.services.profile import ProfileService, weighing
from twin_sio.services.shared_results import SharedResults
from twin_sio.store.ports import Answers, PersonalData, Profiles, Statistics

_COUNTED_FOR = timedelta(days=1)


class StatisticsService:
    """Counts what became of the evidence about each user."""

    def __init__(
        self,
        profiles: Profiles,
        statistics: Statistics,
        personal: PersonalData,
        keeper: ProfileService,
        clock: Clock,
        weights: ScoreWeights,
    ) -> None:
        self._profiles = profiles
        self._statistics = statistics
        self._personal = personal
        self._keeper = keeper
        self._clock = clock
        self._weights = weights
        self._shared = SharedResults(self._read, lambda read: read[1])

    async def read(self, user_id: str) -> Json:
        """The user's statistics as of now."""
        return (await self._shared.get(user_id, await self._profiles.revision(user_id)))[0]

    async def _read(self, user_id: str) -> tuple[Json, int]:
        counts, pieces = await self._count(user_id)
        return {"as_of": iso(self._clock()), **_rounded(report(counts))}, pieces

    def forget(self, user_id: str) -> None:
        """Hold nothing of this user in memory."""
        self._shared.forget(user_id)

    async def count_due(self, limit: int) -> int:
        """Count users whose profile has changed, and bring those up to the date that nothing was learnt of for a day;
        how many there were."""
        due = await self._statistics.due(self._clock() - _COUNTED_FOR, limit)
        for user_id in due:
            if not await succeeded(user_id, "statistics", self._bring_up_to_date(user_id)):
                await self._statistics.postpone(user_id)
        if due:
            await self._statistics.recompute_total()
        return len(due)

    async def _bring_up_to_date(self, user_id: str) -> None:
        await self._keeper.refresh(user_id, [])
        await self._count(user_id, is_due=True)

    async def totals(self) -> Json:
        """What all users add up to, as it was counted last; `applied_within_s` counts traits by the time it took, the
        shortest first."""
        total = await self._statistics.total()
        shares = {name: value for name, value in report(from_stored(total)).items() if name != "time_to_apply_s"}
        within = sorted((row["bound_s"], row["count"]) for row in total.get("within", ()))
        return {**_rounded(shares), "applied_within_s": {f"{bound_s:.0f}": count for bound_s, count in within}}

    async def _count(self, user_id: str, *, is_due: bool = False) -> tuple[EvidenceCounts, int]:
        """The user's counts, which are stored, and how many pieces of evidence there are. `is_due`: stored although
        there may be nothing to count, so that the user is due no longer."""
        began = self._clock()
        epoch = await self._personal.epoch(user_id)
        stamp = await self._profiles.revision(user_id)  # first: what is written from here on makes the user due again
        evidence, answers = await asyncio.gather(
            self._profiles.evidence(user_id, epoch), self._statistics.answers(user_id, epoch)
        )
        if is_due and not (evidence or answers.count):  # of who was erased since, nothing is kept
            is_due = (await self._profiles.get(user_id)).profile.version > 0
        counts = await weighing(evidence, lambda: self._tallied(user_id, evidence, answers, began))
        if is_due or evidence or answers.count:
            with suppress(TooLate):
                await self._statistics.put(user_id, began, _stored(counts), answers, stamp, epoch)
        return counts, len(evidence)

    def _tallied(self, user_id: str, evidence: Sequence[Evidence], answers: Answers, at: datetime) -> EvidenceCounts:
        traits = score(user_id, evidence, at, self._weights)
        return tally(evidence, traits, answers=answers.count, using=answers.using, weights=self._weights)


def _rounded(value: Any) -> Any:
    """JSON without the noise of floating point."""
    match value:
        case float():
            return round(value, 6)
        case dict():
            return {name: _rounded(one) for name, one in value.items()}
        case list():
            return [_rounded(one) for one in value]
        case _:
            return value


def _stored(counts: EvidenceCounts) -> Json:
    """The counts as the store adds them up."""
    traits = [
        {"kind": kind, "extractor": extractor, "status": status, "count": count}
        for (kind, extractor, status), count in counts.traits.items()
    ]
    waits = [{"bound_s": bound, "count": count} for bound, count in zip(WITHIN_S, within(counts.waits_s), strict=True)]
    return {"traits": traits, "contradicted": counts.contradicted, "within": waits}

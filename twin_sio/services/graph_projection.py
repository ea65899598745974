"""The graph of what holds and what held: it follows the profile version by version, and can always be made anew."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from twin_sio.agent.scoring import score
from twin_sio.agent.traits import fact_of, is_sensitive
from twin_sio.clock import Clock, monotonic
from twin_sio.config import ScoreWeights
from twin_sio.domain import Evidence, Fact, Trait
from twin_sio.services.trait_ids import TraitIds
from twin_sio.store.ports import Facts, GraphUnavailable, Outbox, Profiles, Projection

_AWAY_S = 5.0  # that a graph is left alone after it has failed
_INSTANTS = 1_000  # of a user's past, the newest, at which a graph that is made anew looks at the profile
_BACKOFF_S = 5.0  # after a first failure, then twice as long each time
_BACKOFF_MOST_S = 600.0


class GraphProjectionService:
    """Tells the graph what the outbox holds, per user and in order. What fails is tried again, ever later."""

    def __init__(
        self,
        outbox: Outbox,
        facts: Facts,
        profiles: Profiles,
        clock: Clock,
        weights: ScoreWeights,
        trait_ids: TraitIds,
    ) -> None:
        self._trait_ids = trait_ids
        self._outbox = outbox
        self._facts = facts
        self._profiles = profiles
        self._clock = clock
        self._weights = weights
        self._away_until = 0.0

    async def due(self, limit: int) -> Sequence[str]:
        """Users whose graph is behind; none while the graph is away."""
        return await self._outbox.due(limit) if monotonic() >= self._away_until else []

    async def project(self, user_id: str) -> int:
        """Bring the user's graph up to date; returns how many versions were projected. A repeat changes nothing."""
        projected = 0
        try:
            if (erased_at := await self._outbox.erasure(user_id)) is not None:
                await self.rebuild(user_id)
                await self._outbox.erased(user_id, erased_at)
            while (entry := await self._outbox.take(user_id)) is not None:
                await self._send(entry)
                projected += 1
                if not await self._outbox.done(entry):  # erased meanwhile: what was written has to go again
                    await self._outbox.erase(user_id, self._clock())
        except GraphUnavailable:
            self._away_until = monotonic() + _AWAY_S
            await self._outbox.postpone(user_id, _BACKOFF_S, _BACKOFF_MOST_S)
        except Exception:  # ever later, so that it stands before nobody else's
            await self._outbox.postpone(user_id, _BACKOFF_S, _BACKOFF_MOST_S)
            raise
        return projected

    async def rebuild(self, user_id: str) -> int:
        """Make the user's graph anew from all evidence; how many facts it holds. Raises `GraphUnavailable`."""
        evidence = await self._profiles.evidence(user_id)
        facts = await asyncio.to_thread(self._history, user_id, evidence, self._clock())
        await self._facts.erase(user_id)
        if facts:
            await self._facts.write(user_id, list(facts.values()), (), ())
        return len(facts)

    def _history(self, user_id: str, evidence: Sequence[Evidence], now: datetime) -> Mapping[str, Fact]:
        facts: Mapping[str, Fact] = {}
        subject = self._trait_ids.subject(user_id)
        for at in sorted({piece.observed_at for piece in evidence} | {now})[-_INSTANTS:]:
            facts = advance(facts, score(subject, evidence, at, self._weights), at)
        return facts

    async def _send(self, entry: Projection) -> None:
        before = {fact.fact_id: fact for fact in await self._facts.read(entry.user_id)}
        after = advance(before, entry.traits, entry.at)
        left = {fact.trait_id for fact in after.values()}
        gone = [fact for fact_id, fact in before.items() if fact_id not in after]
        changed = [fact for fact_id, fact in after.items() if before.get(fact_id) != fact]
        await self._facts.write(
            entry.user_id, changed, gone, sorted({fact.trait_id for fact in gone if fact.trait_id not in left})
        )


def advance(facts: Mapping[str, Fact], traits: Iterable[Trait], at: datetime) -> dict[str, Fact]:
    """What is to be held of a user, by id, once it is known `at` that their traits are these.

    A trait that is applied holds since its `valid_from`; one that was superseded held until its `valid_to`. What is
    applied no longer held until now. What was rejected, or has no evidence any more, leaves no trace.
    """
    now = {trait.trait_id: trait for trait in traits}
    fresh: dict[str, Fact] = {}
    for fact in facts.values():
        trait = now.get(fact.trait_id)
        if trait is None or trait.status == "rejected":
            continue
        if fact.invalid_at is None and not (_holds(trait) and trait.valid_from == fact.valid_at):
            end = _end(fact, trait, now.values())
            if end is None:
                continue
            fact = replace(fact, invalid_at=end, expired_at=at)
        fresh[fact.fact_id] = fact
    for trait in filter(_holds, now.values()):
        fact = fact_of(trait, at)
        known = fresh.get(fact.fact_id)
        fresh[fact.fact_id] = replace(
            fact,
            created_at=known.created_at if known else at,
            expired_at=None if fact.invalid_at is None else (known.expired_at if known else None) or at,
        )
    return fresh


def _holds(trait: Trait) -> bool:
    """Whether it does, or did; what is sensitive and was never confirmed is in no graph."""
    return trait.status == "applied" or (trait.status == "superseded" and (trait.pinned or not is_sensitive(trait.key)))


def _end(fact: Fact, trait: Trait, traits: Iterable[Trait]) -> datetime | None:
    """When a fact that was open has ended; None where it never held."""
    if not _holds(trait):
        return trait.as_of
    # The trait holds since another time. Either it was displaced in between, which is known only now since jobs arrive
    # in any order, or its beginning was wrong.
    others = [
        one.valid_from
        for one in traits
        if _holds(one) and one.key == trait.key and one.entity == trait.entity and one is not trait
    ]
    return min((start for start in others if fact.valid_at < start <= trait.valid_from), default=None)

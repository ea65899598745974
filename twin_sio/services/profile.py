"""What the twin believes: read, corrected, and brought up to date by evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from typing import TypeVar

from twin_sio.agent.contributions import upgraded
from twin_sio.agent.eviction import evicted
from twin_sio.agent.explanation import Explainer
from twin_sio.agent.observations import observed_names
from twin_sio.agent.scoring import score
from twin_sio.agent.traits import RATINGS, names_of, normal
from twin_sio.clock import Clock
from twin_sio.config import ScoreWeights
from twin_sio.domain import Caller, Entity, Event, Evidence, EvidenceKind, Json, NewEvent, Profile, Trait, TraitChange
from twin_sio.errors import NotFound, StorageUnavailable
from twin_sio.observability.tracing import span
from twin_sio.services.compute_budget import ComputeBudget
from twin_sio.services.ports import Delivery
from twin_sio.services.profile_payloads import change_payload, changes_payload, profile_payload, why_payload
from twin_sio.services.shared_results import SharedResults
from twin_sio.services.trait_ids import TraitIds
from twin_sio.store.ports import Log, Profiles, StoredProfile

_TRIES = 20  # of an update against others of the same user; each loses to one that got through
_NOTICEABLE = 0.005  # of a confidence: less is no change to anybody
ON_THE_LOOP = 200  # pieces that are weighed, and traits looked through, where answers are streamed; more in a thread
_S_A_PIECE = 8e-5  # of a core: to read a piece, and to weigh it before and after
_CHARACTERS_ON_THE_LOOP = 20_000  # of the values of so many pieces
_CHANGES = 400  # of a version, so that its event can be read; what is over stands in the next version
T = TypeVar("T")
_RATINGS: Mapping[str, EvidenceKind] = {"up": "up", "down": "down", "none": "withdrawn"}


@dataclass(frozen=True)
class _Scored:
    """A user's profile on a date, and the evidence that it comes from."""

    payload: Json
    evidence: Sequence[Evidence]
    make_explainer: Callable[[], Explainer]
    explaining: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while `explainer` is used, so that it is made once for all who ask."""

    @cached_property
    def explainer(self) -> Explainer:
        """Of the same date; made when it is first asked for, which takes about as long as the profile."""
        return self.make_explainer()


async def weighing(evidence: Sequence[Evidence] | Sequence[Trait], work: Callable[[], T]) -> T:
    """What `work` gives, which takes the longer the more evidence there is; of much of it in a thread."""
    is_much = len(evidence) > ON_THE_LOOP or sum(len(one.value) for one in evidence) > _CHARACTERS_ON_THE_LOOP
    return await asyncio.to_thread(work) if is_much else work()


class ProfileService:
    """Evidence in, traits out; every visible change is a version, logged exactly once and published."""

    def __init__(
        self,
        profiles: Profiles,
        messages: Log,
        delivery: Delivery,
        clock: Clock,
        weights: ScoreWeights,
        trait_ids: TraitIds,
    ) -> None:
        self._weights = weights
        self._shared = SharedResults(self._scored, lambda scored: len(scored.evidence))
        self._trait_ids = trait_ids
        # Of what users ask for: what was learnt is computed by the worker, a job of a user at a time.
        self._budget = ComputeBudget()
        self._profiles = profiles
        self._messages = messages
        self._delivery = delivery
        self._clock = clock

    async def read(self, user_id: str) -> Json:
        """`{version, as_of, traits}`, scored as of now."""
        return (await self._shared.get(user_id, await self._profiles.revision(user_id))).payload

    async def _scored(self, user_id: str) -> _Scored:
        stored, evidence = await asyncio.gather(self._profiles.get(user_id), self._profiles.evidence(user_id))
        version, now = stored.profile.version, self._clock()
        payload = await weighing(evidence, lambda: profile_payload(version, now, self._score(user_id, evidence, now)))
        subject = self._trait_ids.subject(user_id)
        ids = partial(self._trait_ids.all, user_id)
        return _Scored(payload, evidence, partial(Explainer, subject, evidence, now, self._weights, ids))

    def turn(self, user_id: str) -> AbstractAsyncContextManager[None]:
        """Held while the user has something changed, so that several at once do not make each other begin anew. Raises
        `RateLimited` where a large profile was scored too often."""
        return self._budget.turn(user_id)

    def _spend(self, user_id: str, count: int) -> None:
        if count > ON_THE_LOOP:
            self._budget.spend(user_id, count * _S_A_PIECE)

    def forget(self, user_id: str) -> None:
        """Hold nothing of this user in memory."""
        self._shared.forget(user_id)

    async def why(self, user_id: str, wanted: str) -> Json:
        """What a trait's number is made of, as of `read`: the trait, `formula`, and `evidence` whose `effective`
        weights add up to its `supporting` (S) and `opposing` (C), exactly. Raises `NotFound`, for other users' ids
        too."""
        scored = await self._shared.get(user_id, await self._profiles.revision(user_id))
        async with scored.explaining:
            explanation = await weighing(scored.evidence, lambda: scored.explainer.explain(wanted))
        if explanation is None:
            raise NotFound("There is no trait of yours with this id.")
        return why_payload(explanation)

    async def find(self, user_id: str, trait_id: str) -> tuple[Profile, Trait | None]:
        """The user's stored profile, and its trait of this id."""
        profile = (await self._profiles.get(user_id)).profile
        return profile, await weighing(profile.traits, lambda: self._trait_ids.find(user_id, trait_id, profile.traits))

    async def learn(
        self, user_id: str, evidence: Sequence[Evidence], in_response_to: str | None = None, epoch: int = 0
    ) -> None:
        """Store evidence and publish to the devices what changed. Safe to run again. `epoch`: of what the evidence was
        found in."""
        await self._profiles.add_evidence(evidence, epoch)
        self.forget(user_id)
        await self.refresh(user_id, evidence, in_response_to, epoch)

    async def refresh(
        self,
        user_id: str,
        evidence: Sequence[Evidence],
        in_response_to: str | None = None,
        epoch: int | None = None,
    ) -> None:
        """Bring the profile up to date with evidence that is stored, as `learn` does; without any, with the date."""
        event = await self._update(user_id, evidence, in_response_to, None, epoch)
        if event is not None:
            self._delivery.publish(event)

    async def rescore(self, user_id: str) -> None:
        """Make the profile anew from its evidence, as that reads today; what reads otherwise is published as ever."""
        event = await self._update(user_id, (), None, None, None, anew=True)
        self.forget(user_id)
        if event is not None:
            self._delivery.publish(event)

    async def correct(self, caller: Caller, evidence: Sequence[Evidence], in_response_to: str | None) -> Event | None:
        """Store the caller's own evidence, in their `turn`; the `profile_update` of what it changed, for the caller to
        publish as its reply. None: it changed nothing."""
        await self._profiles.add_evidence(evidence, caller.epoch)
        self.forget(caller.user_id)
        return await self._update(caller.user_id, evidence, in_response_to, caller, caller.epoch)

    async def _update(
        self,
        user_id: str,
        evidence: Sequence[Evidence],
        in_response_to: str | None,
        caller: Caller | None,
        epoch: int | None,
        *,
        anew: bool = False,
    ) -> Event | None:
        """Make the versions that the evidence gives rise to. The last one's event is returned, logged and not published
        yet; those before it are published. `anew`: store the traits also where none reads otherwise."""
        last: Event | None = None
        try:
            for _ in range(_TRIES):
                stored = await self._profiles.get(user_id)
                began = stored.epoch if epoch is None else epoch
                if stored.epoch > began:  # the user was erased since
                    return last
                if stored.epoch < began:  # of before an erasure, and about to be removed
                    stored = StoredProfile(Profile(user_id, stored.profile.version, ()), (), None, began)
                # The process that made this version died before it told the devices.
                elif stored.unpublished:
                    self._delivery.publish(await self._log_update(stored, None, None))
                everything = await self._kept(user_id, began)
                self._spend(user_id, len(everything))
                work = partial(self._next, stored.profile, everything, self._clock(), evidence)
                fresh, changes = await weighing(everything, work)
                oldest = min((piece.observed_at for piece in everything), default=None)
                if not changes:
                    if anew or (stored.good_until is not None and stored.good_until <= self._clock()):
                        await self._profiles.refresh(stored, fresh.traits, oldest)
                    return last
                if await self._profiles.replace(fresh, changes, began, oldest):
                    if last is not None:
                        self._delivery.publish(last)
                    after = Profile(user_id, stored.profile.version + 1, fresh.traits)
                    last = await self._log_update(
                        StoredProfile(after, tuple(changes), None, began), in_response_to, caller
                    )
                    # Otherwise there may be more: another version, until all of them are told.
                    if len(changes) < _CHANGES:
                        return last
            raise StorageUnavailable
        except BaseException:
            if last is not None:  # it is in the log: nobody else would publish it
                self._delivery.publish(last)
            raise

    async def _kept(self, user_id: str, epoch: int) -> Sequence[Evidence]:
        """The user's evidence; what there is no more room for is removed."""
        everything, now = await self._profiles.evidence(user_id, epoch), self._clock()
        gone = await weighing(everything, lambda: evicted(user_id, everything, now, self._weights))
        if not gone:
            return everything
        await self._profiles.remove_evidence(gone)
        # Read again it would cost as much as the first time.
        ids = {piece.evidence_id for piece in gone}
        return [piece for piece in everything if piece.evidence_id not in ids]

    def _next(
        self, before: Profile, everything: Sequence[Evidence], at: datetime, evidence: Sequence[Evidence]
    ) -> tuple[Profile, Sequence[TraitChange]]:
        """What comes after `before`, and how it reads otherwise: in so many changes as a version can hold, where there
        are more with the rest as it was."""
        traits: Sequence[Trait] = self._score(before.user_id, everything, at)
        changes = _changes(before, traits, evidence)
        if len(changes) > _CHANGES:
            old = {_name(trait): trait for trait in before.traits}
            later = {_name(change.trait) for change in changes[_CHANGES:]}
            as_it_was = [old.get(_name(trait)) if _name(trait) in later else trait for trait in traits]
            names = {_name(trait) for trait in traits}
            as_it_was += [trait for name, trait in old.items() if name in later and name not in names]
            traits = [trait for trait in as_it_was if trait is not None]
        return Profile(before.user_id, before.version, tuple(traits)), changes[:_CHANGES]

    def _score(self, user_id: str, evidence: Sequence[Evidence], at: datetime) -> tuple[Trait, ...]:
        return score(self._trait_ids.subject(user_id), evidence, at, self._weights)

    async def rate(self, rating: Event, answer: Event) -> tuple[Sequence[Evidence], Sequence[Json]]:
        """Store what a rating says of the traits that the answer used, and of no others: the evidence (for `settle`,
        which tells the devices) and the traits that it changed, as they read now.

        The newest rating of an answer takes the place of the earlier ones. One that says the same changes nothing. In
        the user's `turn`.
        """
        user_id = rating.user_id
        known = await self._profiles.evidence(user_id, rating.epoch)
        fresh = await weighing(known, lambda: list(_ratings(rating, answer, known, self._trait_ids)))
        await self._profiles.add_evidence(fresh, rating.epoch)
        self.forget(user_id)
        mine = {p.evidence_id: p for p in (*known, *fresh) if p.message_id == rating.message_id and p.kind in RATINGS}
        rated = {(piece.key, name): piece.kind for piece in mine.values() for name in observed_names(piece)}
        now = self._clock()
        traits = await weighing(known, lambda: self._score(user_id, [*known, *fresh], now))
        kinds = ((trait, [rated.get((trait.key, name)) for name in names_of(trait)]) for trait in traits)
        found = ((trait, next(filter(None, said), None)) for trait, said in kinds)
        self._spend(user_id, len(known))
        return list(mine.values()), [change_payload(TraitChange(one, None, kind)) for one, kind in found if kind]

    async def _log_update(self, stored: StoredProfile, in_response_to: str | None, caller: Caller | None) -> Event:
        """Log the changes of a version, and note that they are in the log."""
        profile = stored.profile
        draft = NewEvent(
            profile.user_id,
            "profile_update",
            f"profile-v{profile.version}",
            "main",
            self._clock(),
            {"version": profile.version, **changes_payload(stored.unpublished)},
            caller.session_id if caller else None,
            in_response_to,
            stored.epoch,
        )
        with span("profile_update", user=profile.user_id, version=profile.version, changes=len(stored.unpublished)):
            event: Event = (await self._messages.append(draft)).event
            await self._profiles.mark_published(profile.user_id, profile.version)
        return event


def _ratings(rating: Event, answer: Event, known: Sequence[Evidence], ids: TraitIds) -> Iterator[Evidence]:
    """A piece for each trait in the answer's prompt whose standing rating by this answer reads otherwise."""
    kind, user_id = _RATINGS[rating.payload["rating"]], rating.user_id
    slots = {name: piece for piece in map(upgraded, known) for name in _ids_of(ids, piece)}
    earlier = [piece for piece in known if piece.about == answer.message_id and piece.observed_at <= rating.at]
    earlier.sort(key=lambda piece: piece.observed_at)
    standing = {name: piece.kind for piece in earlier for name in _ids_of(ids, piece)}
    for used in dict.fromkeys(answer.payload.get("used_traits", ())):
        if used in slots and standing.get(used, "withdrawn") != kind:
            yield Evidence(
                user_id=user_id,
                key=slots[used].key,
                value=slots[used].value,
                polarity=-1 if kind == "down" else 1,
                kind=kind,
                observed_at=rating.at,
                session_id=rating.session_id or "",
                message_id=rating.message_id,
                quote="",
                extractor="user",
                about=answer.message_id,
                entity=slots[used].entity,
            )


def _ids_of(ids: TraitIds, piece: Evidence) -> tuple[str, ...]:
    return tuple(one for name in observed_names(piece) for one in ids.all(piece.user_id, piece.key, name))


def _changes(before: Profile, traits: Sequence[Trait], evidence: Sequence[Evidence]) -> list[TraitChange]:
    """Traits that read otherwise now: new, of another status, put or named otherwise, or moved by this evidence."""
    old = {_name(trait): trait for trait in before.traits}  # their ids may be of before a key
    left = {(trait.key, trait.entity, trait.value) for trait in traits if trait.status == "superseded"}
    merged = {(trait.key, name) for trait in traits for name in trait.names[1:]}
    applied: dict[tuple[str, Entity | None], list[str]] = {}
    for trait in before.traits:
        if trait.status == "applied" and trait.valid_to is None:
            applied.setdefault((trait.key, trait.entity), []).append(trait.value)
    reasons: dict[str, str] = {piece.key: piece.kind for piece in evidence}
    ends = {piece.observed_at: piece.kind for piece in evidence}
    changes = []
    for trait in traits:
        was = old.get(_name(trait))
        moved = was is not None and abs(was.confidence - trait.confidence) >= _NOTICEABLE and trait.key in reasons
        is_reworded = was is not None and (was.entity != trait.entity or normal(was.value) != normal(trait.value))
        if was is None or was.status != trait.status or moved or is_reworded:
            displaced = None
            if was is not None and is_reworded:
                displaced = was.value if was.value != trait.value else None
            elif trait.status == "applied":
                slot = trait.key, trait.entity
                displaced = next((value for value in applied.get(slot, ()) if (*slot, value) in left), None)
            ended = ends.get(trait.valid_to) if trait.valid_to is not None else None
            changes.append(TraitChange(trait, displaced, reasons.get(trait.key) or ended or "time"))
    held = {_name(trait) for trait in traits}
    gone = (trait for name, trait in old.items() if name not in held and trait.status != "unused")
    # It is one with another now, or all that spoke for it is too old to count, so nothing is known of it any more.
    changes += [
        TraitChange(
            replace(trait, status="unused", confidence=0.5), None, "merged" if _name(trait) in merged else "time"
        )
        for trait in gone
    ]
    return changes


def _name(trait: Trait) -> tuple[str, str]:
    return trait.key, names_of(trait)[0]

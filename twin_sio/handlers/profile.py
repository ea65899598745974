"""The profile as its user reads and corrects it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from twin_sio.agent.capacity import REJECTED
from twin_sio.agent.mentions import entity_of
from twin_sio.agent.traits import EXISTENCE, OF, is_functional, is_too_long, names_of, normal
from twin_sio.clock import Clock, NewId
from twin_sio.domain import Caller, Entity, Evidence, EvidenceKind, Trait
from twin_sio.errors import InvalidMessage, NotFound, RateLimited, TooLarge
from twin_sio.handlers import Reply
from twin_sio.protocol import Incoming, Outgoing, ProfileCorrect, ProfileGet
from twin_sio.rate_limit import BucketCache
from twin_sio.services.limits import Limits
from twin_sio.services.profile import ON_THE_LOOP, ProfileService

_LARGE_READS_PER_S, _LARGE_READS_AT_ONCE = 0.5, 10  # of a profile that is costly to send, by a user
_KINDS: Mapping[str, EvidenceKind] = {"confirm": "confirmed", "edit": "edited", "reject": "rejected"}


class ProfileHandlers:
    """Reads the profile, and stores its user's corrections."""

    def __init__(self, profile: ProfileService, limits: Limits, clock: Clock, new_id: NewId) -> None:
        self._profile = profile
        self._limits = limits
        self._clock = clock
        self._new_id = new_id
        self._large_reads = BucketCache()  # by user

    async def profile_get(self, caller: Caller, sent: Incoming[ProfileGet]) -> Reply:
        """The profile, scored as of now."""
        payload = await self._profile.read(caller.user_id)
        # To compute it is shared and kept; to send so much is what costs.
        if len(payload["traits"]) > ON_THE_LOOP:
            bucket = self._large_reads.of(caller.user_id, _LARGE_READS_PER_S, _LARGE_READS_AT_ONCE)
            if (wait_ms := bucket.take()) is not None:
                raise RateLimited(retry_after_ms=wait_ms)
        outgoing = Outgoing("profile", payload, self._new_id(), self._clock(), caller.session_id, sent.message_id)
        return Reply(outgoing)

    async def profile_correct(self, caller: Caller, sent: Incoming[ProfileCorrect]) -> Reply:
        """The user's own word on a trait: it outweighs everything that was observed. A repeat changes nothing."""
        correction = sent.payload
        await self._limits.correction(caller.user_id)
        async with self._profile.turn(caller.user_id):
            return await self._corrected(caller, sent, correction)

    async def _corrected(self, caller: Caller, sent: Incoming[ProfileCorrect], correction: ProfileCorrect) -> Reply:
        profile, trait = await self._profile.find(caller.user_id, correction.trait_id)
        if trait is None:
            raise NotFound("There is no trait of yours with this id.")
        value = trait.value
        if correction.action == "edit":
            if correction.value is None:
                raise InvalidMessage("An edit needs the value to hold instead.", field="payload.value")
            value = correction.value
            if is_too_long(value):
                raise InvalidMessage("The value is too long to be compared with others.", field="payload.value")
        # Rejections are kept for ever, so there is an end to them; a confirmation adds none.
        if correction.action != "confirm" and sum(one.status == "rejected" for one in profile.traits) >= REJECTED:
            raise TooLarge("Your profile holds as many rejected values as it can.")
        statement = Evidence(
            user_id=caller.user_id,
            key=trait.key,
            value=value,
            entity=_meant(trait, value),
            polarity=-1 if correction.action == "reject" else 1,
            kind=_KINDS[correction.action],
            observed_at=self._clock(),
            session_id=caller.session_id,
            message_id=sent.required_id,
            quote="",
            extractor="user",
        )
        evidence = [statement, *_rejections(statement, trait)]
        update = await self._profile.correct(caller, evidence, sent.message_id)
        if update is not None:
            return Reply(Outgoing.of(update), publish=update)
        # Nothing reads otherwise: nothing is stored, and only the one who asked is told.
        payload = {"version": profile.version, "changes": []}
        return Reply(
            Outgoing("profile_update", payload, self._new_id(), self._clock(), caller.session_id, sent.message_id)
        )


def _meant(trait: Trait, value: str) -> Entity | None:
    """Who a correction of `trait` to `value` is about."""
    if trait.entity is None or trait.key not in EXISTENCE or value == trait.value:
        return trait.entity
    entity = entity_of(trait.key, value)
    return entity if entity.relation else replace(entity, relation=trait.entity.relation if entity.name else "")


def _rejections(statement: Evidence, trait: Trait) -> list[Evidence]:
    """What a correction says of the value as it was, in all the ways that it was put; of a person by their name."""
    old = {normal(trait.value): trait.value} | {
        name.partition(OF)[0]: name.partition(OF)[0] for name in names_of(trait)
    }
    rejected = replace(statement, polarity=-1, kind="rejected", entity=trait.entity)
    if trait.key in EXISTENCE:
        # One who is called otherwise now is the same; one who has another name is not.
        is_another = statement.entity != trait.entity and trait.entity is not None and bool(trait.entity.name)
        stays = statement.kind != "edited" or is_functional(trait.key) or not is_another
        return [] if stays else [replace(rejected, value=trait.value)]
    if statement.kind == "confirmed" or (statement.kind == "edited" and is_functional(trait.key)):
        return []  # a slot of one value supersedes by itself; in a slot of many the old value would go on standing
    return [replace(rejected, value=value) for name, value in old.items() if name != normal(statement.value)]

"""The profile as its user reads and corrects it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from twin_sio.agent.capacity import REJECTED
from twin_sio.agent.traits import is_functional, normal
from twin_sio.clock import Clock, NewId
from twin_sio.domain import Caller, Evidence, EvidenceKind
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
        profile, trait = await self._profile.find(caller.user_id, correction.trait_id)
        if trait is None:
            raise NotFound("There is no trait of yours with this id.")
        value = trait.value
        if correction.action == "edit":
            if correction.value is None:
                raise InvalidMessage("An edit needs the value to hold instead.", field="payload.value")
            value = correction.value
        if correction.action != "confirm" and sum(one.status == "rejected" for one in profile.traits) >= REJECTED:
            raise TooLarge("Your profile holds as many rejected values as it can.")
        statement = Evidence(
            user_id=caller.user_id,
            key=trait.key,
            value=value,
            polarity=-1 if correction.action == "reject" else 1,
            kind=_KINDS[correction.action],
            observed_at=self._clock(),
            session_id=caller.session_id,
            message_id=sent.required_id,
            quote="",
            extractor="user",
        )
        evidence = [statement]
        if correction.action == "edit" and not is_functional(trait.key) and normal(value) != normal(trait.value):
            # A slot of one value supersedes by itself; in a slot of many the old value would go on standing.
            evidence.append(replace(statement, value=trait.value, polarity=-1, kind="rejected"))
        update = await self._profile.correct(caller, evidence, sent.message_id)
        if update is not None:
            return Reply(Outgoing.of(update), publish=update)
        payload = {"version": profile.version, "changes": []}
        return Reply(
            Outgoing("profile_update", payload, self._new_id(), self._clock(), caller.session_id, sent.message_id)
        )

"""Running generations: those that this instance produces, and what Redis keeps of those of every instance."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from twin_sio.clock import Clock, NewId, iso, monotonic
from twin_sio.delivery.chunks import (
    ANNOUNCE,
    DROP,
    END,
    ERASE,
    FIRST_CHUNK,
    GENERATION_TTL_S,
    ChunkTemplate,
    chunks_key,
    generation_in,
    generations_key,
    hash_value,
)
from twin_sio.delivery.pubsub import PubSub
from twin_sio.delivery.pubsub_cluster import ClusterPubSub
from twin_sio.domain import Generation
from twin_sio.redis_connection import REDIS_ERRORS
from twin_sio.transport.frames import EncodedFrame

_ANSWERED_MAX = 500
_TIMESTAMP_RESOLUTION_S = 0.001


@dataclass(frozen=True, slots=True)
class _Local:
    """A generation that this instance produces."""

    user_id: str
    generation: Generation
    template: ChunkTemplate


class RunningGenerations:
    """Frames of chunks, and the texts so far. `restore` writes again what Redis has lost of this instance's."""

    def __init__(self, pubsub: PubSub | ClusterPubSub, clock: Clock, new_id: NewId) -> None:
        self._pubsub = pubsub
        self._clock = clock
        self._new_id = new_id
        self._local: dict[str, _Local] = {}  # by generation id
        # User and message of the answers that this instance has published last: `restore` ends them once more, since
        # Redis may come back with a copy of its data in which they still run.
        self._answered: deque[tuple[str, str]] = deque(maxlen=_ANSWERED_MAX)
        # The last timestamp as it is sent, and the monotonic time at which it was made.
        self._timestamp, self._timestamp_at = b"", 0.0

    # -- of this instance --------------------------------------------------------------------------------------------

    def begin(self, user_id: str, generation: Generation) -> None:
        """This instance begins to produce it; it replaces an earlier attempt at the same answer."""
        self._local[generation.generation_id] = _Local(user_id, generation, ChunkTemplate(generation))
        self._announce(user_id, generation)

    def is_local(self, generation_id: str) -> bool:
        """Whether this instance produces it; no longer, once its user was erased."""
        return generation_id in self._local

    def local(self, user_id: str) -> list[Generation]:
        """The user's generations that this instance produces."""
        return [entry.generation for entry in self._local.values() if entry.user_id == user_id]

    def append(self, user_id: str, generation: Generation, text: str, *, is_last: bool) -> tuple[EncodedFrame, str]:
        """Add the next chunk, in Redis too; its frame, and the meta that describes the generation."""
        index = len(generation.texts)
        generation.texts.append(text)
        template = self._template(generation)
        # Unique, as generation and index are.
        message_id = b"%s.%d" % (template.generation_id, index)
        frame = template.frame(text, index, None, is_last, self._now(), message_id)
        if index == 0:
            self._keep(user_id, generation, text)
        else:
            # RPUSHX: a list that an erasure has deleted must not begin again, without an expiry.
            self._pubsub.command("RPUSHX", chunks_key(user_id, generation.generation_id), text)
        return frame, template.meta

    def snapshot_frame(self, generation: Generation) -> EncodedFrame:
        """The whole text so far as one chunk."""
        last = len(generation.texts) - 1
        text, message_id = "".join(generation.texts), self._new_id().encode()
        return self._template(generation).frame(text, last, 0, False, self._now(), message_id)

    def end(self, generation: Generation) -> None:
        """No more chunks will come; the answer itself is a durable event."""
        self._local.pop(generation.generation_id, None)

    def drop(self, user_id: str, generation: Generation) -> None:
        """The attempt has failed: delete it from Redis. A later attempt at the same answer stays."""
        keys = [generations_key(user_id), chunks_key(user_id, generation.generation_id)]
        self._pubsub.script(DROP, keys, generation.in_response_to, generation.generation_id)

    def answered(self, user_id: str, in_response_to: str) -> None:
        """The answer was stored: delete from Redis what is kept of its generation, whichever instance produced it."""
        self._answered.append((user_id, in_response_to))
        self._end(user_id, in_response_to)

    def on_erased(self, user_id: str, epoch: int) -> None:
        """All of before this epoch was erased: forget the generations that began before it. Their last words may have
        reached Redis after the erasure: what this instance has sent so far is deleted behind it, once more where Redis
        comes back."""
        for generation_id, entry in list(self._local.items()):
            if entry.user_id == user_id and entry.generation.epoch < epoch:
                del self._local[generation_id]
                self.drop(user_id, entry.generation)
                self._answered.append((user_id, entry.generation.in_response_to))

    def restore(self) -> None:
        """Redis is back, and may have lost or brought back anything: write what it should have."""
        for entry in self._local.values():
            self._pubsub.command("DEL", chunks_key(entry.user_id, entry.generation.generation_id))
            self._announce(entry.user_id, entry.generation)
            if entry.generation.texts:
                self._keep(entry.user_id, entry.generation, "".join(entry.generation.texts))
        running = {(entry.user_id, entry.generation.in_response_to) for entry in self._local.values()}
        for user_id, in_response_to in self._answered:
            if (user_id, in_response_to) not in running:
                self._end(user_id, in_response_to)

    def _announce(self, user_id: str, generation: Generation) -> None:
        self._pubsub.script(
            ANNOUNCE,
            [generations_key(user_id)],
            generation.in_response_to,
            hash_value(generation),
            generation.generation_id,
            chunks_key(user_id, ""),
            GENERATION_TTL_S,
        )

    def _keep(self, user_id: str, generation: Generation, text: str) -> None:
        """Begin the list of its chunks in Redis."""
        keys = [generations_key(user_id), chunks_key(user_id, generation.generation_id)]
        answered = generation.in_response_to, generation.generation_id
        self._pubsub.script(FIRST_CHUNK, keys, *answered, GENERATION_TTL_S, text)

    def _end(self, user_id: str, in_response_to: str) -> None:
        self._pubsub.script(END, [generations_key(user_id)], in_response_to, chunks_key(user_id, ""))

    def _template(self, generation: Generation) -> ChunkTemplate:
        entry = self._local.get(generation.generation_id)
        return entry.template if entry is not None else ChunkTemplate(generation)

    def _now(self) -> bytes:
        """The time as it is sent. It has milliseconds, so one is used again within the same millisecond."""
        at = monotonic()
        if at > self._timestamp_at + _TIMESTAMP_RESOLUTION_S:
            self._timestamp_at = at
            self._timestamp = iso(self._clock()).encode()
        return self._timestamp

    # -- of every instance, as Redis has them ------------------------------------------------------------------------

    async def elsewhere(self, user_id: str) -> list[Generation]:
        """The user's generations that other instances produce, without their texts; none while Redis is away."""
        if not self._pubsub.healthy:
            return []
        try:
            values = await self._pubsub.get_hash(generations_key(user_id))
        except REDIS_ERRORS:
            return []
        generations = [generation_in(value) for value in values.values()]
        return [generation for generation in generations if generation.generation_id not in self._local]

    async def texts(self, user_id: str, generation_id: str) -> Sequence[str]:
        """The chunks of any instance's generation so far; none while Redis is away."""
        try:
            return await self._pubsub.get_list(chunks_key(user_id, generation_id))
        except REDIS_ERRORS:
            return []

    async def erase(self, user_id: str) -> int:
        """Delete what Redis keeps of the user's generations; how many keys there were."""
        try:
            return await self._pubsub.run_script(ERASE, [generations_key(user_id)], chunks_key(user_id, ""))
        except REDIS_ERRORS:
            return 0  # they expire within minutes

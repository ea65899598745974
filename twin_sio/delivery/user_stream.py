"""One user's events on one instance, in the order of the log: what was sent, what waits, and what is missing."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import orjson

from twin_sio.background import BackgroundTasks
from twin_sio.clock import monotonic
from twin_sio.delivery.bounded_writer import BoundedWriter
from twin_sio.delivery.chunks import GENERATION_TTL_S, generation_of
from twin_sio.delivery.generations import RunningGenerations
from twin_sio.delivery.messages import AnswerChunk, DurableEvent
from twin_sio.delivery.newer_events import NewerEvent, newer_event
from twin_sio.domain import Caller, Event, Generation
from twin_sio.errors import StorageUnavailable
from twin_sio.protocol import Outgoing
from twin_sio.rate_limit import Bucket
from twin_sio.transport.frames import EncodedFrame, event_frame

ReadLog = Callable[[str, int, int], Awaitable[Sequence[Event]]]
"""The user's events after a seq, oldest first, at most so many. Raises `StorageUnavailable`."""

_GAP_WAIT_S = 0.05
_GAP_TRIES = 40
_PENDING_MAX = 1_000
_FINISHED_MAX = 32
_PAGE = 200  # events that are read of the log at once
# What is sent again of a user's log, to all connections of an instance together: events a second, and so many at once
# before. Who asks for all of it again and again costs no more than that.
_AGAIN_PER_S = 2_000
_AGAIN_AT_ONCE = 20_000
_AGAIN_BYTES = 8 * 1024  # of an event that count as one more


def storage_retry_s() -> float:
    """How long to wait before the log is read again; not the same on every instance."""
    return 0.5 + random.random()


@dataclass(slots=True)
class Subscriber:
    """A connection that receives the stream."""

    caller: Caller
    position: int  # the seq up to which it was served
    live: bool = False  # gets events as they come; before, `catch_up` serves it from the log
    complete: bool = True  # the log had everything after the position that the client named
    # By generation, the index of the next chunk. Another one than that is missing text, and gets it as a snapshot.
    chunk_next: dict[str, int] = field(default_factory=dict)
    replies: dict[int, EncodedFrame] = field(default_factory=dict)  # what it gets in the place of the event, by seq

    def frame_for(self, seq: int, event: PendingEvent) -> EncodedFrame:
        """What this connection gets at the event's place: its own reply, what it can read, or the event itself."""
        if self.replies and seq in self.replies:
            return self.replies.pop(seq)
        if event.newer is not None and event.newer.feature not in self.caller.features:
            return event.newer.in_its_place
        return event.frame


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """A stored event on its way to the connections."""

    frame: EncodedFrame
    generation_id: str | None = None  # of the answer that it is,
    in_response_to: str | None = None  # and the message that it answers
    newer: NewerEvent | None = None  # where there are clients that do not know its type

    @classmethod
    def of(cls, event: Event) -> PendingEvent:
        is_answer = event.type == "twin_message"
        frame = event_frame(event.type, Outgoing.of(event).envelope())
        return cls(
            frame,
            generation_id=event.payload.get("generation_id") if is_answer else None,
            in_response_to=event.in_response_to if is_answer else None,
            newer=newer_event(frame),
        )

    @classmethod
    def received(cls, event: DurableEvent) -> PendingEvent:
        """The event as another instance has published it."""
        frame = EncodedFrame(event.frame)
        return cls(frame, event.generation_id, event.in_response_to, newer_event(frame))


class UserStream:
    """Sends each stored event once, in the order of `seq`, to every live subscriber; fills gaps from the log."""

    def __init__(
        self,
        user_id: str,
        *,
        read: ReadLog,
        writer: BoundedWriter,
        running: RunningGenerations,
        tasks: BackgroundTasks,
    ) -> None:
        self.user_id = user_id
        self.head: int | None = None  # the seq up to which everything was sent; None until the log's head is known
        self.subscribers: dict[str, Subscriber] = {}  # by connection id
        self.generations: dict[str, Generation] = {}  # running ones, by id; of one message there is only one
        self.release_at = 0.0  # monotonic; an unused stream is unsubscribed and dropped after this
        # Ids of answers that were sent: a chunk of theirs that comes later was delayed in Redis.
        self._finished: deque[str] = deque(maxlen=_FINISHED_MAX)
        self._pending: dict[int, PendingEvent] = {}  # events beyond a gap, by seq
        self._target = 0  # the highest seq known to be stored
        self._gap_filler: asyncio.Task[None] | None = None
        self._read = read
        self._sent_again = Bucket(_AGAIN_PER_S, _AGAIN_AT_ONCE)
        self._writer = writer
        self._running = running
        self._tasks = tasks

    # -- durable events ----------------------------------------------------------------------------------------------

    def set_head(self, head: int) -> None:
        """The log's head, read after the channel was subscribed to: the stream begins there, or catches up to it."""
        if self.head is None:
            self.head = head
            self._pending = {seq: event for seq, event in self._pending.items() if seq > head}
            self._drain()
            self.catch_up_to(self._target)
        else:
            self.catch_up_to(head)

    def catch_up_to(self, head: int) -> None:
        """The log's head is `head`: read what was not received."""
        self._target = max(self._target, head)
        if self.head is not None and head > self.head:
            self._schedule_gap_fill(0.0)

    def reply_in_order(self, sid: str, seq: int, frame: EncodedFrame) -> None:
        """Send one connection `frame` in the place of the event `seq`; at once, where that was sent already."""
        subscriber = self.subscribers.get(sid)
        if subscriber is None:
            return
        if subscriber.position >= seq:
            self._writer.write(sid, frame)
        else:
            subscriber.replies[seq] = frame

    def enqueue(self, seq: int, event: PendingEvent) -> None:
        """An event was stored: send it in its order, once."""
        if self.head is not None and seq <= self.head:
            return
        self._target = max(self._target, seq)
        if len(self._pending) < _PENDING_MAX:
            self._pending[seq] = event
        self._drain()
        if self.head is not None and self.head < self._target:
            self._schedule_gap_fill(_GAP_WAIT_S)

    def _drain(self) -> None:
        while self.head is not None and (event := self._pending.pop(self.head + 1, None)) is not None:
            self._deliver(self.head + 1, event)

    def _deliver(self, seq: int, event: PendingEvent) -> None:
        self.head = seq
        if event.generation_id is not None and event.in_response_to is not None:
            self._finished.append(event.generation_id)
            self.generations = self._generations_except(event.in_response_to)
        for sid, subscriber in list(self.subscribers.items()):
            if not subscriber.live or subscriber.position >= seq:
                continue
            subscriber.position = seq
            if event.generation_id is not None:
                subscriber.chunk_next.pop(event.generation_id, None)
            self._writer.write(sid, subscriber.frame_for(seq, event))

    def _schedule_gap_fill(self, wait_s: float) -> None:
        if self._gap_filler is None or self._gap_filler.done():
            self._gap_filler = self._tasks.start(self._fill_gap(wait_s))

    async def _fill_gap(self, wait_s: float) -> None:
        """Read the log from the head on until nothing is missing. Waits first: the event may only be delayed."""
        await asyncio.sleep(wait_s)
        tries = 0
        while self.head is not None and self.head < self._target and tries < _GAP_TRIES:
            try:
                events = await self._read(self.user_id, self.head, _PAGE)
            except StorageUnavailable:
                await asyncio.sleep(storage_retry_s())
                continue
            for event in events:
                if event.seq > self.head:  # what retention has removed from the log is skipped
                    self._pending.pop(event.seq, None)
                    self._deliver(event.seq, PendingEvent.of(event))
            self._drain()
            if not events:
                tries += 1
                await asyncio.sleep(_GAP_WAIT_S)
        if self.head is not None and self.head < self._target:  # announced, but never stored
            self._target = self.head
            self._pending.clear()

    # -- chunks ------------------------------------------------------------------------------------------------------

    def begin_generation(self, generation: Generation) -> None:
        """A generation runs; it replaces an earlier attempt at the same answer."""
        self.generations = self._generations_except(generation.in_response_to)
        self.generations[generation.generation_id] = generation

    def _generations_except(self, in_response_to: str) -> dict[str, Generation]:
        return {
            generation_id: generation
            for generation_id, generation in self.generations.items()
            if generation.in_response_to != in_response_to
        }

    def send_chunk(self, generation: Generation, index: int, frame: EncodedFrame) -> None:
        """Send the last chunk of `generation.texts` to every live subscriber: as it is, or the whole text so far."""
        generation_id = generation.generation_id
        soft = self._writer.soft_bytes
        hard = self._writer.hard_bytes
        write = self._writer.connections.write  # not `BoundedWriter.write`: this runs for every chunk and device
        snapshot: EncodedFrame | None = None
        for sid, subscriber in self.subscribers.items():
            if not subscriber.live:
                continue
            outgoing = frame
            if subscriber.chunk_next.get(generation_id, 0) != index:
                outgoing = snapshot = snapshot or self._running.snapshot_frame(generation)
            buffered = write(sid, outgoing, unless_over=soft)
            if buffered > hard:
                self._writer.cut(sid)
            if buffered <= soft:  # a client that reads too slowly was skipped: the next it gets is a snapshot
                subscriber.chunk_next[generation_id] = index + 1

    def on_chunk(self, chunk: AnswerChunk) -> None:
        """A chunk from another instance. One that is ahead waits for the whole text, which Redis has."""
        if chunk.generation_id in self._finished:
            return
        generation = self.generations.get(chunk.generation_id)
        if generation is None:
            generation = generation_of(chunk.generation_id, chunk.meta)
            self.begin_generation(generation)
        if chunk.index == len(generation.texts):
            frame = EncodedFrame(chunk.frame)
            generation.texts.append(orjson.loads(frame.envelope)["payload"]["text"])
            self.send_chunk(generation, chunk.index, frame)
        elif chunk.index > len(generation.texts):
            self._tasks.start(self._load_and_send(generation))

    async def _load_and_send(self, generation: Generation) -> None:
        await self._load_texts(generation)
        if generation.texts and generation.generation_id in self.generations:
            self.send_chunk(generation, len(generation.texts) - 1, self._running.snapshot_frame(generation))

    async def _load_texts(self, generation: Generation) -> None:
        texts = await self._running.texts(self.user_id, generation.generation_id)
        if len(texts) > len(generation.texts):
            generation.texts[:] = texts

    async def load_running_generations(self) -> None:
        """Find generations that began before this instance subscribed."""
        for generation in self._running.local(self.user_id):
            self.generations[generation.generation_id] = generation
        for generation in await self._running.elsewhere(self.user_id):
            if generation.generation_id in self.generations:
                continue
            await self._load_texts(generation)
            if generation.generation_id not in self._finished and generation.generation_id not in self.generations:
                self.begin_generation(generation)
        oldest = monotonic() - GENERATION_TTL_S
        self.generations = {
            generation_id: generation
            for generation_id, generation in self.generations.items()
            if generation.started_at > oldest
        }

    def on_erased(self, epoch: int) -> None:
        """All of before this epoch was erased: show nothing more of answers that began before it."""
        kept = {name: generation for name, generation in self.generations.items() if generation.epoch >= epoch}
        self._finished.extend(self.generations.keys() - kept.keys())
        self.generations = kept

    # -- subscribers -------------------------------------------------------------------------------------------------

    async def catch_up(self, subscriber: Subscriber) -> bool:
        """Send the subscriber what the log has after its position; then it is live, and this returns without waiting.
        False: it has left, or was replaced."""
        while self._is_behind(subscriber):
            await self._send_page(subscriber)
        return self._go_live(subscriber)

    async def catch_up_from_log(self, subscriber: Subscriber, *, retries: bool = True) -> bool:
        """The same, but read the log to its end even where this stream seems up to date: it may have events that this
        instance never received. Where the log cannot be read it is read again later, or, without `retries`,
        `StorageUnavailable` is raised."""
        while self._is_current(subscriber) and await self._send_page(subscriber, retries=retries):
            pass
        while self._is_behind(subscriber):
            await self._send_page(subscriber, retries=retries)
        return self._go_live(subscriber)

    def _is_current(self, subscriber: Subscriber) -> bool:
        return self.subscribers.get(subscriber.caller.connection_id) is subscriber

    def _is_behind(self, subscriber: Subscriber) -> bool:
        return self._is_current(subscriber) and (self.head is None or subscriber.position < self.head)

    async def _send_page(self, subscriber: Subscriber, *, retries: bool = True) -> bool:
        """Send one page of the log, once the user has not had too much of it; false where there is none after the
        subscriber's position."""
        sid = subscriber.caller.connection_id
        if wait_ms := self._sent_again.wait_ms():
            await asyncio.sleep(wait_ms / 1000)
        head_before = self.head or 0
        try:
            events = await self._read(self.user_id, subscriber.position, _PAGE)
        except StorageUnavailable:
            if not retries:
                raise
            await asyncio.sleep(storage_retry_s())
            return True
        if not self._is_current(subscriber):
            return False
        if not events and subscriber.position < head_before:  # retention has removed what there was
            subscriber.complete = False
            subscriber.position = self.head or 0
        for event in events:
            subscriber.complete = subscriber.complete and event.seq == subscriber.position + 1
            subscriber.position = event.seq
            pending = PendingEvent.of(event)
            self._sent_again.spend(1 + len(pending.frame.raw) / _AGAIN_BYTES)
            buffered = self._writer.write(sid, subscriber.frame_for(event.seq, pending))
            self.enqueue(event.seq, pending)
            if buffered > self._writer.soft_bytes // 2:
                await self._writer.until_read(sid)
                if not self._is_current(subscriber):
                    return False
        return bool(events)

    def _go_live(self, subscriber: Subscriber) -> bool:
        if not self._is_current(subscriber):
            return False
        # The client may be ahead of this instance; never send it the same event twice. If it is ahead of the log
        # itself, the database was restored from a backup: report `complete: false`.
        known = max(self.head or 0, self._target)
        subscriber.complete = subscriber.complete and subscriber.position <= known
        subscriber.position = min(subscriber.position, known)
        sid = subscriber.caller.connection_id
        for generation in self.generations.values():
            if generation.texts:
                self._writer.write(sid, self._running.snapshot_frame(generation))
                subscriber.chunk_next[generation.generation_id] = len(generation.texts)
        subscriber.live = True
        return True

"""Who hears what, and in which order.

Durable events are ordered by their `seq`, which the log alone gives out. Every instance hands them to its sessions
strictly in that order: an event that is ahead of its turn waits, a hole is filled from the log. So it does not matter
over which way an event came, whether it came twice, or whether Redis lost it: Redis rings the bell, the log answers.

Chunks are ordered per generation by their index. A session that missed one gets the whole text so far as one merged
chunk. All else is ephemeral: sent once, in no promised order, dropped first where a client reads too slowly.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import socketio
import structlog

from twin_sio.background import BackgroundTasks
from twin_sio.clock import Clock, NewId, iso, monotonic
from twin_sio.delivery.chunks import (
    _ANNOUNCED,
    _DROPPED,
    _ENDED,
    _FIRST,
    _GENERATION_TTL_S,
    ChunkTemplate,
    _chunks_key,
    _generation,
    _generations_key,
    _running,
)
from twin_sio.delivery.messages import (
    CONTROL_CHANNEL,
    AnswerChunk,
    Broadcast,
    CloseOlderConnections,
    ControlMessage,
    DurableEvent,
    EphemeralEvent,
    Reconcile,
    UserMessage,
    decode_control,
    decode_user,
    encode_control,
    encode_user,
    own_prefix,
    user_channel,
    user_of,
)
from twin_sio.delivery.pubsub_cluster import make_pubsub
from twin_sio.domain import Caller, Event, Generation
from twin_sio.errors import StorageUnavailable
from twin_sio.protocol import Outgoing
from twin_sio.redis_connection import REDIS_ERRORS
from twin_sio.transport.frames import EncodedFrame, event_frame
from twin_sio.transport.socketio import NAMESPACE, SocketServer

log = structlog.get_logger("delivery")

_HOLE_PATIENCE_S = 0.05
_PENDING_MAX = 1_000
_HEAL_TRIES = 40
_RESUME_PAGE = 200
_LINGER_S = 30.0
_ANSWERED_MAX = 500
_OVER_MAX = 32
_STAMP_S = 0.001
_USER_ROOM = "user:"
_HARD_OF_USER = 4
"""So many times the bytes of one connection are held for all connections of a user together."""

ReadLog = Callable[[str, int, int], Awaitable[Sequence[Event]]]
ReadHeads = Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]


def room(user_id: str) -> str:
    """The Socket.IO room of all of a user's sessions."""
    return f"{_USER_ROOM}{user_id}"


@dataclass(slots=True)
class _Subscriber:
    """A connection as delivery sees it: how far it has been served."""

    caller: Caller
    position: int
    live: bool = False
    chunk_next: dict[str, int] = field(default_factory=dict)
    answers: dict[int, EncodedFrame] = field(default_factory=dict)  # what this session gets in the event's place

    def replacement_for(self, seq: int, frame: EncodedFrame) -> EncodedFrame:
        return self.answers.pop(seq, frame) if self.answers else frame


@dataclass(frozen=True, slots=True)
class _PendingEvent:
    """A durable event on its way through a feed."""

    frame: EncodedFrame
    generation_id: str | None = None  # of the answer that it is,
    in_response_to: str | None = None  # and what it answers


class Delivery(socketio.AsyncRedisManager):  # type: ignore[misc]
    """The Redis manager: a channel per user, one order for all of a user's sessions.

    Sending never waits and never raises. A write-only instance (`sockets` never attached, `listen=False`) reaches
    every session through Redis only; what Redis loses, the log's next reader finds.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        clock: Clock,
        new_id: NewId,
        read: ReadLog,
        heads: ReadHeads,
        listen: bool = True,
        soft_bytes: int = 256 * 1024,
        hard_bytes: int = 1024 * 1024,
        stuck_s: float = 5.0,
        on_control: Callable[[Broadcast], None] = lambda _: None,
    ) -> None:
        super().__init__(redis_url, write_only=not listen)
        self._clock = clock
        self._new_id = new_id
        self._read = read
        self._read_heads = heads
        self._soft = soft_bytes
        self._hard = hard_bytes
        self._stuck_s = stuck_s
        self.on_control = on_control
        self.channels = make_pubsub(
            redis_url,
            on_message=self._on_pubsub_message if listen else None,
            on_restored=self._restored,
        )
        self._own_prefix = own_prefix(self.channels.instance)
        self._feeds: dict[str, _UserStream] = {}
        self._local_generations: dict[str, tuple[str, Generation, ChunkTemplate]] = {}
        self._stamped, self._stamped_at = b"", 0.0
        self._answered: deque[tuple[str, str]] = deque(maxlen=_ANSWERED_MAX)
        self._rooms_of: dict[str, set[str]] = {}
        self._tasks = BackgroundTasks()
        self.slow_aborts = 0
        self.resumes = {"yes": 0, "no": 0}  # by whether they were complete

    # -- life --------------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """The library's hook before its first connection; `start` has done what there is to do."""

    async def start(self) -> None:
        """Begin to publish and listen."""
        await self.channels.start()
        if not self.write_only:
            self._spawn(self._watch_slow())

    async def stop(self) -> None:
        """End every task and connection of this manager."""
        await self._tasks.stop()
        await self.channels.stop()

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        return self._tasks.start(work)

    # -- sending -----------------------------------------------------------------------------------------------------

    def publish(self, event: Event, origin: Caller | None = None, answer: Outgoing | None = None) -> None:
        """Show a stored event to all of its user's sessions, each in its turn; `origin` gets `answer` instead."""
        item = _item(event)
        feed = self._feeds.get(event.user_id)
        if feed is not None:
            if origin is not None and answer is not None:
                feed.answer(origin.connection_id, event.seq, event_frame(answer.type, answer.envelope()))
            feed.enqueue(event.seq, item)
        if item.in_response_to is not None:
            # Whoever shows an answer says that it runs no longer: the instance that began it may have died meanwhile.
            self._answered.append((event.user_id, item.in_response_to))
            self._answer_ended(event.user_id, item.in_response_to)
        message = DurableEvent(event.seq, item.generation_id, item.in_response_to, item.frame.raw)
        self._notify_instances(event.user_id, message)

    def to_user(self, user_id: str, outgoing: Outgoing, *, skip: str | None = None) -> None:
        """Something ephemeral to all of a user's sessions, but for the connection `skip`."""
        frame = event_frame(outgoing.type, outgoing.envelope())
        self._ephemeral(user_id, frame, skip)
        self._notify_instances(user_id, EphemeralEvent(skip, frame.raw))

    def to_others(self, caller: Caller, outgoing: Outgoing) -> None:
        """Something ephemeral to the user's sessions other than the caller's."""
        self.to_user(caller.user_id, outgoing, skip=caller.connection_id)

    def to_session(self, caller: Caller, outgoing: Outgoing) -> None:
        """To one connection of this instance; for the dead it is dropped."""
        self._write(caller.connection_id, event_frame(outgoing.type, outgoing.envelope()))

    def to_session_in_order(self, caller: Caller, outgoing: Outgoing) -> None:
        """Something about a stored event to one connection, not ahead of what that has not been sent yet."""
        feed = self._feeds.get(caller.user_id)
        if feed is not None and outgoing.seq is not None:
            feed.answer(caller.connection_id, outgoing.seq, event_frame(outgoing.type, outgoing.envelope()))

    def _answer_ended(self, user_id: str, in_response_to: str) -> None:
        """The answer stands in the log: Redis forgets how it came about."""
        self.channels.script(_ENDED, [_generations_key(user_id)], in_response_to, _chunks_key(user_id, ""))

    def begin_generation(self, user_id: str, generation: Generation) -> None:
        """An answer begins under a fresh id; it replaces what an earlier attempt at it has shown."""
        self._local_generations[generation.generation_id] = (user_id, generation, ChunkTemplate(generation))
        feed = self._feeds.get(user_id)
        if feed is not None:
            feed.generations = feed.generations_except(generation.in_response_to)
            feed.generations[generation.generation_id] = generation
        self._announce(user_id, generation)

    def _announce(self, user_id: str, generation: Generation) -> None:
        """Let joiners elsewhere find it; under the message, so that a later attempt takes an earlier one's place."""
        words = generation.in_response_to, _running(generation), generation.generation_id
        self.channels.script(
            _ANNOUNCED, [_generations_key(user_id)], *words, _chunks_key(user_id, ""), _GENERATION_TTL_S
        )

    def chunk(self, user_id: str, generation: Generation, text: str, *, is_last: bool = False) -> None:
        """The next piece of an answer that this instance generates, to all of the user's sessions."""
        if generation.generation_id not in self._local_generations:  # its user was erased
            return
        index = len(generation.texts)
        generation.texts.append(text)
        mould = self._mould(generation)
        frame = self._chunk_frame(mould, text, index, is_last=is_last)
        feed = self._feeds.get(user_id)
        if feed is not None:
            feed.show_chunk(generation, index, frame)
        key = _chunks_key(user_id, generation.generation_id)
        if index == 0:
            self.channels.script(_FIRST, [key], _GENERATION_TTL_S, text)
        else:
            self.channels.command("RPUSHX", key, text)  # what was erased is not to begin anew, and without an end
        self._notify_instances(user_id, AnswerChunk(generation.generation_id, index, mould.meta, frame.raw))

    def end_generation(self, generation: Generation) -> None:
        """No more chunks will come; the answer itself is a durable event."""
        self._local_generations.pop(generation.generation_id, None)

    def drop_generation(self, user_id: str, generation: Generation) -> None:
        """This attempt came to nothing: Redis is to forget it. A later attempt at the same answer stays."""
        key = _chunks_key(user_id, generation.generation_id)
        self.channels.script(
            _DROPPED, [_generations_key(user_id), key], generation.in_response_to, generation.generation_id
        )

    def on_erased(self, user_id: str) -> None:
        """The user was erased: what is being said to them is shown to nobody who comes from now on."""
        for generation_id, (owner, _, _) in list(self._local_generations.items()):
            if owner == user_id:
                del self._local_generations[generation_id]
        self._answered = deque((one for one in self._answered if one[0] != user_id), maxlen=_ANSWERED_MAX)
        feed = self._feeds.get(user_id)
        if feed is not None:
            feed.finished_generations.extend(feed.generations)
            feed.generations = {}

    def broadcast(self, message: ControlMessage) -> None:
        """Send a message to all instances, this one included."""
        self.on_control(message)
        self.channels.publish(CONTROL_CHANNEL, encode_control(self.channels.instance, message))

    def close_older_connections(self, caller: Caller) -> None:
        """Close this session's earlier connections, on every instance."""
        message = CloseOlderConnections(caller.user_id, caller.session_id, caller.connection_id)
        self.on_control(message)
        self._notify_instances(caller.user_id, message)

    async def erase(self, user_id: str) -> int:
        """Let Redis forget what is being said to the user; how many keys there were."""
        try:
            running = await self.channels.get_hash(_generations_key(user_id))
            keys = [
                _generations_key(user_id),
                *(_chunks_key(user_id, orjson.loads(value)[0]) for value in running.values()),
            ]
            return await self.channels.delete(*keys)
        except REDIS_ERRORS:
            return 0  # they end by themselves within minutes

    async def partial(self, user_id: str, generation_id: str) -> str:
        """What a generation of any instance has sent so far, as far as Redis remembers."""
        try:
            texts = await self.channels.get_list(_chunks_key(user_id, generation_id))
        except REDIS_ERRORS:
            return ""
        return "".join(texts)

    def _mould(self, generation: Generation) -> ChunkTemplate:
        made = self._local_generations.get(generation.generation_id)
        return made[2] if made is not None else ChunkTemplate(generation)

    def _chunk_frame(
        self, mould: ChunkTemplate, text: str, index: int, *, first: int | None = None, is_last: bool = False
    ) -> EncodedFrame:
        # Unique, as generation and index are; of a merged one there may be several.
        message_id = b"%s.%d" % (mould.generation_id, index) if first is None else self._new_id().encode()
        return mould.frame(text, index, first, is_last, self._timestamp(), message_id)

    def _timestamp(self) -> bytes:
        """The time as the wire writes it. It has no more than milliseconds, so it is made anew only once in each."""
        at = monotonic()
        if at > self._stamped_at + _STAMP_S:
            self._stamped_at = at
            self._stamped = iso(self._clock()).encode()
        return self._stamped

    def snapshot_frame(self, generation: Generation) -> EncodedFrame:
        """The whole text so far as one chunk."""
        mould = self._mould(generation)
        return self._chunk_frame(mould, "".join(generation.texts), len(generation.texts) - 1, first=0)

    def _notify_instances(self, user_id: str, message: UserMessage) -> None:
        self.channels.publish(user_channel(user_id), encode_user(self.channels.instance, message))

    # -- sockets -----------------------------------------------------------------------------------------------------

    def _write(self, sid: str, frame: EncodedFrame, *, unless_over: int | None = None) -> int:
        server: SocketServer = self.server
        held = server.write(sid, frame, unless_over=unless_over)
        if held > self._hard:
            self._cut(sid)
        return held

    def _ephemeral(self, user_id: str, frame: EncodedFrame, skip: str | None) -> None:
        for sid, _ in self.get_participants(NAMESPACE, room(user_id)):
            if sid != skip:
                self._write(sid, frame, unless_over=self._soft)

    def _cut(self, sid: str) -> None:
        self.slow_aborts += 1
        log.info("slow_consumer_cut", connection=sid)
        self.server.abort(sid)

    async def _watch_slow(self) -> None:
        while True:
            await asyncio.sleep(min(0.5, self._stuck_s / 4))
            for sid in self.server.stalled(self._stuck_s):
                self._cut(sid)
            for sid in self._over_their_users_bound(self.server.backlog()):
                self._cut(sid)

    def _over_their_users_bound(self, backlog: Mapping[str, int]) -> list[str]:
        """Who is to go, so that no user holds more of this instance's memory than a few connections may. Those who
        hold most go first."""
        held: dict[str, int] = {}
        over = []
        for sid in sorted(backlog, key=lambda one: backlog[one]):
            user = next((name for name in self._rooms_of.get(sid, ()) if name.startswith(_USER_ROOM)), sid)
            held[user] = held.get(user, 0) + backlog[sid]
            if held[user] > _HARD_OF_USER * self._hard:
                over.append(sid)
        return over

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def subscribe(self, user_id: str) -> None:
        """Listen to the user's channel before anything of the user is read; waits a second at most."""
        feed = self._feed(user_id)
        self._release_later(feed)
        await self.channels.subscribe(user_channel(user_id))

    def _feed(self, user_id: str) -> _UserStream:
        feed = self._feeds.get(user_id)
        if feed is None:
            feed = self._feeds[user_id] = _UserStream(self, user_id)
        return feed

    def join_room(self, sid: str, user_id: str) -> None:
        """Put the connection into its user's room; `detach` or the library's disconnect takes it out."""
        if sid in self.server.raw_connections:
            # The library knows nobody who came through another door: it would look for them in vain in its own room.
            self.basic_enter_room(sid, NAMESPACE, None, eio_sid=f"raw-{sid}")
        self.basic_enter_room(sid, NAMESPACE, room(user_id))

    def attach(self, caller: Caller, *, head: int, last_seq: int | None, is_answering: bool) -> None:
        """Serve a connection from now on: what it missed after `last_seq`, `resumed`, then live events. Without
        `last_seq`: live from `head`, which was read after `prepare`, as was whether an answer may be under way."""
        feed = self._feed(caller.user_id)
        feed.set_head(head)
        session = _Subscriber(caller, head if last_seq is None else last_seq)
        feed.sessions[caller.connection_id] = session
        self._spawn(feed.catch_up(session, tell=last_seq is not None, adopt=is_answering))

    async def resume(self, caller: Caller, last_seq: int) -> Outgoing | None:
        """Send again everything after `last_seq`, then `resumed` (which is returned), then go on live.

        None where the connection is gone, or asked anew meanwhile. Raises `StorageUnavailable` where the log cannot be
        read; all the same the rest follows once it can.
        """
        feed = self._feeds.get(caller.user_id)
        session = feed.sessions.get(caller.connection_id) if feed else None
        if feed is None or session is None:
            return None
        fresh = replace(session, position=last_seq, live=False, chunk_next={})
        feed.sessions[caller.connection_id] = fresh  # an earlier catch-up finds itself replaced, and ends
        away = asyncio.Event()
        catching = self._spawn(feed.catch_up(fresh, tell=True, adopt=True, ask=True, on_away=away.set))
        waiting = self._spawn(away.wait())
        try:
            await asyncio.wait([catching, waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not catching.done():
            raise StorageUnavailable  # the connection's other events are not to wait for it
        told: Outgoing | None = catching.result()
        return told

    def detach(self, caller: Caller) -> None:
        """The connection is gone. Its user's channel is kept for a while: it tends to come back."""
        if caller.connection_id in self.server.raw_connections:  # of the others the library takes care itself
            self.basic_disconnect(caller.connection_id, NAMESPACE)
        feed = self._feeds.get(caller.user_id)
        if feed is None:
            return
        feed.sessions.pop(caller.connection_id, None)
        if not feed.sessions:
            self._release_later(feed)

    def _release_later(self, feed: _UserStream) -> None:
        feed.release_at = monotonic() + _LINGER_S
        asyncio.get_running_loop().call_later(_LINGER_S + 1, self._forget, feed)

    def _forget(self, feed: _UserStream) -> None:
        if not feed.sessions and monotonic() > feed.release_at and self._feeds.get(feed.user_id) is feed:
            del self._feeds[feed.user_id]
            self.channels.unsubscribe(user_channel(feed.user_id))

    def local_sessions(self, user_id: str) -> list[Caller]:
        """The user's connections on this instance."""
        feed = self._feeds.get(user_id)
        return [session.caller for session in feed.sessions.values()] if feed else []

    # -- hearing -----------------------------------------------------------------------------------------------------

    def _on_pubsub_message(self, channel: str, payload: bytes) -> None:
        if payload.startswith(self._own_prefix):  # most of what an instance receives it has published itself
            return
        if channel == CONTROL_CHANNEL:
            control = decode_control(payload)
            if control is not None:
                self.on_control(control)
            return
        feed = self._feeds.get(user_of(channel))
        if feed is None:
            return
        match decode_user(payload):
            case AnswerChunk() as chunk:
                feed.hear_chunk(chunk.generation_id, chunk.index, chunk.meta, EncodedFrame(chunk.frame))
            case DurableEvent() as event:
                frame = EncodedFrame(event.frame)
                feed.enqueue(event.seq, _PendingEvent(frame, event.generation_id, event.in_response_to))
            case EphemeralEvent() as ephemeral:
                self._ephemeral(feed.user_id, EncodedFrame(ephemeral.frame), ephemeral.skip)
            case CloseOlderConnections() as replaced:
                self.on_control(replaced)

    def _restored(self) -> None:
        """Redis is back: tell what it has forgotten, look at the log for what it has swallowed."""
        for user_id, generation, _ in self._local_generations.values():
            key = _chunks_key(user_id, generation.generation_id)
            self.channels.command("DEL", key)
            if generation.texts:
                self.channels.script(_FIRST, [key], _GENERATION_TTL_S, "".join(generation.texts))
            self._announce(user_id, generation)
        running = {(user_id, generation.in_response_to) for user_id, generation, _ in self._local_generations.values()}
        for user_id, in_response_to in self._answered:
            if (user_id, in_response_to) not in running:
                self._answer_ended(user_id, in_response_to)
        self.channels.publish(CONTROL_CHANNEL, encode_control(self.channels.instance, Reconcile()))
        if not self.write_only:
            self._spawn(self.reconcile())

    async def reconcile(self) -> None:
        """Compare every feed with the log and serve what was missed; then tell the clients to do the same."""
        while True:
            users = list(self._feeds)
            try:
                for start in range(0, len(users), 500):
                    heads = await self._read_heads(users[start : start + 500])
                    for user_id, head in heads.items():
                        if user_id in self._feeds:
                            self._feeds[user_id].catch_up_to(head)
                break
            except StorageUnavailable:
                await asyncio.sleep(0.5 + random.random())
        for feed in list(self._feeds.values()):
            for session in list(feed.sessions.values()):
                self.to_session(
                    session.caller, Outgoing("resync", {"reason": "redis_restored"}, self._new_id(), self._clock())
                )

    # -- the library's interface -------------------------------------------------------------------------------------

    async def emit(
        self, event: str, data: Any, _namespace: str | None = None, room: Any = None, skip_sid: Any = None, **_: Any
    ) -> None:
        """The stock call, for a room `user:...`: ephemeral, on every instance."""
        if isinstance(room, str) and room.startswith("user:"):
            frame = event_frame(event, data)
            user_id = room.removeprefix("user:")
            if not self.write_only:
                self._ephemeral(user_id, frame, skip_sid)
            self._notify_instances(user_id, EphemeralEvent(skip_sid, frame.raw))
        elif isinstance(room, str) and self.server is not None:
            self._write(room, event_frame(event, data))

    async def _publish(self, data: Any) -> None:
        """What the stock manager would broadcast (disconnects and rooms of sids elsewhere) has no use here."""

    async def disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        """Forget a connection; in time that does not grow with the number of rooms."""
        self.basic_disconnect(sid, namespace)

    def basic_enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        super().basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
        self._rooms_of.setdefault(sid, set()).add(room)

    def basic_disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        for name in self._rooms_of.pop(sid, ()):
            self.basic_leave_room(sid, namespace, name)
        if self.server is not None:
            self.server.forget(sid)
        self.callbacks.pop(sid, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            waiting = pending.get(namespace)
            if waiting is not None and sid in waiting:
                waiting.remove(sid)
                if not waiting:
                    del pending[namespace]


class _UserStream:
    """One user on this instance: the point up to which everything was served, and what waits beyond a hole."""

    def __init__(self, delivery: Delivery, user_id: str) -> None:
        self._delivery = delivery
        self.user_id = user_id
        self.head: int | None = None
        self.sessions: dict[str, _Subscriber] = {}
        self.generations: dict[str, Generation] = {}
        self.finished_generations: deque[str] = deque(maxlen=_OVER_MAX)
        self.release_at = 0.0
        self._pending: dict[int, _PendingEvent] = {}
        self._target = 0
        self._healer: asyncio.Task[Any] | None = None

    # -- durable -----------------------------------------------------------------------------------------------------

    def set_head(self, head: int) -> None:
        """The log stands at `head` (read after the subscription): the feed begins there, or catches up."""
        if self.head is None:
            self.head = head
            self._pending = {seq: item for seq, item in self._pending.items() if seq > head}
            self._drain()
            self.catch_up_to(self._target)
        else:
            self.catch_up_to(head)

    def catch_up_to(self, head: int) -> None:
        """The log is at `head`: fetch what has not been heard."""
        self._target = max(self._target, head)
        if self.head is not None and head > self.head:
            self._schedule_gap_fill(0.0)

    def answer(self, sid: str, seq: int, frame: EncodedFrame) -> None:
        """Give one session `frame` in the place of the event `seq`; at once, where that has passed it by."""
        session = self.sessions.get(sid)
        if session is None:
            return
        if session.position >= seq:
            self._delivery._write(sid, frame)
        else:
            session.answers[seq] = frame

    def enqueue(self, seq: int, item: _PendingEvent) -> None:
        """An event was stored: serve it in its turn, once."""
        if self.head is not None and seq <= self.head:
            return
        self._target = max(self._target, seq)
        if len(self._pending) < _PENDING_MAX:
            self._pending[seq] = item
        self._drain()
        if self.head is not None and self.head < self._target:
            self._schedule_gap_fill(_HOLE_PATIENCE_S)

    def _drain(self) -> None:
        while self.head is not None and (item := self._pending.pop(self.head + 1, None)) is not None:
            self._deliver(self.head + 1, item)

    def _deliver(self, seq: int, item: _PendingEvent) -> None:
        self.head = seq
        if item.generation_id is not None and item.in_response_to is not None:
            self.finished_generations.append(item.generation_id)
            self.generations = self.generations_except(item.in_response_to)
        for sid, session in list(self.sessions.items()):
            if not session.live or session.position >= seq:
                continue
            session.position = seq
            if item.generation_id is not None:
                session.chunk_next.pop(item.generation_id, None)
            self._delivery._write(sid, session.replacement_for(seq, item.frame))

    def _schedule_gap_fill(self, patience_s: float) -> None:
        if self._healer is None or self._healer.done():
            self._healer = self._delivery._spawn(self._fill_gap(patience_s))

    async def _fill_gap(self, patience_s: float) -> None:
        """Read the log from the head on until nothing is missing. A hole may just be late on its way."""
        await asyncio.sleep(patience_s)
        tries = 0
        while self.head is not None and self.head < self._target and tries < _HEAL_TRIES:
            try:
                events = await self._delivery._read(self.user_id, self.head, _RESUME_PAGE)
            except StorageUnavailable:
                await asyncio.sleep(0.5 + random.random())
                continue
            for event in events:
                if event.seq > self.head:  # what the log no longer has (retention) is passed over
                    self._pending.pop(event.seq, None)
                    self._deliver(event.seq, _item(event))
            self._drain()
            if not events:
                tries += 1
                await asyncio.sleep(_HOLE_PATIENCE_S)
        if self.head is not None and self.head < self._target:  # told of what the log has never had
            self._target = self.head
            self._pending.clear()

    # -- chunks ------------------------------------------------------------------------------------------------------

    def generations_except(self, in_response_to: str) -> dict[str, Generation]:
        return {
            name: generation
            for name, generation in self.generations.items()
            if generation.in_response_to != in_response_to
        }

    def show_chunk(self, generation: Generation, index: int, frame: EncodedFrame) -> None:
        """A chunk that `generation.texts` holds already, to every live session: as it is, or merged."""
        generation_id, soft, hard = generation.generation_id, self._delivery._soft, self._delivery._hard
        write = self._delivery.server.write
        whole: EncodedFrame | None = None
        for sid, session in self.sessions.items():
            if not session.live:
                continue
            shown = frame
            if session.chunk_next.get(generation_id, 0) != index:
                shown = whole = whole or self._delivery.snapshot_frame(generation)
            held = write(sid, shown, unless_over=soft)  # `_write`, flat: this runs for every chunk and device
            if held > hard:
                self._delivery._cut(sid)
            if held <= soft:  # to who reads too slowly the next one that is written is a merged one
                session.chunk_next[generation_id] = index + 1

    def hear_chunk(self, generation_id: str, index: int, meta: str, frame: EncodedFrame) -> None:
        """A chunk from another instance. One that is ahead waits for the whole text, which Redis holds."""
        if generation_id in self.finished_generations:  # a Redis that stood still says it late
            return
        generation = self.generations.get(generation_id)
        if generation is None:
            generation = _generation(generation_id, meta)
            self.generations = self.generations_except(generation.in_response_to)
            self.generations[generation_id] = generation
        if index == len(generation.texts):
            generation.texts.append(orjson.loads(frame.envelope)["payload"]["text"])
            self.show_chunk(generation, index, frame)
        elif index > len(generation.texts):
            self._delivery._spawn(self._refetch(generation))

    async def _refetch(self, generation: Generation) -> None:
        await self._fetch(generation)
        if generation.texts and generation.generation_id in self.generations:
            self.show_chunk(generation, len(generation.texts) - 1, self._delivery.snapshot_frame(generation))

    async def _fetch(self, generation: Generation) -> None:
        try:
            texts = await self._delivery.channels.get_list(_chunks_key(self.user_id, generation.generation_id))
        except REDIS_ERRORS:
            return
        if len(texts) > len(generation.texts):
            generation.texts[:] = texts

    async def load_running_generations(self) -> None:
        """Learn of generations that began before this instance listened."""
        for user_id, mine, _ in self._delivery._local_generations.values():
            if user_id == self.user_id:
                self.generations[mine.generation_id] = mine
        if not self._delivery.channels.healthy:
            return
        try:
            running = await self._delivery.channels.get_hash(_generations_key(self.user_id))
        except REDIS_ERRORS:
            return
        for found in running.values():
            generation = _generation(*orjson.loads(found))
            generation_id = generation.generation_id
            if generation_id in self.generations or generation_id in self._delivery._local_generations:
                continue
            await self._fetch(generation)
            if generation_id not in self.finished_generations and generation_id not in self.generations:
                self.generations = self.generations_except(generation.in_response_to)
                self.generations[generation_id] = generation
        stale = monotonic() - _GENERATION_TTL_S
        self.generations = {name: one for name, one in self.generations.items() if one.started_at > stale}

    # -- resume ------------------------------------------------------------------------------------------------------

    async def catch_up(
        self,
        session: _Subscriber,
        *,
        tell: bool,
        adopt: bool,
        ask: bool = False,
        on_away: Callable[[], None] = lambda: None,
    ) -> Outgoing | None:
        """Serve one session from the log until it stands where the feed stands; then it is live. `adopt`: an answer may
        be under way that this instance has not heard of. `ask`: the log may have what the feed was never told of, so it
        is read in any case, and the feed hears of it, too. `on_away`: the log could not be read, and is asked again."""
        sid = session.caller.connection_id
        complete = True
        if adopt:
            await self.load_running_generations()
        while self.sessions.get(sid) is session:
            if not ask and self.head is not None and session.position >= self.head:
                break
            stood = self.head or 0
            try:
                events = await self._delivery._read(self.user_id, session.position, _RESUME_PAGE)
            except StorageUnavailable:
                on_away()
                await asyncio.sleep(0.5 + random.random())
                continue
            if self.sessions.get(sid) is not session:
                return None
            ask = ask and bool(events)  # a page may be short
            if not events and session.position < stood:
                complete = False  # the log ends before the feed's head: retention has removed what there was
                session.position = self.head or 0
                break
            for event in events:
                complete = complete and event.seq == session.position + 1
                session.position = event.seq
                item = _item(event)
                held = self._delivery._write(sid, session.replacement_for(event.seq, item.frame))
                self.enqueue(event.seq, item)
                if held > self._delivery._soft // 2:
                    await self._drained(sid)
                    if self.sessions.get(sid) is not session:
                        return None
        if self.sessions.get(sid) is not session:
            return None
        # A client that was elsewhere may have seen more than this feed was told of yet, and gets none of it again.
        # Where it has seen more than there is, the log was restored from a backup.
        known = max(self.head or 0, self._target)
        complete = complete and session.position <= known
        session.position = min(session.position, known)
        # From here to the end nothing waits: what follows is live, and in order.
        for generation in self.generations.values():
            if generation.texts:
                self._delivery._write(sid, self._delivery.snapshot_frame(generation))
                session.chunk_next[generation.generation_id] = len(generation.texts)
        session.live = True
        told = Outgoing(
            "resumed",
            {"through_seq": session.position, "complete": complete},
            self._delivery._new_id(),
            self._delivery._clock(),
        )
        if tell:
            self._delivery.resumes["yes" if complete else "no"] += 1
            self._delivery.to_session(session.caller, told)
        return told

    async def _drained(self, sid: str) -> None:
        """Wait until the client has read most of it, so that a long resume is not taken for a slow consumer."""
        while self._delivery.server.buffered_bytes(sid)[0] > self._delivery._soft // 2:  # noqa: ASYNC110 - the library's queue
            await asyncio.sleep(0.005)


def _item(event: Event) -> _PendingEvent:
    is_answer = event.type == "twin_message"
    return _PendingEvent(
        event_frame(event.type, Outgoing.of(event).envelope()),
        generation_id=event.payload.get("generation_id") if is_answer else None,
        in_response_to=event.in_response_to if is_answer else None,
    )

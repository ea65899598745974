"""Which connection receives what, and in which order.

Durable events are ordered by their `seq`, which the log alone gives out. Every instance sends them to its connections
strictly in that order: an event that is ahead of its turn waits, a gap is filled from the log. So it does not matter
over which way an event came, whether it came twice, or whether Redis lost it: Redis wakes, the log says what there is.

Chunks are ordered per generation by their index. A connection that missed one gets the whole text so far as one
merged chunk. All else is ephemeral: sent once, in no promised order, dropped first where a client reads too slowly.

Here: `Delivery`. `user_stream`: the order of one user's events. `catching_up`: all of them, after an outage.
`generations`, `chunks`: running answers. `messages`: what instances send each other. `pubsub`, `pubsub_cluster`: Redis.
`bounded_writer`: slow clients. `newer_events`: what older clients get. May import `transport`, `protocol` and below.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from twin_sio.background import BackgroundTasks
from twin_sio.clock import Clock, NewId, monotonic
from twin_sio.delivery.bounded_writer import BoundedWriter
from twin_sio.delivery.catching_up import CatchingUp, ReadHeads
from twin_sio.delivery.generations import RunningGenerations
from twin_sio.delivery.messages import (
    CONTROL_CHANNEL,
    AnswerChunk,
    Broadcast,
    CloseOlderConnections,
    ControlMessage,
    DurableEvent,
    EphemeralEvent,
    Reconcile,
    SessionEvent,
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
from twin_sio.delivery.user_stream import PendingEvent, ReadLog, Subscriber, UserStream
from twin_sio.domain import Caller, Event, Generation
from twin_sio.errors import StorageUnavailable
from twin_sio.protocol import Outgoing
from twin_sio.transport import NAMESPACE, ConnectionRegistry
from twin_sio.transport.frames import EncodedFrame, ack_frame, acknowledging, event_frame
from twin_sio.transport.room_manager import STOCK_CHANNEL, RoomManager, user_room

_LINGER_S = 30.0


class Delivery:
    """A channel per user, one order for all of a user's sessions.

    Sending never waits and never raises. One that does not listen (a worker's) reaches every session through Redis
    only; what Redis loses, the log's next reader finds.
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
        on_round_trip: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        self._read = read
        self._on_control = on_control
        on_message = self._on_pubsub_message if listen else None
        self.channels = make_pubsub(
            redis_url, on_message=on_message, on_restored=self._restored, on_round_trip=on_round_trip
        )
        self._own_prefix = own_prefix(self.channels.instance)
        self._running = RunningGenerations(self.channels, clock, new_id)
        self.connections = ConnectionRegistry()
        """The connections of this instance; the transports keep it."""
        self._writer = BoundedWriter(
            self.connections,
            lambda sid: self.rooms.room_of_user(sid),
            soft_bytes=soft_bytes,
            hard_bytes=hard_bytes,
            stuck_s=stuck_s,
        )
        self.rooms = RoomManager(
            redis_url,
            self.connections,
            write=self._writer.write_ephemeral,
            publish=self.channels.publish,
            publish_to_user=self._publish_ephemeral,
            write_only=not listen,
        )
        """The client manager of the Socket.IO server."""
        self._listens = listen
        # By user: those with a connection here, or with one in the last `_LINGER_S`. Each has its channel subscribed.
        self._streams: dict[str, UserStream] = {}
        self._tasks = BackgroundTasks()
        self._catching_up = CatchingUp(self._streams, heads, self._resync, self._tasks)
        self.resumes = {"yes": 0, "no": 0}
        """Resumes served, by whether they were complete."""

    @property
    def slow_aborts(self) -> int:
        """Connections cut for reading too slowly."""
        return self._writer.aborts

    # -- start and stop ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to publish and subscribe."""
        await self.channels.start()
        if self._listens:
            await self.channels.subscribe(STOCK_CHANNEL, 0)
            self._tasks.start(self._writer.watch())

    async def stop(self) -> None:
        """End every task and connection of Redis."""
        await self._tasks.stop()
        await self.channels.stop()

    # -- sending -------------------------------------------------------------------------------------------------------

    def publish(self, event: Event) -> None:
        """Send a stored event to all of its user's sessions, in its order."""
        self._publish(event, None, None)

    def _publish(self, event: Event, origin: Caller | None, reply: EncodedFrame | None) -> None:
        pending = PendingEvent.of(event)
        stream = self._streams.get(event.user_id)
        if stream is not None:
            if origin is not None and reply is not None:
                stream.reply_in_order(origin.connection_id, event.seq, reply)
            stream.enqueue(event.seq, pending)
        if pending.in_response_to is not None:
            # The instance that publishes an answer also removes its generation: the one that began it may be dead.
            self._running.answered(event.user_id, pending.in_response_to)
        message = DurableEvent(event.seq, pending.generation_id, pending.in_response_to, pending.frame.raw)
        self._notify_instances(event.user_id, message)

    def to_user(self, user_id: str, outgoing: Outgoing, *, skip: str | None = None) -> None:
        """Send something ephemeral to all of a user's sessions, but not to the connection `skip`."""
        frame = event_frame(outgoing.type, outgoing.envelope())
        self._ephemeral(user_id, frame, skip)
        self._publish_ephemeral(user_id, frame, skip)

    def to_others(self, caller: Caller, outgoing: Outgoing) -> None:
        """Send something ephemeral to the user's sessions other than the caller's."""
        self.to_user(caller.user_id, outgoing, skip=caller.connection_id)

    def to_session(self, caller: Caller, outgoing: Outgoing) -> None:
        """Send to one connection of this instance; nothing happens where it has gone."""
        self._writer.write(caller.connection_id, event_frame(outgoing.type, outgoing.envelope()))

    def to_session_anywhere(self, user_id: str, session_id: str, outgoing: Outgoing) -> None:
        """Send something ephemeral to one session, on whichever instance it is."""
        frame = event_frame(outgoing.type, outgoing.envelope())
        self._to_session(user_id, session_id, frame)
        self._notify_instances(user_id, SessionEvent(session_id, frame.raw))

    def _to_session(self, user_id: str, session_id: str, frame: EncodedFrame) -> None:
        for caller in self.local_sessions(user_id):
            if caller.session_id == session_id:
                self._writer.write(caller.connection_id, frame)

    def to_session_in_order(self, caller: Caller, outgoing: Outgoing) -> None:
        """Send something about a stored event to one connection, not before the events that come before it."""
        self._in_order(caller, outgoing.seq, event_frame(outgoing.type, outgoing.envelope()))

    def _in_order(self, caller: Caller, seq: int | None, frame: EncodedFrame) -> None:
        stream = self._streams.get(caller.user_id)
        if stream is not None and seq is not None:
            stream.reply_in_order(caller.connection_id, seq, frame)

    def reply(
        self, caller: Caller, outgoing: Outgoing, *, publish: Event | None = None, ack_id: int | None = None
    ) -> None:
        """Send the caller a reply, and its acknowledgement where the client asked for one. With `publish` that event
        goes to the user's other sessions and the caller gets the reply in its place; a reply with a `seq` keeps the
        order of the log; any other is sent at once."""
        frame = event_frame(outgoing.type, outgoing.envelope())
        if publish is not None:
            self._publish(publish, caller, frame)
        elif outgoing.seq is not None:
            self._in_order(caller, outgoing.seq, frame)
        else:
            self._writer.write(caller.connection_id, frame)
        if ack_id is not None:
            self._writer.write(caller.connection_id, acknowledging(ack_id, frame))

    def acknowledge(self, caller: Caller, ack_id: int) -> None:
        """Send the acknowledgement of an event that has no reply."""
        self._writer.write(caller.connection_id, ack_frame(ack_id, None))

    def begin_generation(self, user_id: str, generation: Generation) -> None:
        """An answer begins under a fresh id; it replaces what an earlier attempt at it has shown."""
        stream = self._streams.get(user_id)
        if stream is not None:
            stream.begin_generation(generation)
        self._running.begin(user_id, generation)

    def chunk(self, user_id: str, generation: Generation, text: str, *, is_last: bool = False) -> None:
        """Send the next chunk of an answer that this instance generates to all of the user's sessions."""
        if not self._running.is_local(generation.generation_id):  # its user was erased
            return
        index = len(generation.texts)
        frame, meta = self._running.append(user_id, generation, text, is_last=is_last)
        stream = self._streams.get(user_id)
        if stream is not None:
            stream.send_chunk(generation, index, frame)
        self._notify_instances(user_id, AnswerChunk(generation.generation_id, index, meta, frame.raw))

    def end_generation(self, generation: Generation) -> None:
        """No more chunks will come; the answer itself is a durable event."""
        self._running.end(generation)

    def drop_generation(self, user_id: str, generation: Generation) -> None:
        """This attempt has failed: delete it from Redis. A later attempt at the same answer stays."""
        self._running.drop(user_id, generation)

    def on_erased(self, user_id: str, epoch: int) -> None:
        """All of before this epoch was erased: answers that began before it are shown to nobody from now on."""
        self._running.on_erased(user_id, epoch)
        stream = self._streams.get(user_id)
        if stream is not None:
            stream.on_erased(epoch)

    def broadcast(self, message: ControlMessage) -> None:
        """Send a message to all instances, this one included."""
        self._on_control(message)
        self.channels.publish(CONTROL_CHANNEL, encode_control(self.channels.instance, message))

    def close_older_connections(self, caller: Caller) -> None:
        """Close this session's earlier connections, on every instance."""
        message = CloseOlderConnections(caller.user_id, caller.session_id, caller.connection_id)
        self._on_control(message)
        self._notify_instances(caller.user_id, message)

    async def erase(self, user_id: str) -> int:
        """Delete from Redis what is being generated for the user; how many keys there were."""
        return await self._running.erase(user_id)

    async def partial(self, user_id: str, generation_id: str) -> str:
        """The text of any instance's generation so far, as Redis has it."""
        return "".join(await self._running.texts(user_id, generation_id))

    def _notify_instances(self, user_id: str, message: UserMessage) -> None:
        self.channels.publish(user_channel(user_id), encode_user(self.channels.instance, message))

    def _ephemeral(self, user_id: str, frame: EncodedFrame, skip: str | None) -> None:
        for sid in self.rooms.members(user_room(user_id)):
            if sid != skip:
                self._writer.write_ephemeral(sid, frame)

    def _publish_ephemeral(self, user_id: str, frame: EncodedFrame, skip: str | None) -> None:
        self._notify_instances(user_id, EphemeralEvent(skip, frame.raw))

    # -- sessions ------------------------------------------------------------------------------------------------------

    async def subscribe(self, user_id: str) -> None:
        """Subscribe to the user's channel before anything of the user is read; waits a second at most."""
        self._release_later(self._stream(user_id))
        await self.channels.subscribe(user_channel(user_id))

    def _stream(self, user_id: str) -> UserStream:
        stream = self._streams.get(user_id)
        if stream is None:
            stream = self._streams[user_id] = UserStream(
                user_id, read=self._read, writer=self._writer, running=self._running, tasks=self._tasks
            )
        return stream

    def join_room(self, sid: str, user_id: str) -> None:
        """Put the connection into its user's room; its transport takes it out when it ends."""
        self.rooms.basic_enter_room(sid, NAMESPACE, user_room(user_id))

    def attach(self, caller: Caller, *, head: int, last_seq: int | None, is_answering: bool) -> None:
        """Serve a connection from now on: what it missed after `last_seq`, `resumed`, then live events. Without
        `last_seq`: live from `head`. Both `head` and `is_answering`, whether an answer may be running, were read after
        `subscribe`."""
        stream = self._stream(caller.user_id)
        stream.set_head(head)
        subscriber = Subscriber(caller, head if last_seq is None else last_seq)
        stream.subscribers[caller.connection_id] = subscriber
        self._tasks.start(self._serve(stream, subscriber, is_answering, is_resume=last_seq is not None))

    async def _serve(self, stream: UserStream, subscriber: Subscriber, is_answering: bool, is_resume: bool) -> None:
        if is_answering:
            await stream.load_running_generations()
        if await stream.catch_up(subscriber) and is_resume:
            self.to_session(subscriber.caller, self._resumed(subscriber))

    async def resume(self, caller: Caller, last_seq: int) -> Outgoing | None:
        """Send again everything after `last_seq`, then go on live; returns `resumed`, which the caller sends before it
        awaits anything, so that it comes before what follows live.

        None where the connection is gone, or has asked again meanwhile. Raises `StorageUnavailable` where the log
        cannot be read; the rest, and `resumed`, follow all the same once it can.
        """
        stream = self._streams.get(caller.user_id)
        subscriber = stream.subscribers.get(caller.connection_id) if stream else None
        if stream is None or subscriber is None:
            return None
        fresh = replace(subscriber, position=last_seq, live=False, complete=True, chunk_next={})
        stream.subscribers[caller.connection_id] = fresh  # ends an earlier catch-up, which finds itself replaced
        await stream.load_running_generations()
        try:
            is_live = await stream.catch_up_from_log(fresh, retries=False)
        except StorageUnavailable:  # the connection's other events must not wait for it
            self._tasks.start(self._serve_again(stream, fresh))
            raise
        return self._resumed(fresh) if is_live else None

    async def _serve_again(self, stream: UserStream, subscriber: Subscriber) -> None:
        if await stream.catch_up_from_log(subscriber):
            self.to_session(subscriber.caller, self._resumed(subscriber))

    def _resumed(self, subscriber: Subscriber) -> Outgoing:
        self.resumes["yes" if subscriber.complete else "no"] += 1
        payload = {"through_seq": subscriber.position, "complete": subscriber.complete}
        return Outgoing("resumed", payload, self._new_id(), self._clock())

    def detach(self, caller: Caller) -> None:
        """The connection is gone. Its user's channel stays subscribed for a while: clients often come back."""
        stream = self._streams.get(caller.user_id)
        if stream is None:
            return
        stream.subscribers.pop(caller.connection_id, None)
        if not stream.subscribers:
            self._release_later(stream)

    def _release_later(self, stream: UserStream) -> None:
        stream.release_at = monotonic() + _LINGER_S
        asyncio.get_running_loop().call_later(_LINGER_S + 1, self._release, stream)

    def _release(self, stream: UserStream) -> None:
        is_unused = not stream.subscribers and monotonic() > stream.release_at
        if is_unused and self._streams.get(stream.user_id) is stream:
            del self._streams[stream.user_id]
            self.channels.unsubscribe(user_channel(stream.user_id))

    def local_sessions(self, user_id: str) -> list[Caller]:
        """The user's connections on this instance."""
        stream = self._streams.get(user_id)
        return [subscriber.caller for subscriber in stream.subscribers.values()] if stream else []

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _on_pubsub_message(self, channel: str, payload: bytes) -> None:
        if channel == STOCK_CHANNEL:
            self.rooms.on_stock_message(payload)
            return
        if payload.startswith(self._own_prefix):  # most of what an instance receives it has published itself
            return
        if channel == CONTROL_CHANNEL:
            control = decode_control(payload)
            if control is not None:
                self._on_control(control)
            return
        stream = self._streams.get(user_of(channel))
        if stream is None:
            return
        match decode_user(payload):
            case AnswerChunk() as chunk:
                stream.on_chunk(chunk)
            case DurableEvent() as event:
                stream.enqueue(event.seq, PendingEvent.received(event))
            case EphemeralEvent() as ephemeral:
                self._ephemeral(stream.user_id, EncodedFrame(ephemeral.frame), ephemeral.skip)
            case SessionEvent() as event_of_session:
                self._to_session(stream.user_id, event_of_session.session_id, EncodedFrame(event_of_session.frame))
            case CloseOlderConnections() as replaced:
                self._on_control(replaced)

    def _restored(self) -> None:
        """Redis is back: put back what it has lost, read from the log what it did not deliver."""
        self._running.restore()
        self.channels.publish(CONTROL_CHANNEL, encode_control(self.channels.instance, Reconcile()))
        if self._listens:
            self.reconcile()

    def reconcile(self) -> None:
        """Publishes were lost: in the background, send what is in the log, and ask the clients to resume."""
        self._catching_up.ask()

    def _resync(self, stream: UserStream) -> None:
        for one in list(stream.subscribers.values()):
            self.to_session(one.caller, Outgoing("resync", {"reason": "redis_restored"}, self._new_id(), self._clock()))

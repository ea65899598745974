"""Pub/sub over a Redis Cluster: what `PubSub` does over one Redis, over each of the cluster's masters.

A channel, and the keys with its name as their hash tag, are on the master that has its slot; so the load is spread, and
no master receives what another one publishes (sharded channels, Redis 7).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from redis.exceptions import ResponseError

from twin_sio.background import BackgroundTasks, cancel_and_wait
from twin_sio.clock import new_id
from twin_sio.config import ConfigError
from twin_sio.delivery.messages import CONTROL_CHANNEL
from twin_sio.delivery.pubsub import PubSub
from twin_sio.redis_connection import (
    CLUSTERS,
    REDIS_ERRORS,
    TIMEOUT_S,
    ClusterTopology,
    NodeAddress,
    SlotMap,
    client,
    slot_of,
)
from twin_sio.redis_connection.failures import explain

log = structlog.get_logger("pubsub")

_PAUSE_S = 0.05


class _Shard(PubSub):
    """The channels in the slots of one master. It begins `up`; otherwise as after an outage, which its first probe
    ends."""

    _PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE = "SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"

    def __init__(
        self, place: NodeAddress, url: str, *, up: bool, on_dropped: Callable[[_Shard, str], None], **given: Any
    ) -> None:
        super().__init__(url, **given)
        self.place = place
        self._probe_channel = ""  # not known before the slots are
        self._up = up
        self._on_dropped = on_dropped  # the master has ended a subscription: its slot moves

    def owns_probe_slot(self, at: list[_Shard]) -> bool:
        """Whether the probe channel is in one of its slots; `at` is the shard of each slot."""
        return bool(self._probe_channel) and at[slot_of(self._probe_channel)] is self

    async def set_probe_channel(self, channel: str) -> None:
        """Probe by this channel, which is in one of its slots."""
        self._probe_channel = channel
        if self._sub_conn is not None:
            with contextlib.suppress(*REDIS_ERRORS):  # the listener notices, and connects again
                await self._send_subscribe(self._sub_conn, channel)

    def drop_subscription(self, channel: str) -> None:
        """Forget the channel; the master itself has ended, or will end, the subscription."""
        self._subscriptions.pop(channel, None)

    async def _send_subscribe(self, connection: Any, *channels: str) -> None:
        # One command each: a command with channels of different slots is refused.
        await self._send(connection, *((self._SUBSCRIBE, channel) for channel in channels))

    def _all_channels(self) -> Iterable[str]:
        return (*self._subscriptions, self._probe_channel)

    def _on_error_reply(self, error: ResponseError) -> None:
        code, _, rest = str(error).partition(" ")
        if code != "MOVED":
            raise error
        slot = int(rest.split()[0])
        for channel, confirmed in list(self._subscriptions.items()):
            if not confirmed.done() and slot_of(channel) == slot:
                self._drop(channel)

    def _on_push(self, kind: bytes, name: bytes, data: bytes) -> None:
        channel = name.decode()
        if kind != b"sunsubscribe":
            if channel in self._subscriptions or channel == self._probe_channel:
                super()._on_push(kind[1:], name, data)
        elif (confirmed := self._subscriptions.get(channel)) is not None and confirmed.done():
            self._drop(channel)  # not asked for: the slot moves

    def _drop(self, channel: str) -> None:
        del self._subscriptions[channel]
        self._on_dropped(self, channel)


class ClusterPubSub:
    """What `PubSub` does, over the masters of a cluster; commands keep their order within a slot.

    A slot migration is detected within one probe interval, by the server ending a subscription or by CLUSTER SLOTS
    (reading a reply for each publish would cost more than the publish). Messages published meanwhile are lost, so it
    counts as an outage: subscribe on the new master, switch publishing to it, call `on_restored`.
    """

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[str, bytes], None] | None = None,
        on_restored: Callable[[], None] | None = None,
        on_round_trip: Callable[[float], None] = lambda _: None,
        probe_interval_s: float = 1.0,
    ) -> None:
        self.instance = new_id()
        self.messages_received = 0
        self._on_round_trip = on_round_trip
        self.redis = client(url)
        self._nodes = ClusterTopology(url)
        self._on_message = on_message
        self._on_restored = on_restored
        self._interval = probe_interval_s
        self._ranges: SlotMap = ()  # as last applied
        self._shards: dict[NodeAddress, _Shard] = {}
        self._shard_by_slot: list[_Shard] = []  # one entry for each slot
        self._subscribed: dict[str, _Shard] = {}  # where each channel is subscribed to
        # Channels whose master has ended the subscription, or no longer has their slot.
        self._orphaned: set[str] = set()
        # The master that has ended a subscription: it knows of the change, and is asked first.
        self._hint_node: NodeAddress | None = None
        self._wake = asyncio.Event()  # look at the topology now
        # `probe_failures` and `outages` of shards that are gone.
        self._past_probe_failures = self._past_outages = 0
        self._topology_watcher: asyncio.Task[None] | None = None
        self._stopping_shards = BackgroundTasks()

    @property
    def healthy(self) -> bool:
        """This instance receives what it publishes, over every master."""
        return not self._orphaned and bool(self._shards) and all(shard.healthy for shard in self._shards.values())

    @property
    def problem(self) -> str:
        """Why this instance cannot rely on the cluster, in a sentence; empty: it can."""
        found = next((shard.problem for shard in self._shards.values() if shard.problem), "")
        return found or ("" if self.healthy else "Slots of the Redis Cluster are moving, or their master is away.")

    @property
    def probe_failures(self) -> int:
        return self._past_probe_failures + sum(shard.probe_failures for shard in self._shards.values())

    @property
    def outages(self) -> int:
        return self._past_outages + sum(shard.outages for shard in self._shards.values())

    async def start(self) -> None:
        """Begin to publish and subscribe. Raises `ConfigError` where no node answers, or none has sharded channels."""
        try:
            ranges = await self._nodes.ranges()
            has_sharded = (await self._nodes.ask("COMMAND INFO", "SPUBLISH"))[0] is not None
        except REDIS_ERRORS as error:
            await self.stop()
            found = explain(error)
            if found.kind in ("other", "no_cluster"):
                raise ConfigError("TWIN_REDIS_URL names no Redis Cluster, or one whose slots nobody holds.") from None
            raise ConfigError(f"TWIN_REDIS_URL: no node of the Redis Cluster can be used. {found.sentence}") from None
        if not has_sharded:
            await self.stop()
            raise ConfigError("TWIN_REDIS_URL: Redis Cluster has sharded channels from Redis 7 on; this one is older.")
        await self._apply_topology(ranges, up=True)
        if self._on_message is not None:
            await self.subscribe(CONTROL_CHANNEL, 0)
        self._topology_watcher = asyncio.create_task(self._watch_topology())

    async def stop(self) -> None:
        """Send what is queued, if Redis takes it within a second, then close."""
        await cancel_and_wait(*([self._topology_watcher] if self._topology_watcher else []))
        await asyncio.gather(*self._stopping_shards, *(shard.stop() for shard in self._shards.values()))
        await self._nodes.aclose()
        with contextlib.suppress(*REDIS_ERRORS):
            await self.redis.aclose()

    # -- as `PubSub`, on the channel's shard ---------------------------------------------------------------------------

    def _shard_for(self, key: str) -> _Shard:
        return self._shard_by_slot[slot_of(key)]

    def publish(self, channel: str, payload: bytes) -> None:
        """Send to every subscriber, in the order of the calls; never waits, never raises."""
        self._shard_for(channel).publish(channel, payload)

    def command(self, name: str, key: str, *words: Any) -> None:
        """Any command on one key whose reply is not needed, in one order with the publishes to its slot."""
        self._shard_for(key).command(name, key, *words)

    def script(self, text: str, keys: Sequence[str], *words: Any) -> None:
        """A Lua script over keys of one channel, in the same order."""
        self._shard_for(keys[0]).script(text, keys, *words)

    async def get_list(self, key: str) -> list[str]:
        """A list as Redis remembers it; raises one of `REDIS_ERRORS`."""
        return await self._shard_for(key).get_list(key)

    async def get_hash(self, key: str) -> dict[str, str]:
        """A hash as Redis remembers it; raises one of `REDIS_ERRORS`."""
        return await self._shard_for(key).get_hash(key)

    async def run_script(self, text: str, keys: Sequence[str], *words: Any) -> int:
        """The number that a Lua script over keys of one channel gives. Raises one of `REDIS_ERRORS`."""
        return await self._shard_for(keys[0]).run_script(text, keys, *words)

    async def subscribe(self, channel: str, patience_s: float = TIMEOUT_S) -> bool:
        """Subscribe to the channel; true once Redis has confirmed it. False: its master is away; the channel is
        subscribed to as soon as one is back, and `on_restored` is called after that."""
        shard = self._subscribed.get(channel)
        if shard is None:
            shard = self._subscribed[channel] = self._shard_for(channel)
        return await shard.subscribe(channel, patience_s)

    def unsubscribe(self, channel: str) -> None:
        """End the subscription; never waits."""
        shard = self._subscribed.pop(channel, None)
        self._orphaned.discard(channel)
        if shard is not None:
            shard.unsubscribe(channel)

    # -- topology ------------------------------------------------------------------------------------------------------

    async def _watch_topology(self) -> None:
        """Ask for the slot map in each probe interval, and apply what has changed."""
        while True:
            await asyncio.sleep(_PAUSE_S)  # however often it is woken
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._interval if self.healthy else self._interval / 4)
            self._wake.clear()
            hint, self._hint_node = self._hint_node, None
            try:
                # The node that has ended a subscription knows the change. While something is away, the node asked last
                # may be cut off from the rest: ask another one.
                ranges = await self._nodes.ranges(hint, elsewhere=hint is None and not self.healthy)
            except REDIS_ERRORS:
                continue
            if ranges != self._ranges:
                await self._apply_topology(ranges, up=False)
            elif self._orphaned:
                await self._resubscribe(self._orphaned, self._shard_by_slot)
                self._restored()

    async def _apply_topology(self, ranges: SlotMap, *, up: bool) -> None:
        shards: dict[NodeAddress, _Shard] = {}
        for *_, place in ranges:
            shards[place] = shards.get(place) or self._shards.get(place) or self._shard(place, up=up)
        at = [shards[place] for first, last, place in ranges for _ in range(first, last + 1)]
        gone = [shard for place, shard in self._shards.items() if place not in shards]
        fresh = [shard for place, shard in shards.items() if place not in self._shards]
        self._shards = {**self._shards, **shards}
        for shard in shards.values():
            if not shard.owns_probe_slot(at):
                await shard.set_probe_channel(self._probe_channel_for(shard, at))
        self._orphaned |= {channel for channel, shard in self._subscribed.items() if at[slot_of(channel)] is not shard}
        await self._resubscribe(self._orphaned, at)
        for shard in fresh:
            await shard.start()
        # No `await` from here to `_restored()`: the missed chunks must be sent again on the new shards before anything
        # else is published there.
        self._ranges, self._shard_by_slot, self._shards = ranges, at, shards
        self._orphaned |= {channel for channel, shard in self._subscribed.items() if at[slot_of(channel)] is not shard}
        for shard in gone:
            self._past_probe_failures += shard.probe_failures
            self._past_outages += shard.outages
            self._stopping_shards.start(shard.stop())
        if not up:
            log.warning("redis_slots_moved", masters=len(shards))
            self._restored()
            with contextlib.suppress(*REDIS_ERRORS):  # a pooled connection may lead to the node that hangs
                await self.redis.connection_pool.disconnect(inuse_connections=False)

    async def _resubscribe(self, channels: Iterable[str], at: list[_Shard]) -> None:
        """Subscribe to these channels on their shards in `at`."""
        moved = list(channels)
        self._orphaned -= set(moved)
        for channel in moved:
            self._subscribed[channel].drop_subscription(channel)
            self._subscribed[channel] = at[slot_of(channel)]
        confirmed = await asyncio.gather(*(self._subscribed[channel].subscribe(channel) for channel in moved))
        for channel, is_confirmed in zip(moved, confirmed, strict=True):
            if not is_confirmed and channel in self._subscribed:
                self._subscribed[channel]._mark_down(TimeoutError())

    def _shard(self, place: NodeAddress, *, up: bool) -> _Shard:
        return _Shard(
            place,
            self._nodes.url(place),
            up=up,
            on_dropped=self._dropped,
            on_message=self._on_pubsub_message if self._on_message is not None else None,
            on_restored=self._restored,
            on_round_trip=self._on_round_trip,
            probe_interval_s=self._interval,
        )

    def _probe_channel_for(self, shard: _Shard, at: list[_Shard]) -> str:
        """A channel of this instance alone that is in one of the shard's slots."""
        names = (f"twin:instance:{self.instance}:{number}" for number in itertools.count())
        return next(name for name in names if at[slot_of(name)] is shard)

    def _dropped(self, shard: _Shard, channel: str) -> None:
        if self._subscribed.get(channel) is shard:
            self._orphaned.add(channel)
            self._hint_node = shard.place
            self._wake.set()

    def _on_pubsub_message(self, channel: str, payload: bytes) -> None:
        self.messages_received += 1
        if self._on_message is not None:
            self._on_message(channel, payload)

    def _restored(self) -> None:
        if self._on_restored is not None:
            self._on_restored()


def make_pubsub(url: str, **given: Any) -> PubSub | ClusterPubSub:
    """Pub/sub over the Redis, or the cluster, that `url` names; `given` as both classes take it."""
    return ClusterPubSub(url, **given) if url.startswith(CLUSTERS) else PubSub(url, **given)

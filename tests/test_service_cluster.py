"""Redis Cluster: three masters with a replica each. A user's channel is on one of them, wherever that goes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tests.conftest import settings_for, token_of, url_of, working
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.test_delivery import _no_heads, _nothing
from tests.test_service_data import erase
from tests.test_service_learning import candidates, likes
from tests.test_service_limits import say
from tests.test_service_raw import plain
from tests.test_service_redis import TlsRedis, certificate, whole_way
from tests.waiting import eventually
from twin_sio.admin import revoke
from twin_sio.client import TwinClient
from twin_sio.clock import monotonic, new_id, now
from twin_sio.config import ConfigError, Settings
from twin_sio.delivery import Delivery
from twin_sio.delivery.pubsub_cluster import make_pubsub
from twin_sio.redis_connection import HASH_TAG
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, find_redis, free_port
from twin_sio.runtime.serve import Service, service

pytestmark = pytest.mark.xdist_group("faults")  # beside each other they have too little of two cores

HEALED_S = 10.0
"""By when everything is as before, from the death of a master on; a second of it is the nodes' own patience."""


class Node(RedisServer):
    """A node of a cluster; `more` goes into its command."""

    def __init__(self, program: str, folder: Path, *more: str) -> None:
        super().__init__(program, folder)
        self.bus = free_port()
        self._more = more

    def _command(self) -> list[str]:
        options = f"--cluster-enabled yes --cluster-port {self.bus} --cluster-node-timeout 1000"
        quick = "--cluster-replica-validity-factor 0 --repl-diskless-sync-delay 0 --cluster-allow-replica-migration no"
        return [*super()._command(), *options.split(), *quick.split(), *self._more]

    def ask(self, *words: Any) -> Any:
        with redis.Redis(port=self.port, socket_timeout=5, decode_responses=True) as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER MYID"))


class RedisCluster:
    """The first half of `nodes` begin as masters, the others as their replicas."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    async def start(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(node.start) for node in self.nodes))
        first, half = self.nodes[0], len(self.nodes) // 2
        bounds = [REDIS_CLUSTER_HASH_SLOTS * n // half for n in range(half + 1)]
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
            if number < half:
                node.ask("CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            if node is not first:
                node.ask("CLUSTER MEET", "127.0.0.1", first.port, first.bus)
        await eventually(lambda: all(len(node.ask("CLUSTER NODES")) == len(self.nodes) for node in self.nodes), 20)
        for master, replica in zip(self.nodes[:half], self.nodes[half:], strict=True):
            replica.ask("CLUSTER REPLICATE", master.id)
        await self.whole()

    async def whole(self) -> None:
        """Wait until all nodes live, agree, and every master has its replica."""
        await eventually(self._is_whole, 30)

    def _is_whole(self) -> bool:
        views = [node.ask("CLUSTER SLOTS") for node in self.nodes]
        received = {str(sorted((first, last, master[1]) for first, last, master, *_ in view)) for view in views}
        return (
            len(received) == 1
            and all(len(each) == 4 for each in views[0])
            and all(node.ask("CLUSTER INFO")["cluster_state"] == "ok" for node in self.nodes)
            and all(node.ask("ROLE")[0] == "master" or node.ask("ROLE")[3] == "connected" for node in self.nodes)
        )

    def holder(self, key: str) -> Node:
        """The master that has the key's slot."""
        slot = key_slot(key.encode())
        port = next(m[1] for first, last, m, *_ in self.nodes[0].ask("CLUSTER SLOTS") if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)

    def user_at(self, node: Node) -> str:
        """A new user whose channel this master holds."""
        names = (f"kim{new_id()[:12]}" for _ in itertools.count())
        return next(name for name in names if self.holder(f"twin:user:{name}") is node)

    @property
    def masters(self) -> list[Node]:
        ports = {master[1] for _, _, master, *_ in self.nodes[0].ask("CLUSTER SLOTS")}
        return [node for node in self.nodes if node.port in ports]

    def replica_of(self, master: Node) -> Node:
        return next(node for node in self.nodes if node.ask("ROLE")[:3] == ["slave", "127.0.0.1", master.port])

    def give(self, key: str, to: Node) -> None:
        """Move the key's slot, with all its keys, as `redis-cli --cluster reshard` does."""
        source, slot = self.holder(key), key_slot(key.encode())
        to.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", to.id)
        while keys := source.ask("CLUSTER GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        to_id = to.id
        for node in (to, source):
            node.ask("CLUSTER SETSLOT", slot, "NODE", to_id)


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisCluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    program = find_redis(folder)
    running = RedisCluster([Node(program, folder / str(number)) for number in range(6)])
    try:
        await running.start()
        yield running
    finally:
        for node in running.nodes:
            node.stop()


@pytest.fixture
def together(mongod: Mongod, cluster: RedisCluster, model: ScriptedModel) -> Callable[..., Any]:
    """`async with together(**settings) as (settings, one, two)` runs two servers over the cluster."""

    @asynccontextmanager
    async def two(**more: Any) -> AsyncIterator[tuple[Settings, Service, Service]]:
        settings = settings_for(mongod.url, cluster.url, model.base_url, storage__mongodb_database="cluster", **more)
        async with service(settings) as one, service(settings) as two:
            await well(one, two)
            yield settings, one, two

    return two


async def well(*servers: Service, timeout: float = HEALED_S) -> None:
    await eventually(lambda: all(one.services.delivery.channels.healthy for one in servers), timeout)


def _texts(client: TwinClient) -> list[str]:
    return [said.text for said in client.state.transcript()]


async def test_users_of_every_master_are_served(
    cluster: RedisCluster, model: ScriptedModel, together: Callable[..., Any]
) -> None:
    """Users of every master are answered on two instances and learnt of."""

    async def lives(user: str, one: Service, two: Service) -> None:
        text = f"I prefer tea, {user}"
        learnt = candidates(likes("tea", "I prefer tea", key="preferences.drink"))
        model.script(contains=text, token_delay_s=0.03, count=30, json_answer=learnt)
        chunks: list[str] = []

        def hook(way: str, envelope: dict[str, Any]) -> None:
            if envelope["type"] == "twin_message_chunk":
                chunks.append(envelope["payload"]["text"])

        async with (
            TwinClient(url_of(one), token_of(user)) as phone,
            TwinClient(url_of(two), token_of(user), on_envelope=hook) as tablet,
        ):
            answer = await phone.ask(text)
            await tablet.until(lambda state: state.profile_version == 1, timeout=20)
            assert _texts(tablet) == [text, answer.text]
            assert len(chunks) > 3
            assert "".join(chunks) == answer.text

    async with together() as (settings, one, two), working(settings):
        users = [cluster.user_at(master) for master in cluster.masters]
        await asyncio.gather(*(lives(user, one, two) for user in users))


async def test_both_instances_know_of_limits_sessions_tickets_revocations_and_stops(
    model: ScriptedModel, together: Callable[..., Any], user: str
) -> None:
    model.script(contains=f"endless {user}", token_delay_s=0.05, count=2000)
    async with together(limits__messages_per_minute=3) as (settings, one, two):
        async with TwinClient(url_of(one), token_of(user)) as phone, TwinClient(url_of(two), token_of(user)) as tablet:
            asked = await phone.send(f"endless {user}")
            await tablet.until(lambda state: (running := state.generation_of(asked)) and running.text)
            await tablet.stop(asked)
            assert (await phone.answer(asked)).status == "stopped"
        other = f"other-{user}"  # nobody of theirs is still leaving
        async with RawSocket(url_of(one), token_of(other)) as here, RawSocket(url_of(two), token_of(other)) as there:
            joined = await here.until(lambda: here.of("presence"))
            assert len(joined[0]["payload"]["sessions"]) == 2
            answers = [await say(raw) for raw in (here, there, here, there)]
            assert [answer["type"] for answer in answers] == ["message_received"] * 3 + ["error"]
            headers = {"Authorization": f"Bearer {token_of(other)}"}
            async with aiohttp.ClientSession(headers=headers) as http, http.post(f"{url_of(one)}/v1/ticket") as got:
                ticket = (await got.json())["ticket"]
            by_ticket = f"/ws/chat/{other}?ticket={ticket}&session_id=by-ticket"
            async with plain(url_of(two), other, by_ticket, headers={}) as raw:
                await raw.until(lambda: raw.of("session_ready"))
            assert await revoke(settings, other, None, 60) == 1
            await here.until(lambda: here.leave)
            await there.until(lambda: there.leave)


async def test_an_instance_that_was_not_told_learns_of_an_erasure_from_who_connects(
    together: Callable[..., Any], user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with together() as (_, one, two), RawSocket(url_of(two), token_of(user), session_id="old") as old:
        monkeypatch.setattr(one.services.delivery, "broadcast", lambda _: None)
        await erase(url_of(one), user)
        assert not old.leave
        async with RawSocket(url_of(two), token_of(user), session_id="new") as new:
            await old.until(lambda: old.leave)
            assert [word["payload"]["reason"] for word in old.of("session_ended")] == ["erased"]
            assert not new.leave


async def test_a_publish_reaches_one_master_in_order(cluster: RedisCluster, user: str) -> None:
    """A publish goes to the master of its channel alone and in order."""
    arrived: list[int] = []
    subscriber = make_pubsub(cluster.url, on_message=lambda _, payload: arrived.append(int(payload)))
    publisher = make_pubsub(cluster.url)
    await asyncio.gather(subscriber.start(), publisher.start())
    try:
        assert await subscriber.subscribe(user)
        before = {node.port: _published(node) for node in cluster.nodes}
        for number in range(1000):
            publisher.publish(user, str(number).encode())
            publisher.command("RPUSH", f"list:{{{user}}}", number)
        await eventually(lambda: len(arrived) == 1000)
        assert arrived == list(range(1000))
        assert await publisher.get_list(f"list:{{{user}}}") == [str(number) for number in range(1000)]
        assert await publisher.run_script("return redis.call('DEL', KEYS[1])", [f"list:{{{user}}}"]) == 1
        home = cluster.holder(user)
        grown = {node.port: _published(node) - before[node.port] for node in cluster.nodes}
        assert grown.pop(home.port) >= 1000
        assert max(grown[node.port] for node in cluster.masters if node is not home) < 100  # the probes
        assert not any("cmdstat_publish" in node.ask("INFO", "commandstats") for node in cluster.nodes)
        subscriber.unsubscribe(user)
        await eventually(lambda: home.ask("PUBSUB", "SHARDNUMSUB", user) == [user, 0])
    finally:
        await asyncio.gather(subscriber.stop(), publisher.stop())


def _published(node: Node) -> int:
    return int(node.ask("INFO", "commandstats").get("cmdstat_spublish", {"calls": 0})["calls"])


def _hand_over(cluster: RedisCluster, user: str) -> None:
    """The replica takes the place of the user's master, which stays."""
    cluster.replica_of(cluster.holder(f"twin:user:{user}")).ask("CLUSTER FAILOVER")


def _move_slot(cluster: RedisCluster, user: str) -> None:
    """Another master takes the slot of the user's channel over."""
    home = cluster.holder(f"twin:user:{user}")
    cluster.give(f"twin:user:{user}", next(node for node in cluster.masters if node is not home))


@pytest.mark.parametrize("move", [_hand_over, _move_slot])
async def test_an_answer_survives_a_moved_slot(
    cluster: RedisCluster, model: ScriptedModel, together: Callable[..., Any], move: Callable[..., Any], user: str
) -> None:
    """An answer streams on where its channel goes and is whole on both devices."""
    text = f"long {user}"
    model.script(contains=text, token_delay_s=0.05, count=2000, hold_after=120)
    async with (
        together() as (_, one, two),
        TwinClient(url_of(one), token_of(user)) as phone,
        TwinClient(url_of(two), token_of(user)) as tablet,
    ):
        asked = await phone.send(text)

        def shown(client: TwinClient) -> str:
            running = client.state.generation_of(asked)
            return running.text if running is not None else ""

        seen: set[str] = set()

        def grown(than: str) -> bool:
            seen.add(shown(tablet))
            return len(shown(tablet)) > len(than)

        await tablet.until(lambda _: grown(""))
        home = cluster.holder(f"twin:user:{user}")
        await asyncio.to_thread(move, cluster, user)
        await eventually(lambda: cluster.holder(f"twin:user:{user}") is not home)
        missed = shown(phone)
        await tablet.until(lambda _: grown(missed), timeout=HEALED_S)
        await well(one, two)
        await phone.stop(asked)
        answer = await phone.answer(asked)
        await tablet.until(lambda state: state.last_seq >= answer.seq)
        assert _texts(tablet) == _texts(phone) == [text, answer.text]
        assert all(answer.text.startswith(one) for one in seen)
    await cluster.whole()


async def test_a_workers_lost_publishes_are_reconciled(cluster: RedisCluster, user: str) -> None:
    """A worker lets everybody look at the log after a slot that it speaks to was elsewhere."""
    received: list[Any] = []
    trips: list[float] = []
    subscriber = make_pubsub(
        cluster.url,
        on_message=lambda _, payload: received.append(orjson.loads(payload)),
        on_round_trip=trips.append,
    )
    worker = Delivery(cluster.url, clock=now, new_id=new_id, read=_nothing, heads=_no_heads, listen=False)
    await asyncio.gather(subscriber.start(), worker.start())
    try:
        await asyncio.to_thread(_move_slot, cluster, user)
        await eventually(lambda: [worker.channels.instance, {"kind": "look"}, 1] in received)
        await eventually(lambda: len(trips) >= len(cluster.masters))
    finally:
        await asyncio.gather(subscriber.stop(), worker.stop())


@pytest.mark.parametrize(("end", "revive"), [(Node.kill, Node.restart), (Node.pause, Node.resume)])
async def test_a_failover_loses_nothing(
    cluster: RedisCluster, model: ScriptedModel, together: Callable[..., Any], end: Callable[..., Any], revive: Any
) -> None:
    """When a master dies or hangs its replica is found and nothing is lost."""
    home = cluster.holder(HASH_TAG)  # with it go presence, limits and the queue, too
    user, other = cluster.user_at(home), cluster.user_at(next(node for node in cluster.masters if node is not home))
    text = f"I prefer tea, {user}"
    learnt = candidates(likes("tea", "I prefer tea", key="preferences.drink"))
    async with (
        together() as (settings, one, two),
        working(settings),
        TwinClient(url_of(one), token_of(user)) as phone,
        TwinClient(url_of(two), token_of(user)) as tablet,
        TwinClient(url_of(one), token_of(other)) as there,
        TwinClient(url_of(two), token_of(other)) as elsewhere,
    ):
        await phone.ask("before")
        await asyncio.to_thread(end, home)
        died = monotonic()
        meanwhile = await there.ask("meanwhile")
        await elsewhere.until(lambda state: state.last_seq >= meanwhile.seq, timeout=1)
        await eventually(lambda: not (one.services.delivery.channels.healthy or two.services.delivery.channels.healthy))
        await phone.ask("meanwhile")
        await well(one, two)
        await tablet.until(lambda _: len(_texts(tablet)) == 4)
        assert monotonic() - died < HEALED_S
        model.script(contains=text, json_answer=learnt)
        await phone.ask(text)
        await tablet.until(lambda state: state.profile_version == 1, timeout=20)
        assert _texts(tablet) == _texts(phone)
        assert _texts(elsewhere) == _texts(there)
        assert len(_texts(phone)) == 6
    await asyncio.to_thread(revive, home)
    await cluster.whole()


async def test_an_unfit_cluster_is_named_at_start(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, folder: Path
) -> None:
    """A Redis that is no cluster, is too old or is away is reported at the start."""
    old = Node(find_redis(folder), folder / "old", "--rename-command", "SPUBLISH", "")
    await asyncio.to_thread(old.start)
    old.ask("CLUSTER ADDSLOTSRANGE", 0, REDIS_CLUSTER_HASH_SLOTS - 1)
    urls = {
        f"redis+cluster://127.0.0.1:{redis_server.port}": "names no Redis Cluster",
        f"redis+cluster://127.0.0.1:{old.port}": "from Redis 7 on",
        f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}": "no node of the Redis Cluster",
    }
    try:
        for url, received in urls.items():
            with pytest.raises(ConfigError, match=received):
                async with service(settings_for(mongod.url, url, model.base_url)):
                    pass
    finally:
        old.stop()


class TlsNode(TlsRedis):
    """A cluster of one node, which speaks TLS alone, and to those who know the password."""

    @property
    def url(self) -> str:
        return super().url.replace("rediss://", "rediss+cluster://").replace("/0?", "?")

    def _command(self) -> list[str]:
        return [
            *super()._command(),
            "--cluster-enabled",
            "yes",
            "--tls-cluster",
            "yes",
            "--cluster-port",
            str(self.bus),
        ]

    bus = 0

    def _is_ready(self) -> bool:
        with redis.Redis.from_url(super().url, socket_timeout=1) as one:
            try:
                if one.execute_command("CLUSTER SLOTS") == []:
                    one.execute_command("CLUSTER ADDSLOTSRANGE", 0, REDIS_CLUSTER_HASH_SLOTS - 1)
                return bool(one.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
            except redis.RedisError:
                return False


async def test_a_cluster_is_reached_by_tls_with_a_password(
    mongod: Mongod, model: ScriptedModel, folder: Path, user: str
) -> None:
    node = TlsNode(folder / "tls", certificate(folder / "certificate"))
    node.bus = free_port()
    await asyncio.to_thread(node.start)
    try:
        await whole_way(mongod, node.url, model, user)
    finally:
        node.stop()

"""How Redis is reached: with TLS and a password, and by Sentinels, through everything that makes a client of it."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.balancers import program
from tests.conftest import settings_for, token_of, url_of, working
from tests.scripted_model import ScriptedModel
from tests.test_service_learning import candidates, likes
from tests.waiting import eventually
from twin_sio.client import TwinClient
from twin_sio.clock import now
from twin_sio.redis_connection import client
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, find_redis
from twin_sio.runtime.serve import service

PASSWORD = "of-the-tests"
SENTINEL_PASSWORD = "of-the-sentinel"


class TlsRedis(RedisServer):
    """Speaks TLS alone, and to those who know the password; with `of` it follows the one at that port."""

    def __init__(self, folder: Path, ca: Path, of: int | None = None) -> None:
        super().__init__(find_redis(folder), folder)
        self.ca = ca
        self._of = of

    @property
    def url(self) -> str:
        return f"rediss://:{PASSWORD}@127.0.0.1:{self.port}/0?ssl_ca_certs={self.ca}"

    def _command(self) -> list[str]:
        options = [word for name, value in _tls_options(self.ca, self.port).items() for word in (f"--{name}", value)]
        options += ["--requirepass", PASSWORD, "--masterauth", PASSWORD]
        if self._of is not None:
            options += ["--replicaof", f"127.0.0.1 {self._of}"]
        return [*program("redis-server"), *super()._command()[1:], *options]  # the wheel's knows no TLS

    def _is_ready(self) -> bool:
        return _answers(self.url)


def _tls_options(ca: Path, port: int) -> dict[str, str]:
    files = {"tls-cert-file": ca, "tls-ca-cert-file": ca, "tls-key-file": ca.with_name("key.pem")}
    switches = {"port": "0", "tls-port": str(port), "tls-auth-clients": "no", "tls-replication": "yes"}
    return {**switches, **{name: str(path) for name, path in files.items()}}


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=1) as one:
        try:
            return bool(one.ping())
        except redis.RedisError:
            return False


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that is its own authority; its key lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ca.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - datetime.timedelta(days=1))
        .not_valid_after(now() + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = path.with_name("key.pem")
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
def tls_redis(folder: Path) -> Iterator[TlsRedis]:
    engine = TlsRedis(folder / "tls", certificate(folder / "certificate"))
    engine.start()
    yield engine
    engine.stop()


class Replica(RedisServer):
    """A Redis that follows another until a Sentinel makes it the master."""

    def __init__(self, program: str, folder: Path, of: int) -> None:
        super().__init__(program, folder)
        self._of = of

    def _command(self) -> list[str]:
        return [*super()._command(), "--replicaof", f"127.0.0.1 {self._of}"]


class SentinelServer(RedisServer):
    """Watches one master, and decides alone."""

    def __init__(self, program: str, folder: Path, master: int) -> None:
        super().__init__(program, folder)
        self._master = master

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/0?master=twin"

    @property
    def own_url(self) -> str:
        """Where it answers itself."""
        return f"redis://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        written = self.folder / "sentinel.conf"
        written.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor twin 127.0.0.1 {self._master} 1\n"
            "sentinel down-after-milliseconds twin 500\nsentinel failover-timeout twin 3000\n"
        )
        return [*self._argv, str(written), "--sentinel"]


class TlsSentinel(SentinelServer):
    """Speaks TLS alone, with the master too, and has a password of its own."""

    def __init__(self, folder: Path, master: int, ca: Path) -> None:
        super().__init__(find_redis(folder), folder, master)
        self._ca = ca

    @property
    def url(self) -> str:
        asked = f"master=twin&sentinel_password={SENTINEL_PASSWORD}&ssl_ca_certs={self._ca}"
        return f"rediss+sentinel://:{PASSWORD}@127.0.0.1:{self.port}/0?{asked}"

    @property
    def own_url(self) -> str:
        return f"rediss://:{SENTINEL_PASSWORD}@127.0.0.1:{self.port}?ssl_ca_certs={self._ca}"

    def _command(self) -> list[str]:
        *_, path, mode = super()._command()
        written = Path(path).read_text().partition("\n")[2]  # after the port, which is given with the rest
        options = {**_tls_options(self._ca, self.port), "requirepass": SENTINEL_PASSWORD}
        written += "".join(f"{name} {value}\n" for name, value in options.items())
        Path(path).write_text(f"{written}sentinel auth-pass twin {PASSWORD}\n")
        return [*program("redis-server"), path, mode]

    def _is_ready(self) -> bool:
        return _answers(self.own_url)


@pytest.fixture(params=["plain", "tls"])
async def sentinel(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[SentinelServer, RedisServer]]:
    """A Sentinel that knows a master and its replica; and the master. Either way: plain, and all of it by TLS."""
    found, ca = find_redis(folder), certificate(folder / "certificate")
    tls = request.param == "tls"
    master = TlsRedis(folder / "master", ca) if tls else RedisServer(found, folder / "master")
    await asyncio.to_thread(master.start)
    place = folder / "replica"
    replica = TlsRedis(place, ca, master.port) if tls else Replica(found, place, master.port)
    await asyncio.to_thread(replica.start)
    place = folder / "sentinel"
    watching = TlsSentinel(place, master.port, ca) if tls else SentinelServer(found, place, master.port)
    await asyncio.to_thread(watching.start)
    with redis.Redis.from_url(watching.own_url) as asked:
        await eventually(lambda: any(_is_good(one) for one in asked.sentinel_slaves("twin")), timeout=20)
    yield watching, master
    for engine in (watching, replica, master):
        await asyncio.to_thread(engine.stop)


def _is_good(replica: dict[str, Any]) -> bool:
    return replica["master-link-status"] == "ok" and not replica["is_sdown"]


async def whole_way(mongod: Mongod, url: str, model: ScriptedModel, user: str) -> None:
    """From a message over two instances and the worker to what was learnt: every client of Redis has a part in it."""
    text = f"I prefer tea, {user}"
    model.script(contains=text, json_answer=candidates(likes("tea", "I prefer tea", key="preferences.drink")))
    settings = settings_for(mongod.url, url, model.base_url, storage__mongodb_database=f"redis_{user[-8:]}")
    async with (
        service(settings) as one,
        service(settings) as two,
        working(settings),
        TwinClient(url_of(one), token_of(user)) as phone,
        TwinClient(url_of(two), token_of(user)) as tablet,
    ):
        await phone.ask(text)
        await tablet.until(lambda state: state.profile_version == 1, timeout=20)
        assert one.services.delivery.channels.healthy
        assert two.services.delivery.channels.messages_received > 0


async def test_redis_is_reached_by_tls_with_a_password(
    mongod: Mongod, tls_redis: TlsRedis, model: ScriptedModel, user: str
) -> None:
    await whole_way(mongod, tls_redis.url, model, user)


async def test_a_redis_whose_certificate_nobody_signed_is_not_talked_to(tls_redis: TlsRedis) -> None:
    other = client(tls_redis.url.partition("?")[0])
    with pytest.raises(redis.ConnectionError):
        await other.ping()
    await other.aclose()


async def test_redis_is_found_by_its_sentinels(
    mongod: Mongod, sentinel: tuple[SentinelServer, RedisServer], model: ScriptedModel, user: str
) -> None:
    await whole_way(mongod, sentinel[0].url, model, user)


@pytest.mark.parametrize("sentinel", ["tls"], indirect=True)
async def test_a_sentinel_of_an_unknown_authority_is_not_believed(
    sentinel: tuple[SentinelServer, RedisServer], folder: Path
) -> None:
    """Nor is one asked without its password."""
    other = certificate(folder / "other")
    for wrong in (
        sentinel[0].url.replace(str(folder / "certificate" / "ca.pem"), str(other)),
        sentinel[0].url.replace(SENTINEL_PASSWORD, "another"),
    ):
        asked = client(wrong)
        with pytest.raises(redis.ConnectionError):
            await asked.ping()
        await asked.aclose()


async def test_a_sentinel_failover_is_followed(
    mongod: Mongod, sentinel: tuple[SentinelServer, RedisServer], model: ScriptedModel, user: str
) -> None:
    """When the master dies the next one is found, and devices receive each other's events again."""
    watching, master = sentinel
    settings = settings_for(mongod.url, watching.url, model.base_url, storage__mongodb_database=f"redis_{user[-8:]}")
    async with (
        service(settings) as one,
        service(settings) as two,
        TwinClient(url_of(one), token_of(user)) as phone,
        TwinClient(url_of(two), token_of(user)) as tablet,
    ):
        await phone.ask("before")
        await asyncio.to_thread(master.kill)
        await eventually(lambda: not one.services.delivery.channels.healthy)
        await phone.ask("meanwhile")
        await eventually(lambda: all(each.services.delivery.channels.healthy for each in (one, two)), timeout=30)
        answer = await phone.ask("after")
        await tablet.until(lambda state: state.last_seq >= answer.seq)
        assert [said.text for said in tablet.state.transcript()] == [said.text for said in phone.state.transcript()]

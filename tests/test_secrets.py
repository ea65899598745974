"""Secrets that everybody knows, passwords in what is printed, and jobs that are data and no code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from pydantic import SecretStr

from tests.conftest import working
from tests.factories import make_settings
from tests.processes import Process
from tests.waiting import eventually
from twin_sio.clock import now
from twin_sio.config import ConfigError, Settings
from twin_sio.dev_tokens import DEV_SECRET
from twin_sio.jobs.queue import QUEUE, packed, unpacked
from twin_sio.redis_connection import client

OWN = "a secret of one's own that has more than thirty-two bytes"
DEPLOY = Path(__file__).parents[1] / "deploy"


def settings_of(**more: Any) -> Settings:
    return make_settings(**{"process__env": "dev", **more})


@pytest.mark.parametrize(
    "open_to_others",
    [
        {"server__host": "0.0.0.0"},
        {"server__host": "::"},
        {"server__host": "10.1.2.3"},
        {"server__host": "chat.example"},
        {
            "server__host": "0.0.0.0",
            "storage__mongodb_url": "mongodb://db",
            "storage__redis_url": "redis://r",
            "model__base_url": "http://m",
        },
        {"server__host": "127.0.0.1", "server__trusted_proxies": "127.0.0.1"},
        {"server__host": "0.0.0.0", "auth__jwt_secret": OWN, "auth__jwt_previous_secrets": f" {DEV_SECRET} "},
    ],
)
def test_a_known_secret_is_refused_off_loopback(open_to_others: dict[str, Any]) -> None:
    """A secret that all know is refused where others can reach the server."""
    with pytest.raises(ConfigError, match="TWIN_JWT_SECRET"):
        settings_of(**open_to_others).check()


@pytest.mark.parametrize(
    "more",
    [
        {"auth__jwt_secret": "x" * 31},
        {"auth__jwt_secret": ""},
        {"auth__jwt_previous_secrets": "x" * 31},
        {"server__host": "0.0.0.0", "auth__jwt_secret": "x" * 31},
    ],
)
def test_a_short_secret_is_refused_on_a_developers_machine_too(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"TWIN_JWT_.*SECRETS? must be .* of 32 bytes or more"):
        settings_of(**more).check()


@pytest.mark.parametrize(
    "closed",
    [
        {},
        {"server__host": "localhost"},
        {"server__host": "::1"},
        {"server__host": "127.0.0.2"},
        {"server__host": "0.0.0.0", "auth__jwt_secret": OWN},
    ],
)
def test_a_developers_machine_and_a_secret_of_ones_own_start(closed: dict[str, Any]) -> None:
    settings_of(**closed).check()


async def test_a_public_address_needs_a_secret(folder: Path) -> None:
    """A server with nothing but an address does not start."""
    environment = {"TWIN_HOST": "0.0.0.0", "PORT": "0", "TWIN_MONGODB_URL": "mongodb://nowhere", "TWIN_ENV": "dev"}
    process = Process("server", folder, environment)
    process.start()
    assert await process.wait() == 2
    assert "TWIN_JWT_SECRET" in process.printed()
    assert DEV_SECRET not in process.printed()


def test_a_key_set_needs_issuer_and_audience() -> None:
    """A key set of many services takes an issuer and an audience."""
    engines = {"storage__mongodb_url": "mongodb://db", "storage__redis_url": "redis://r", "model__base_url": "http://m"}
    keys = {
        "process__env": "production",
        **engines,
        "auth__jwt_algorithms": "RS256",
        "auth__jwt_jwks_url": "https://issuer/jwks",
    }
    for missing in ({}, {"auth__jwt_issuer": "main"}, {"auth__jwt_audience": "twin"}):
        with pytest.raises(ConfigError, match="TWIN_JWT_ISSUER"):
            settings_of(**keys, **missing).check()
    settings_of(**keys, auth__jwt_issuer="main", auth__jwt_audience="twin").check()


def test_blanks_around_a_previous_secret_are_no_part_of_it() -> None:
    assert settings_of(auth__jwt_previous_secrets=SecretStr(f" {OWN} , {OWN}x\n, ")).auth.previous_secrets == (
        OWN,
        f"{OWN}x",
    )


def test_no_password_of_a_url_is_shown() -> None:
    settings = settings_of(
        storage__mongodb_url="mongodb://ada:hunter2@db:27017/?password=hunter3&replicaSet=r",
        storage__redis_url="redis+sentinel://:hunter4@one:1,two:2/0?master=m",
        storage__graph_url="falkor://u:hunter5@graph",
        embeddings__url="https://hunter6@embed/v1",
        process__otlp_endpoint="https://otel/v1?api-key=hunter7",
        auth__jwt_secret="hunter8",
    )
    assert settings.storage.mongodb_url.startswith("mongodb://ada:hunter2@")  # the value itself is whole
    for shown in (repr(settings), str(settings), f"{settings!r}"):
        assert "hunter" not in shown
        assert "@db:27017" in shown


class Armed:
    """What runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_job_is_json_and_nothing_else_is_taken() -> None:
    job = {"t": None, "f": "learn", "a": ("ada", "m1"), "k": {"trace": "x"}, "et": 1}
    assert unpacked(packed(job)) == job
    wrong: list[bytes] = [
        pickle.dumps(job),
        b"[]",
        b"{}",
        b'{"t":null,"f":"learn","a":[1],"k":{},"et":1}',
        b'{"t":null,"f":["os"],"a":[],"k":{},"et":1}',
        b'{"t":null,"f":"learn","a":[],"k":{"trace":{}},"et":1}',
    ]
    for data in wrong:
        with pytest.raises(ValueError, match="No job"):
            unpacked(data)


async def test_a_pickled_job_is_dropped_and_runs_nothing(settings: Settings, folder: Path) -> None:
    redis = client(settings.storage.redis_url)
    queue = ArqRedis(redis.connection_pool, default_queue_name=QUEUE)
    touched, name = folder / "touched", f"pickled-{folder.name}"
    armed = {"t": 1, "f": "learn", "a": (Armed(touched),), "k": {}, "et": 1}
    try:
        async with working(settings):
            await redis.set(job_key_prefix + name, pickle.dumps(armed), ex=60)
            await redis.zadd(QUEUE, {name: now().timestamp() * 1000})
            await eventually(lambda: _is_gone(redis, name))
        assert not touched.exists()
    finally:
        await queue.aclose()
        await redis.aclose()


async def _is_gone(redis: Any, name: str) -> bool:
    return await redis.zscore(QUEUE, name) is None and not await redis.exists(job_key_prefix + name)


def test_every_shipped_redis_has_a_password() -> None:
    """Every redis that we ship has a password and no disk."""
    services = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())["services"]
    command = " ".join(services["redis"]["command"])
    assert "--requirepass" in command
    assert "--appendonly no" in command
    for name, one in services.items():
        if one["image"] == "twin-sio":
            assert one["environment"]["TWIN_REDIS_URL"].startswith("redis://:${TWIN_REDIS_PASSWORD"), name
    for path in [DEPLOY / "kubernetes" / "twin-sio.yaml", *(DEPLOY / "systemd").iterdir()]:
        assert "redis://:" in path.read_text(), path.name

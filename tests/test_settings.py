"""What is said of settings that are misspelt, or hold what cannot be used."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from typing import get_args

import pytest

from tests.processes import environment
from tests.test_service_engines import doctor_of
from twin_sio.config import SCOPES, ConfigError, Settings, unknown_settings
from twin_sio.protocol import Scope

NOWHERE = ("mongodb://127.0.0.1:9/?replicaSet=rs0", "redis://127.0.0.1:9", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TWIN_PERSONNA", "TWIN_PERSONA"),
        ("TWIN_LIMIT_MESSAGE_PER_MINUTE", "TWIN_LIMIT_MESSAGES_PER_MINUTE"),
        ("twin_redis_ulr", "TWIN_REDIS_URL"),
        ("TWIN_FRUIT_SALAD", "docs/configuration.md"),
    ],
)
def test_a_variable_that_is_no_setting_is_told_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, "a secret")
    (unknown,) = unknown_settings()
    assert unknown.name == name
    assert nearest in str(unknown)
    assert "secret" not in str(unknown)


def test_what_others_read_or_set_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the command line, in small letters, and of Kubernetes for a Service called `twin-web`."""
    names = ("TWIN_URL", "TWIN_TOKEN", "TWIN_PORT", "twin_persona", "TWIN_WEB_SERVICE_HOST", "TWIN_WEB_PORT_80_TCP")
    for name in names:
        monkeypatch.setenv(name, "8000")
    assert unknown_settings() == []


@pytest.mark.parametrize("module", ["server", "worker"])
async def test_a_start_tells_of_misspelt_settings_and_goes_on(module: str) -> None:
    """Here as far as to an engine that is away."""
    env = environment(*NOWHERE, TWIN_PERSONNA="a secret", TWIN_MONGODB_TIMEOUT_MS=300)
    command = [sys.executable, "-m", module]
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **env}, stdout=PIPE, stderr=PIPE)
    assert process.stderr is not None
    said = await asyncio.wait_for(process.stderr.readline(), 30)
    if process.returncode is None:
        process.kill()
    await process.communicate()
    assert said.decode() == "TWIN_PERSONNA is no setting and is ignored. Is it TWIN_PERSONA?\n"


async def test_the_doctor_refuses_a_short_secret_in_development_too() -> None:
    said = await doctor_of(**environment(*NOWHERE, TWIN_ENV="dev", TWIN_JWT_SECRET="x" * 31))
    assert said == (1, {"settings": "TWIN_JWT_SECRET must be a secret of your own, of 32 bytes or more."})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("TWIN_ENV", "prod-secret", "it must be dev or production"),
        ("TWIN_LOG_LEVEL", "secret", "it must be debug, info, warning or error"),
        ("TWIN_LIMIT_SESSIONS", "0", "it must be 1 or more"),
        ("TWIN_MODEL_REASONING_S", "0", "it must be more than 0"),
        ("PORT", "70000", "it must be 65535 or less"),
        ("PORT", "secret", "it must be a whole number"),
        ("TWIN_DRAIN_S", "secret", "it must be a number"),
        ("TWIN_MODEL_BACKGROUND", "secret", "it must be true or false"),
        ("TWIN_SCORE_WEIGHTS", '{"repeat": 1}', "it must be less than 1"),
        ("TWIN_SCORE_WEIGHTS", '{"explict": 1}', "there is no such key"),
        ("TWIN_MODEL_DIALECT", '{"system": "secret"}', "it must be system, developer or user"),
        ("TWIN_MCP_SERVERS", '{"files": 1}', "it must be a JSON object"),
        ("TWIN_MCP_SERVERS", '{"files": {"command": "a", "args": 1}}', "it must be a list"),
    ],
)
def test_a_refusal_says_what_is_allowed(monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str) -> None:
    """And never what was given."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        Settings.from_environment()
    assert str(refused.value).startswith(name)
    assert f"({reason})" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("name", "value"), [("TWIN_DEFAULT_SCOPES", "twin:caht"), ("TWIN_SCOPE_MAP", "openid=chat")])
def test_a_scope_that_there_is_not_is_refused_with_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        Settings.from_environment()
    assert name in str(refused.value)
    assert all(scope in str(refused.value) for scope in SCOPES)
    assert value not in str(refused.value)


def test_the_scopes_are_those_of_the_protocol() -> None:
    assert set(get_args(Scope)) == SCOPES

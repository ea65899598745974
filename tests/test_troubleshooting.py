"""`docs/troubleshooting.md` is true: each mistake is made, and what is said of it is what the page has."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.processes import Process, environment, started
from tests.scripted_model import ScriptedModel
from twin_sio.agent.model import OpenAIModel
from twin_sio.config import ConfigError, Settings
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.model_check import what_is_wrong

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/troubleshooting.md").read_text()


def tables(title: str) -> list[list[list[str]]]:
    """The rows of each table of a section of the page, without their heads."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
        for table in re.findall(r"(?:^\|.*\n)+", section + "\n", re.MULTILINE)
    ]


MODEL_ROWS, START_ROWS = tables("The model")
SCRIPTED = {
    "it refuses the key": {"status": 401},
    "it has no such model, or no such path": {"status": 404},
    "its quota, or its credit, is used up": {"status": 402},
    "it is asked too often": {"status": 429, "headers": {"Retry-After": "60"}},
    "it fails": {"status": 500},
    "it does not answer in time": {"hang": True},
    "even a short question is too long for it": {"status": 400, "error": {"code": "context_length_exceeded"}},
    "its filter refuses a plain question": {"status": 400, "error": {"code": "content_filter"}},
    "it refuses what it is asked, and no form of it helps": {"status": 400},
    "it answers with a plain text": {"rubbish_after": 0, "rubbish": "ok"},
    "it answers with JSON that is no answer of this API": {"rubbish_after": 0, "rubbish": '{"status": "ok"}'},
}


@asynccontextmanager
async def endpoint(said: str) -> AsyncIterator[str]:
    """The base URL of one of which `said` is true."""
    async with ScriptedModel(**SCRIPTED.get(said, {})) as server:
        url = server.base_url
        if said == "it answers with a page":
            url = f"http://127.0.0.1:{server.port}/page"
        elif said == "no TLS with it":
            url = url.replace("http:", "https:")
        elif said == "nobody knows its host":
            url = "http://no-such-host.invalid/v1"
        if said != "nothing listens there":
            yield url
            return
    yield url


@pytest.mark.parametrize("row", [row for row in MODEL_ROWS if row[2]], ids=lambda row: row[2])
async def test_what_is_wrong_with_an_endpoint_is_said(row):
    """The code, what the doctor says with its advice, and what the page shows for that code."""
    sees, code, said, do = row
    async with endpoint(said) as url:
        model = OpenAIModel(base_url=url, api_key="k", model="scripted", first_token_s=2, backoff_s=0.01)
        failure = await model.check()
        await model.close()
    assert failure is not None
    assert f"`{failure.code}`" == code
    wrong, advice = what_is_wrong(failure)
    assert wrong.partition(" (HTTP")[0] == said
    for variable in re.findall(r"[A-Z]+_[A-Z_]+", do):
        assert variable in advice or variable in ("TWIN_PROMPT_BUDGET_TOKENS", "TWIN_MODEL_MAX_TOKENS")
    shown(code.strip("`"), sees)


def shown(code: str, sees: str) -> None:
    """That the page shows for a code what the user sees."""
    view = (ROOT / "twin_sio/web/view.js").read_text()
    found = re.search(rf'  {code}: "([^"]+)"', view)
    assert found
    assert sees.rstrip(".") in found[1]


@pytest.mark.parametrize("row", [row for row in MODEL_ROWS if not row[2]], ids=lambda row: row[1])
def test_what_the_page_shows_is_what_it_shows(row):
    """Of what only an answer can run into; `tests/test_agent_model.py` has the codes."""
    if row[1].startswith("`finish"):
        assert row[0] in (ROOT / "twin_sio/web/message.js").read_text()
    else:
        shown(row[1].strip("`"), row[0])


MISTAKES = {
    "it must begin with http:// or https://": "ftp://models.example/v1",
    "it names no host": "http:///v1",
    "there are blanks within it": "http://models.example /v1",
    "it holds line breaks or letters that no key has": "sk-über",
    "it is not a JSON object": "[1]",
}


@pytest.mark.parametrize("row", START_ROWS, ids=lambda row: row[0])
def test_a_start_is_refused_in_a_sentence(row, monkeypatch):
    """It names the variable and the reason, and never the value."""
    variable, reason = re.fullmatch(r"(\w+) is refused \((.+)\)", row[0]).groups()  # type: ignore[union-attr]
    monkeypatch.setenv(variable, MISTAKES[reason])
    with pytest.raises(ConfigError) as refused:
        Settings.from_environment()
    assert str(refused.value).startswith(row[0])
    assert MISTAKES[reason] not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (" https://api.example/v1/ \n", "https://api.example/v1"),
        ('"https://api.example/v1"', "https://api.example/v1"),
        ("\u201chttps://api.example/v1\u201d", "https://api.example/v1"),
        ("api.example/v1", "https://api.example/v1"),
        ("localhost:11434/v1", "http://localhost:11434/v1"),
        ("192.168.1.7:8000/v1", "http://192.168.1.7:8000/v1"),
        ("[::1]:8080/v1", "http://[::1]:8080/v1"),
        ("ollama:11434/v1", "http://ollama:11434/v1"),
        ("HTTPS://api.example/v1/chat/completions", "https://api.example/v1"),
        ("https://x.azure.example/openai/deployments/d/chat/completions?api-version=1",
         "https://x.azure.example/openai/deployments/d?api-version=1"),
        ("https://api.example/v1#top", "https://api.example/v1"),
        ("   ", ""),
    ],
)  # fmt: skip
def test_a_base_url_is_put_right(given, meant, monkeypatch):
    for variable in ("OPENAI_BASE_URL", "TWIN_EMBEDDINGS_URL"):
        monkeypatch.setenv(variable, given)
    settings = Settings.from_environment()
    assert (settings.model.base_url, settings.embeddings.url) == (meant, meant)


@pytest.mark.parametrize("given", [" sk-key\n", '"sk-key"', "'sk-key'", "Bearer sk-key", "\ufeffsk-key\r\n"])
def test_a_key_is_put_right(given, monkeypatch):
    for variable in ("OPENAI_API_KEY", "TWIN_EMBEDDINGS_KEY"):
        monkeypatch.setenv(variable, given)
    monkeypatch.setenv("TWIN_MODEL", " qwen3:8b\n")
    settings = Settings.from_environment()
    assert settings.model.api_key.get_secret_value() == "sk-key"
    assert settings.embeddings.key.get_secret_value() == "sk-key"
    assert settings.model.name == "qwen3:8b"


def test_a_dialect_is_set_as_json(monkeypatch):
    monkeypatch.setenv("TWIN_MODEL_DIALECT", '{"max_tokens": "none", "temperature": false}')
    dialect = Settings.from_environment().model.dialect
    assert (dialect.max_tokens, dialect.temperature, dialect.system) == ("none", False, "system")
    monkeypatch.setenv("TWIN_MODEL_DIALECT", '{"max_tokens": "as many as you like"}')
    with pytest.raises(ConfigError) as refused:
        Settings.from_environment()
    assert "TWIN_MODEL_DIALECT" in str(refused.value)
    assert "as many" not in str(refused.value)


@pytest.mark.parametrize(
    ("script", "told"), [({"status": 401}, "model_key_refused"), ({"hang": True}, "model_timeout"), ({}, "")]
)
async def test_at_its_start_a_server_says_what_is_wrong(
    mongod: Mongod, redis_server: RedisServer, tmp_path: Path, script: dict[str, object], told: str
) -> None:
    """In one line, once; it starts all the same, and asks one question alone."""
    async with ScriptedModel(**script) as model:
        variables = environment(mongod.url, redis_server.url, model.base_url, TWIN_MODEL_FIRST_TOKEN_S=1)
        server = await started(Process("server", tmp_path, variables))
        try:
            await model.until(lambda seen: seen.requests)
            assert await server.is_ready()
            if told:
                await lines_of(server, lambda found: found)
            (line,) = await lines_of(server, lambda _: True) or [{}]
            assert line.get("code", "") == told
            assert not told or line["meaning"].endswith(".")
            assert "scripted" not in line.get("meaning", "")
            assert len(model.requests) == 1
        finally:
            await asyncio.to_thread(server.stop)


async def lines_of(server: Process, enough: Callable[[list[dict[str, str]]], object]) -> list[dict[str, str]]:
    """What the server has printed of its check, once it is enough."""
    async with asyncio.timeout(10):
        while True:
            lines = [line for line in server.printed().splitlines() if '"model_check_failed"' in line]
            found = [json.loads(line) for line in lines]
            if enough(found):
                return found
            await asyncio.sleep(0.05)

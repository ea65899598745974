"""Model servers that a developer runs already: found at the start of a development server, and nowhere else."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Page, Route, WebSocketRoute, expect

from tests.commands import command
from tests.test_browser import (  # noqa: F401 - its fixtures
    PATIENCE_MS,
    Opened,
    Server,
    accessible,
    answered,
    browser,
    model,
    opened,
    say,
    server,
    user,
)
from tests.waiting import eventually
from twin_sio.clock import monotonic
from twin_sio.runtime.dev_engines.engines import MODEL_NAME, Mongod, RedisServer, free_port
from twin_sio.runtime.local_models import LocalModels

ROOT = Path(__file__).parent.parent
NOBODY = "http://127.0.0.1:9"
TAGS = {
    "models": [
        {"name": "llama3.2:latest", "model": "llama3.2:latest", "size": 2019393189, "details": {"family": "llama"}},
        {"name": "nomic-embed-text:latest", "details": {"family": "nomic-bert"}},
        {"name": "hf.co/unsloth/Qwen3-4B-GGUF:Q4_K_M", "details": {"family": "qwen3"}},
    ]
}
MODELS = {
    "object": "list",
    "data": [
        {"id": "qwen2.5-7b-instruct", "object": "model", "owned_by": "organization_owner"},
        {"id": "text-embedding-nomic-embed-text-v1.5", "object": "model"},
    ],
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(path: str, handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get(path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def saying(body: Any, **more: Any) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=body if isinstance(body, str) else json.dumps(body), **more)

    return handler


async def test_each_is_asked_in_its_own_words() -> None:
    async with serving("/api/tags", saying(TAGS)) as ollama, serving("/v1/models", saying(MODELS)) as lm_studio:
        models = LocalModels(ollama, lm_studio)
        await models.look()
        assert models.lines("make run") == [
            "Ollama runs on this machine (it has llama3.2:latest, hf.co/unsloth/Qwen3-4B-GGUF:Q4_K_M):",
            f"  OPENAI_BASE_URL={ollama}/v1 TWIN_MODEL=llama3.2:latest make run",
            "LM Studio runs on this machine:",
            f"  OPENAI_BASE_URL={lm_studio}/v1 TWIN_MODEL=qwen2.5-7b-instruct make run",
        ]


async def test_where_nobody_listens_nothing_is_offered() -> None:
    models = LocalModels(NOBODY, NOBODY)
    await models.look()
    assert models.found == ()


async def test_who_has_no_model_yet_is_told_how_to_get_one() -> None:
    """As right after it was installed, or with nothing but models for embeddings."""
    for names in ([], ["nomic-embed-text:latest"]):
        tags, models = [{"name": name} for name in names], [{"id": name} for name in names]
        async with (
            serving("/api/tags", saying({"models": tags})) as ollama,
            serving("/v1/models", saying({"data": models})) as lm_studio,
        ):
            found = LocalModels(ollama, lm_studio)
            await found.look()
            assert found.found == ()
            assert found.lines("make run") == [
                "Ollama runs on this machine, and has no model yet:",
                "  ollama pull llama3.2   # then start again",
                "LM Studio runs on this machine, and has no model yet:",
                "  lms get llama-3.2-3b   # then start again",
            ]


ESCAPES = {
    "models": [{"name": "\x1b[2J"}, {"name": "a; rm -rf ~"}, {"name": "$(id)"}, {"name": "x" * 101}, {"name": 7}]
}


@pytest.mark.parametrize(
    "handler",
    [
        saying(ESCAPES),
        saying("null"),
        saying("[]"),
        saying("<html>"),
        saying({"models": None}),
        saying({"models": []}),
        saying({"models": {"name": "a"}}),
        saying("[" * 100_000),
        saying(TAGS, status=500),
        saying(json.dumps(TAGS) + " " * 300_000),
        saying(gzip.compress(json.dumps(TAGS).encode()).decode("latin-1"), headers={"Content-Encoding": "gzip"}),
    ],
)
async def test_what_lists_no_models_is_passed_over(handler: Handler) -> None:
    async with serving("/api/tags", handler) as ollama, serving("/v1/models", saying(MODELS)) as lm_studio:
        models = LocalModels(ollama, lm_studio)
        await models.look()
        assert [one.server for one in models.found] == ["LM Studio"]


async def test_nobody_is_followed_elsewhere() -> None:
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response(TAGS)

    async with serving("/api/tags", elsewhere) as other:
        leading = saying("", status=302, headers={"Location": f"{other}/api/tags"})
        async with serving("/api/tags", leading) as ollama:
            models = LocalModels(ollama, NOBODY)
            await models.look()
    assert (models.found, asked) == ((), [])


@pytest.mark.parametrize("begins", [False, True])
async def test_who_is_slow_is_not_waited_for(begins: bool) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        if begins:
            await answer.prepare(request)
        for _ in range(100):
            await asyncio.sleep(0.05)
            if begins:
                await answer.write(b" ")
        return answer

    async with serving("/api/tags", slow) as ollama, serving("/v1/models", saying(MODELS)) as lm_studio:
        models, began = LocalModels(ollama, lm_studio), monotonic()
        await models.look()
        assert monotonic() - began < 1
        assert [one.server for one in models.found] == ["LM Studio"]


# -- at the start ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def started(folder: Path, ollama: str, lm_studio: str, **env: str) -> AsyncIterator[list[str]]:
    """What a server prints that looks at these addresses."""
    env = {**os.environ, "TWIN_DATA_DIR": str(folder), "TWIN_ENV": "dev", "TWIN_WORKER_PORT": "0", **env}
    process = await command("tests.local_start", ollama, lm_studio, env=env, stderr=None)
    printed: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            printed.append(line.decode().rstrip())

    reading = asyncio.create_task(read())
    try:
        yield printed
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), 40)
        await reading


async def test_the_start_offers_what_runs_here(mongod: Mongod, redis_server: RedisServer, tmp_path: Path) -> None:
    """In the banner, with the line to type; and for the page, of this machine alone."""
    asked: list[str] = []

    async def tags(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response(TAGS)

    port = free_port()
    urls = {"TWIN_MONGODB_URL": mongod.url, "TWIN_REDIS_URL": redis_server.url, "PORT": str(port)}
    none = {"OPENAI_BASE_URL": "", "OPENAI_API_KEY": "", "TWIN_MODEL": ""}
    async with serving("/api/tags", tags) as ollama:
        command = f"OPENAI_BASE_URL={ollama}/v1 TWIN_MODEL=llama3.2:latest make run"
        async with started(tmp_path, ollama, NOBODY, **urls, **none) as printed, aiohttp.ClientSession() as http:
            await eventually(lambda: any("Ctrl-C stops" in line for line in printed), 60)
            assert [line.strip() for line in printed if "llama3.2" in line][-1] == command
            async with http.get(f"http://127.0.0.1:{port}/dev/models") as answer:
                assert [one["command"] for one in (await answer.json())["found"]] == [command]
            async with http.get(f"http://127.0.0.1:{port}/dev/models", headers={"Origin": "https://a.example"}) as no:
                assert no.status == 403
        assert asked == ["/api/tags"]


@pytest.mark.parametrize(
    "given",
    [{"OPENAI_BASE_URL": f"{NOBODY}/v1", "OPENAI_API_KEY": ""}, {"OPENAI_BASE_URL": "", "OPENAI_API_KEY": "sk-"}],
)
@pytest.mark.parametrize("env", ["dev", "production"])
async def test_nobody_is_asked_where_a_model_is_named_or_in_production(
    given: dict[str, str], env: str, mongod: Mongod, redis_server: RedisServer, tmp_path: Path
) -> None:
    asked: list[str] = []

    async def tags(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response(TAGS)

    urls = {"TWIN_MONGODB_URL": mongod.url, "TWIN_REDIS_URL": redis_server.url, "PORT": str(free_port())}
    async with serving("/api/tags", tags) as ollama:
        more = {**urls, **given, "TWIN_ENV": env, "TWIN_JWT_SECRET": "a secret for this test that is long enough"}
        async with started(tmp_path, ollama, NOBODY, **more) as printed:
            awaited = "Ctrl-C stops" if env == "dev" else "listening on"
            await eventually(lambda: any(awaited in line for line in printed), 60)
    assert asked == []
    assert not any("Ollama" in line for line in printed)


# -- on the page -------------------------------------------------------------------------------------------------------


async def test_the_page_offers_it_beside_the_demos_answers(opened: Opened, user: str) -> None:  # noqa: F811
    def wire(page_end: WebSocketRoute) -> None:
        server_end = page_end.connect_to_server()
        server_end.on_message(
            lambda frame: page_end.send(str(frame).replace('"model":"scripted"', f'"model":"{MODEL_NAME}"'))
        )

    command = "OPENAI_BASE_URL=http://127.0.0.1:11434/v1 TWIN_MODEL=<b>llama3.2</b> make run"
    found = {"server": "Ollama", "models": ["llama3.2", "qwen3"], "command": command}

    async def answer(route: Route) -> None:
        await route.fulfill(json={"found": [found]})

    page: Page = await opened(user, sockets=wire)
    await page.route("**/dev/models", answer)
    await say(page, "Are you bright?")
    await answered(page, 1)
    await expect(page.locator("#local-models code")).to_have_text(command, timeout=PATIENCE_MS)
    await expect(page.locator("#local-models")).to_contain_text("Ollama runs on this machine (it has llama3.2, qwen3)")
    await accessible(page)

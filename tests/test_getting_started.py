"""The page "Your main app in ten minutes": its samples run as they stand, against the real service."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.scripted_model import ScriptedModel
from twin_sio.client import TwinClient
from twin_sio.config import Settings
from twin_sio.dev_tokens import DEV_SECRET
from twin_sio.runtime.wiring import sealer_of

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "getting-started.md").read_text()


def _samples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def _shell(script: str, **more: str) -> str:
    """What a sample prints; each runs in a shell of its own."""
    env = {**os.environ, **more}
    return subprocess.run(["bash", "-ec", script], env=env, capture_output=True, text=True, check=True).stdout


def _python_token(user: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TWIN_JWT_SECRET", DEV_SECRET)
    names: dict[str, Any] = {}
    exec(compile(_samples("python")[0], "getting-started.md", "exec"), names)
    return str(names["twin_token"](user))


def _node_token(user: str, folder: Path) -> str:
    (folder / "token.mjs").write_text(f"{_samples('js')[0]}\nconsole.log(twinToken(process.argv[2]));\n")
    env = {**os.environ, "TWIN_JWT_SECRET": DEV_SECRET}
    command = ["node", str(folder / "token.mjs"), user]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("language", ["python", "js"])
async def test_a_signed_token_talks_exports_and_erases(
    language: str, url: str, user: str, model: ScriptedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the token over a message to the export and the erasure."""
    token = _python_token(user, monkeypatch) if language == "python" else _node_token(user, folder)
    async with TwinClient(url, token) as client:
        assert (await client.ask("hello")).text == model.answer_to("hello")
    (sample,) = (one for one in _samples("sh") if "v1/export" in one)
    given = {"TOKEN": token, "TWIN_URL": url}
    erased = await asyncio.to_thread(_shell, f"cd {folder}\n{sample}", **given)
    lines = [orjson.loads(line) for line in (folder / "user.jsonl").read_text().splitlines()]
    assert lines[-1] == {"kind": "end", "lines": len(lines) - 1}
    assert any(line["kind"] == "event" for line in lines)
    assert "events" in orjson.loads(erased)["erased"]


async def test_the_widget_of_the_page_is_served(url: str) -> None:
    (html,) = _samples("html")
    path = re.findall(r'src="https://[^/]+(/[^"]+)"', html)[0]
    async with aiohttp.ClientSession() as http, http.get(url + path) as response:
        assert response.status == 200
        served = await response.text()
    for name in ("TwinChat", "mount", "getToken", "context"):
        assert name in served


def test_the_settings_of_the_page_are_taken() -> None:
    """Each block of exports starts a production service that means what the page says."""
    base = {
        "TWIN_ENV": "production",
        "TWIN_MONGODB_URL": "mongodb://m",
        "TWIN_REDIS_URL": "redis://r",
        "OPENAI_API_KEY": "k",
    }
    blocks = [one for one in _samples("sh") if "export" in one and "curl" not in one]
    assert len(blocks) == 3
    for block in blocks:
        with pytest.MonkeyPatch.context() as patch:
            for line in _shell(f"{block}\nenv").splitlines():
                name, _, value = line.partition("=")
                if name.startswith("TWIN_"):
                    patch.setenv(name, value)
            for name, value in base.items():
                patch.setenv(name, value)
            if "JWT" not in block:
                patch.setenv("TWIN_JWT_SECRET", "s" * 32)
            settings = Settings.from_environment()
            if "ENCRYPTION" in block:
                assert sealer_of(settings).seals
            if "SCOPE_MAP" in block:
                assert settings.auth.scopes_by_foreign == {"openid": ("twin:chat", "twin:profile")}

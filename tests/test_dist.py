"""The third way to start; `make dist` does it with what was built, in an empty environment."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import Process, environment, started, token_of
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.client import TwinClient
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer

ROOT = Path(__file__).parents[1]


def test_up_runs_the_installed_server(tmp_path: Path) -> None:
    """Twin sio up becomes the installed server whatever lies in the folder."""
    (tmp_path / "server.py").write_text("raise SystemExit('of another project')")
    done = subprocess.run(
        [sys.executable, "-m", "twin_sio.cli", "up"],
        cwd=tmp_path,
        env={**os.environ, "TWIN_ENV": "production", "TWIN_MONGODB_URL": "", "TWIN_REDIS_URL": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("TWIN_MONGODB_URL is not set")


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
async def test_the_declared_bounds_are_true(
    resolution: str, tmp_path: Path, mongod: Mongod, redis_server: RedisServer, model: ScriptedModel
) -> None:
    """Without a constraints file: the oldest and the newest packages that setup.cfg allows install, and serve."""
    venv, uv = tmp_path / "venv", (sys.executable, "-m", "uv", "--quiet")
    source = tmp_path / "source"  # a copy: a build leaves its folder behind, and takes old modules from it
    shutil.copytree(ROOT / "twin_sio", source / "twin_sio", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "server.py", "worker.py"):
        shutil.copy(ROOT / name, source / name)
    for command in (
        (*uv, "venv", "--python", sys.executable, str(venv)),
        (*uv, "pip", "install", "--python", str(venv), "--resolution", resolution, str(source)),
    ):
        done = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    reads = "from twin_sio.agent.extraction import rules; print(rules.read('I live in Lisbon')[0].value)"
    command = (str(venv / "bin" / "python"), "-P", "-c", reads)
    done = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "Lisbon\n", done.stderr
    variables = environment(mongod.url, redis_server.url, model.base_url, TWIN_MONGODB_DATABASE=resolution)
    server = Process("server", tmp_path, variables, python=venv / "bin" / "python")
    await started(server)
    try:
        await eventually(server.is_ready, 20)
        async with TwinClient(server.url, token_of("ada")) as client:
            assert (await client.ask("hello")).text == model.answer_to("hello")
    finally:
        await asyncio.to_thread(server.stop, 5.0)

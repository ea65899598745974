"""The command line: what can be tested without a service."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from click.testing import Result
from jose import jwt
from typer.testing import CliRunner

from twin_sio.cli.chat_commands import input_history
from twin_sio.cli.live import RESTARTED, LiveAnswer
from twin_sio.cli.load import is_loopback
from twin_sio.cli.main import app
from twin_sio.dev_tokens import DEV_SECRET, create_token

NOWHERE = "http://127.0.0.1:9"


async def run(*arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> Result:
    """The command's result. In a thread: the command has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, list(arguments), input=stdin, env=env)


async def test_a_token_names_its_user_and_ends() -> None:
    result = await run("token", "--sub", "ada", "--ttl", "60", "--scope", "twin:chat twin:data")
    claims = jwt.decode(result.stdout.strip(), DEV_SECRET, algorithms=["HS256"])
    assert claims["sub"] == "ada"
    assert claims["exp"] - claims["iat"] == 60
    assert claims["scope"] == "twin:chat twin:data"


async def test_a_token_without_scopes_claims_none() -> None:
    """A token without scopes claims none and is called a development token on stderr."""
    result = await run("token", "--sub", "ada")
    assert "scope" not in jwt.get_unverified_claims(result.stdout.strip())
    assert "development" in result.stderr


async def test_a_token_is_signed_with_the_secret_of_the_environment() -> None:
    secret = "another-secret-of-thirty-two-bytes!"
    result = await run("token", "--sub", "ada", env={"TWIN_JWT_SECRET": secret})
    assert jwt.decode(result.stdout.strip(), secret, algorithms=["HS256"])["sub"] == "ada"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["chat"],
        ["token"],
        ["history"],
        ["profile"],
        ["why"],
        ["doctor"],
        ["record"],
        ["replay"],
        ["load"],
        ["conformance"],
    ],
)
async def test_every_help_shows_an_example(command: Sequence[str]) -> None:
    result = await run(*command, "--help")
    assert result.exit_code == 0
    assert "    twin-sio " in result.stdout


async def test_the_version_is_printed() -> None:
    result = await run("--version")
    assert result.stdout.startswith("twin-sio ")


@pytest.mark.parametrize("command", [["chat", "--once"], ["chat"], ["history"]])
async def test_an_unreachable_service_is_explained(command: Sequence[str]) -> None:
    """A service that is not there is named with what to do."""
    result = await run(*command, "--url", NOWHERE, stdin="hello\n")
    assert result.exit_code == 1
    assert NOWHERE in result.stderr
    assert "Start the service" in result.stderr
    assert result.stdout == ""


async def test_an_address_without_a_scheme_is_http() -> None:
    result = await run("history", "--url", "127.0.0.1:9")
    assert NOWHERE in result.stderr


async def test_an_address_of_another_kind_is_a_usage_error() -> None:
    result = await run("history", "--url", "ftp://example.com")
    assert result.exit_code == 2
    assert "--url" in result.stderr


async def test_nothing_on_stdin_is_said_before_anything_is_asked() -> None:
    result = await run("chat", "--once", "--url", NOWHERE, stdin="\n")
    assert result.exit_code == 1
    assert "nothing to ask" in result.stderr


@pytest.mark.parametrize("command", [["chat", "--once"], ["chat"], ["history"], ["profile"], ["why", "city"]])
async def test_scripts_read_a_failure_as_a_line_of_json(command: Sequence[str]) -> None:
    result = await run(*command, "--json", "--url", NOWHERE, stdin="hello\n")
    received = orjson.loads(result.stdout)
    assert (result.exit_code, received["type"], received["code"], received["retryable"]) == (
        1,
        "error",
        "unreachable",
        True,
    )


async def test_doctor_checks_the_token_without_a_service() -> None:
    """The doctor says that nothing answers and looks at the token all the same."""
    result = await run("doctor", "--url", NOWHERE, "--token", "not.a.token", "--json")
    checks = {check["check"]: check for check in map(orjson.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert {name: check["ok"] for name, check in checks.items()} == {"address": False, "token": False}
    assert "Start the service" in checks["address"]["advice"]
    assert "twin-sio token" in checks["token"]["advice"]


@pytest.mark.parametrize(
    "options", [("--model", "--send"), ("--server", "--url", NOWHERE), ("--server", "--model", "--sub", "ada")]
)
async def test_the_doctor_refuses_a_clients_option_beside_the_servers_checks(options: Sequence[str]) -> None:
    """One of the environment, where it is the server's, is none of those."""
    result = await run("doctor", *options, env={"TWIN_URL": NOWHERE, "TWIN_JWT_SECRET": "s" * 32})
    assert result.exit_code == 2
    assert "leave out --server and --model" in result.stderr
    assert result.stdout == ""


async def test_the_doctor_looks_at_engines_and_model_together() -> None:
    env = {"TWIN_MONGODB_URL": "mongodb://127.0.0.1:9", "TWIN_REDIS_URL": "redis://127.0.0.1:9", "TWIN_URL": NOWHERE}
    env |= {"OPENAI_BASE_URL": "http://login:secret@127.0.0.1:9/v1", "TWIN_MONGODB_TIMEOUT_MS": "300"}
    result = await run("doctor", "--server", "--model", "--json", env=env)
    checks = {check["check"]: check for check in map(orjson.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert {"settings", "mongodb", "redis", "model"} <= checks.keys()
    assert "at 127.0.0.1:9: nothing listens there" in checks["model"]["text"]


@pytest.mark.parametrize("sub", ["", "  ", "a\nb", "x" * 256])
@pytest.mark.parametrize("command", ["token", "doctor"])
async def test_a_user_that_no_server_takes_is_refused(command: str, sub: str) -> None:
    result = await run(command, "--sub", sub)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "name a user" in result.stderr


@pytest.mark.parametrize("around", ["Bearer {}", "'{}'\n", "Bearer {}\n"])
async def test_a_token_is_taken_as_it_was_copied(around: str) -> None:
    """Given as an option, or by the environment."""
    copied = around.format(create_token("ada", "s" * 32))
    for given, env in ((["--token", copied], None), ([], {"TWIN_TOKEN": copied})):
        result = await run("doctor", "--url", NOWHERE, "--json", *given, env=env)
        checks = {check["check"]: check for check in map(orjson.loads, result.stdout.splitlines())}
        assert checks["token"]["ok"]
        assert "sub ada" in checks["token"]["text"]


async def test_what_was_typed_is_kept_for_its_user_alone(folder: Path) -> None:
    typed = input_history(folder)
    typed.append_string("a private question")
    kept = folder / "twin-sio" / "typed"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert [line async for line in input_history(folder).load()] == ["a private question"]


async def test_a_chat_without_a_state_folder_keeps_its_history(folder: Path) -> None:
    """Where nothing can be kept a chat keeps its own lines."""
    (folder / "a-file").touch()
    typed = input_history(folder / "a-file")
    typed.append_string("hello")
    assert [line async for line in typed.load()] == ["hello"]


async def test_load_on_another_machine_needs_its_owners_word() -> None:
    """A load is put on other machines only by their owner."""
    result = await run("load", "--url", "https://twin.example.com")
    assert result.exit_code == 2
    assert "--i-own-this-server" in result.stderr
    assert [is_loopback(url) for url in ("http://127.0.0.1:1", "http://localhost", "http://[::1]:1")] == [True] * 3
    assert not is_loopback("http://127.0.0.1.example.com")


async def test_a_file_that_is_no_tape_is_named(folder: Path) -> None:
    (folder / "no-tape").write_text("[]\n")
    result = await run("replay", str(folder / "no-tape"), "--url", NOWHERE)
    assert (result.exit_code, "is no tape" in result.stderr) == (1, True)
    missing = await run("replay", str(folder / "missing"), "--url", NOWHERE)
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (1, True)


def test_a_live_answer_prints_each_line_once() -> None:
    """A live answer prints each line once and keeps the last."""
    live = LiveAnswer()
    assert live.grow("one") == []
    assert live.grow("one\ntwo\nth") == ["one", "two"]
    assert live.tail == "th"
    assert live.finish("one\ntwo\nthree") == ["three"]


def test_a_changed_tail_prints_nothing_again() -> None:
    """A live answer that only its tail changes is not printed again."""
    live = LiveAnswer()
    live.grow("one\ntw")
    assert live.grow("one\nnew") == []
    assert live.tail == "new"


def test_a_live_answer_that_begins_anew_says_so() -> None:
    live = LiveAnswer()
    live.grow("one\ntw")
    assert live.finish("other\nend") == [RESTARTED, "other", "end"]


def test_setup_says_that_there_is_no_network(tmp_path: Path) -> None:
    script = "source tools/step.sh; step Installing \"$1\" sh -c 'echo NameResolutionError; exit 1'"
    command = ["bash", "-c", script, "bash", str(tmp_path / "log")]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 1
    assert "PyPI cannot be reached" in done.stderr


def test_setup_names_a_python_that_is_too_old(tmp_path: Path) -> None:
    """An interpreter that PYTHON names and that is too old is told so."""
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.1\nexit 1\n')
    old.chmod(0o755)
    script = Path(__file__).parents[1] / "tools" / "setup.sh"
    done = subprocess.run([script, "local"], env={**os.environ, "PYTHON": str(old)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is no Python 3.11 or newer (Python 3.9.1)" in done.stderr

"""How commands end that nobody types to, or that can write nothing any more: real processes and a real terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pytest

from tests.commands import command, output_of
from tests.scripted_model import ScriptedModel

ENDS_S = 5.0  # a second by the clock of a machine that has nothing else to do

Start = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def start(url: str, user: str) -> AsyncIterator[Start]:
    """Starts a command against the service, as this test's user."""
    running: list[Any] = []

    async def started(*words: str, **streams: Any) -> Any:
        """A stream that is to be closed has to be so from the start: no fork has that."""
        argv = ("twin_sio.cli", *words, "--url", url, "--sub", user)
        if "preexec_fn" in streams:
            given = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE} | streams
            running.append(await asyncio.create_subprocess_exec(sys.executable, "-m", *argv, **given))
        else:
            running.append(await command(*argv, **{"stdin": PIPE} | streams))
        return running[-1]

    yield started
    for process in running:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The end of a terminal where a person sits, and the one that a command has."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def full() -> Iterator[BinaryIO]:
    """A file on a disk that is full."""
    with Path("/dev/full").open("wb") as file:
        yield file


async def interrupted(process: Any) -> tuple[int | None, bytes]:
    """Its exit code after one Ctrl-C, and what it says last on stderr."""
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    err = await asyncio.wait_for(process.stderr.read(), ENDS_S)
    return await asyncio.wait_for(process.wait(), ENDS_S), err


@pytest.mark.parametrize(("words", "lines"), [(("chat", "--json"), 1), (("record", "tape.jsonl"), 2)])
async def test_ctrl_c_ends_a_command_whose_pipe_is_silent(
    start: Start, folder: Path, words: tuple[str, ...], lines: int
) -> None:
    """After an answer, of which so many lines are printed."""
    process = await start(*words, cwd=folder)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello\n")
    for _ in range(lines):
        await process.stdout.readline()
    assert await interrupted(process) == (130, b"")


async def test_ctrl_c_ends_once_on_a_terminal_which_says_what_it_waits_for(
    start: Start, terminal: tuple[int, int]
) -> None:
    process = await start("chat", "--once", stdin=terminal[1])
    assert process.stderr is not None
    assert b"Ctrl-D" in await process.stderr.readline()
    assert await interrupted(process) == (130, b"")


async def test_a_chat_on_a_terminal_into_a_file_is_a_transcript(
    start: Start, terminal: tuple[int, int], model: ScriptedModel
) -> None:
    """Without the control codes of the live screen."""
    person, keyboard = terminal
    process = await start("chat", stdin=keyboard)
    os.write(person, b"hello\n\x04")
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert out.decode().splitlines() == ["you: hello", f"twin: {model.answer_to('hello')}"]


FULL = "No space left on device"


@pytest.mark.parametrize("words", [("history",), ("chat", "--once", "--json"), ("doctor",)])
async def test_an_output_that_takes_nothing_is_said_in_a_line(
    start: Start, full: BinaryIO, words: tuple[str, ...]
) -> None:
    """A full disk, and a stream that is closed."""
    await (await start("chat", "--once")).communicate(b"hello")
    process = await start(*words, stdout=full)
    _, err = await process.communicate(b"hello")
    assert (process.returncode, err.decode()) == (1, f"The output cannot be written: {FULL}.\n")
    closed = await start(*words, preexec_fn=lambda: os.close(1))
    _, err = await closed.communicate(b"hello")
    assert (closed.returncode, err.decode()) == (1, "The output cannot be written: stdout is closed.\n")


async def test_help_into_a_full_disk_fails_in_a_line(full: BinaryIO) -> None:
    code, _, err = await output_of("twin_sio.cli", "--help", stdout=full)
    assert (code, err.decode()) == (1, f"The output cannot be written: {FULL}.\n")


async def test_a_closed_standard_input_is_an_empty_one(start: Start) -> None:
    process = await start("chat", "--json", preexec_fn=lambda: os.close(0))
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_nothing_found_is_said_beside_the_output(start: Start, user: str) -> None:
    for words in (
        ("profile",),
        ("history", "--json"),
        ("search", "parliament"),
        ("history", "--search", "parliament"),
    ):
        process = await start(*words)
        out, err = await process.communicate()
        assert (process.returncode, out) == (0, b""), words
        assert user in err.decode(), words
        assert err.count(b"\n") == 1, words


# -- load --------------------------------------------------------------------------------------------------------------

LOAD = ("load", "--users", "2", "--devices", "1", "--messages", "1", "--ramp", "0", "--json")


async def load(url: str, *more: str) -> tuple[int | None, dict[str, Any], str]:
    code, out, err = await output_of("twin_sio.cli", *LOAD, "--url", url, *more)
    return code, orjson.loads(out), err.decode()


async def test_a_load_whose_answers_fail_has_failed(url: str, model: ScriptedModel) -> None:
    """A failed answer is an error, and no time that an answer takes."""
    model.script(contains="load message", status=400, times=1, streams=True)
    code, counted, err = await load(url)
    assert (code, counted["answered"], sum(counted["errors"].values())) == (1, 1, 1)
    assert "1 of 2" in err
    assert "model_refused" in err


async def test_a_load_with_another_secret_names_the_option(url: str) -> None:
    code, _, err = await load(url, "--secret", "another secret, longer than thirty-two bytes")
    assert code == 1
    assert "--secret" in err

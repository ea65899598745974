"""Answers as Markdown on a terminal; everywhere else they are what was written."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import termios
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.commands import command, output_of
from tests.scripted_model import ScriptedModel
from tests.test_service_cli import CONTROLS
from tests.waiting import eventually
from twin_sio.cli.live import LiveAnswer
from twin_sio.cli.markdown import complete_blocks, rendered

ANSWER = """# Dinner

Try **pasta** with `salt`, see [the book](https://books.example/pasta).

1. boil
2. stir

```python
print("ready")
```
"""

_STYLE = re.compile(r"\x1b\[[\d;]*m")


def shown(text: str, width: int = 60) -> list[str]:
    return [line.plain for line in rendered(text, Console(width=200), width)]


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_marks_are_shown_as_what_they_mean() -> None:
    assert shown(ANSWER, 80) == [
        "Dinner",
        "",
        "Try pasta with salt, see the book (https://books.example/pasta).",
        "",
        " 1 boil",
        " 2 stir",
        "",
        'print("ready")',
    ]


def test_lines_of_a_poem_stay_lines() -> None:
    assert shown("Roses are red,\nviolets are blue") == ["Roses are red,", "violets are blue"]


def test_a_table_is_drawn() -> None:
    lines = shown("| dish | minutes |\n|---|--:|\n| rice | 20 |")
    assert not [line for line in lines if "|" in line]
    assert [line.split() for line in lines if "rice" in line] == [["rice", "20"]]


@pytest.mark.parametrize(
    "text",
    [
        "a List<String> and a <b>tag</b>",
        "<div>\nhidden?\n</div>",
        "![a picture](https://pictures.example/1.png)",
        "[label]: https://label.example",
        ">" * 50 + " deep",
        "- " * 50 + "deep",
        "| a | b |\n|---|---|\n| c | d | surplus |",
        "| head |\n|---|\n| " + "longword" * 20 + " |",
        "```\n" + "unbroken" * 30 + "\n```",
        "word " * 5_000,
        "[a](https://a.example 'title')",
    ],
)
def test_no_word_is_lost(text: str) -> None:
    joined = "".join("".join(shown(text, 40)).split())
    assert [word for word in re.findall(r"\w+", text) if word not in joined] == []


def test_a_link_shows_where_it_leads() -> None:
    assert shown("[https://bank.example](https://evil.example)") == ["https://bank.example (https://evil.example)"]
    assert shown("<https://bank.example>") == ["https://bank.example"]


def test_no_line_is_wider_than_asked_for() -> None:
    assert max(map(len, shown(ANSWER * 3 + "many words " * 40, 30))) <= 30


@pytest.mark.parametrize(
    "text", ["".join(CONTROLS), "a &#27;[2J &#13; &#7; b", "`\x1b[2J`", "```\n\x1b]52;c;x\x07\n```"]
)
def test_nothing_commands_the_terminal(text: str) -> None:
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", "".join(shown(text)))


@given(st.text("ab *_`#>-|[]()<>&;1.~\n\\\x1b\r!:", max_size=200))
@settings(max_examples=300, deadline=None)
def test_whatever_is_written_is_shown(text: str) -> None:
    joined = "".join(shown(text, 30))
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", joined)
    squeezed = "".join(joined.split())
    written = re.sub(r"&\w+;|(?:`{3,}|~{3,}).*", " ", text)  # behind a fence stands the code's language
    assert [word for word in re.findall(r"[ab]+", written) if word not in squeezed] == []


# -- while it is written -----------------------------------------------------------------------------------------------


def test_a_block_is_printed_once_nothing_can_change_it() -> None:
    live = LiveAnswer(complete_blocks)
    assert live.grow("para\n**") == []
    assert live.grow("para\n**bold** more\n\n") == ["para\n**bold** more\n"]
    assert live.grow("para\n**bold** more\n\n- one\n\n- two\n") == []
    assert live.tail == "- one\n\n- two\n"
    assert live.grow("para\n**bold** more\n\n- one\n\n- two\n\nend") == []
    assert live.grow("para\n**bold** more\n\n- one\n\n- two\n\nend\n") == ["- one\n\n- two\n"]
    assert live.finish("para\n**bold** more\n\n- one\n\n- two\n\nend\n") == ["end\n"]


@given(st.lists(st.text("ab *`#>-|1.~\n", min_size=1, max_size=12), max_size=20))
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_blocks_of_the_whole(chunks: list[str]) -> None:
    """However it is cut into chunks, what is printed piece by piece reads as the whole does."""
    live, text, pieces = LiveAnswer(complete_blocks), "", []
    for chunk in chunks:
        text += chunk
        pieces += live.grow(text)
    pieces += live.finish(text)
    by_piece = [line for piece in pieces for line in shown(piece) if line]
    assert by_piece == [line for line in shown(text) if line]


def test_a_long_list_costs_no_more_than_its_length() -> None:
    """A block of 200 KB in 10,000 chunks is looked at a few dozen times."""
    looked_at: list[int] = []

    def complete(text: str) -> list[str]:
        looked_at.append(len(text))
        return []

    live, text = LiveAnswer(complete), ""
    for _ in range(10_000):
        text += "- a long list item\n"
        live.grow(text)
    assert sum(looked_at) < 20 * len(text)


# -- over the service --------------------------------------------------------------------------------------------------


async def on_a_terminal(words: list[str], stdin: str, columns: int = 100, **env: str) -> str:
    """What a terminal gets, where the command's stdout is one and its stdin is a pipe."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **env}
    process = await command("twin_sio.cli", *words, stdin=PIPE, stdout=follower, env=environment)
    os.close(follower)
    got = bytearray()

    def read() -> None:
        try:
            while part := os.read(leader, 4096):
                got.extend(part)
        except OSError:  # the other side is closed
            pass

    reading = asyncio.create_task(asyncio.to_thread(read))
    _, err = await process.communicate(stdin.encode())
    await reading
    os.close(leader)
    assert (process.returncode, err) == (0, b"")
    return got.decode().replace("\r\n", "\n")


@pytest.fixture
def answered(model: ScriptedModel, user: str) -> str:
    model.script(contains=user, tokens=(ANSWER,))
    return user


@pytest.mark.parametrize("once", [True, False])
async def test_a_terminal_gets_markdown(once: bool, url: str, user: str, answered: str) -> None:
    words = ["chat", "--url", url, "--sub", user, *(["--once"] if once else [])]
    got = await on_a_terminal(words, f"{answered}\n")
    assert "\x1b[1mpasta\x1b[0m" in got
    plain = _STYLE.sub("", got)
    assert "**" not in plain
    assert "Try pasta with salt, see the book (https://books.example/pasta)." in plain
    assert ("twin: Dinner" in plain) is not once


async def test_no_color_is_honoured(url: str, user: str, answered: str) -> None:
    got = await on_a_terminal(["chat", "--once", "--url", url, "--sub", user], answered, NO_COLOR="1")
    assert "**" not in got
    assert not [style for style in re.findall(r"\x1b\[([\d;]*)m", got) if re.search(r"\b[349]\d\b", style)]


async def test_the_terminals_width_is_honoured(url: str, user: str, answered: str) -> None:
    got = await on_a_terminal(["chat", "--once", "--url", url, "--sub", user], answered, columns=30)
    assert max(map(len, _STYLE.sub("", got).splitlines())) <= 30


@pytest.mark.parametrize("more", [{"TERM": "dumb"}, {}])
async def test_plain_is_what_was_written(more: dict[str, str], url: str, user: str, answered: str) -> None:
    plain = [] if more else ["--plain"]
    assert (
        await on_a_terminal(["chat", "--once", *plain, "--url", url, "--sub", user], answered, **more) == ANSWER + "\n"
    )


@pytest.mark.parametrize("words", [["chat", "--once"], ["chat"], ["chat", "--once", "--plain"]])
async def test_a_pipe_gets_what_was_written(words: list[str], url: str, user: str, answered: str) -> None:
    """Byte for byte, whatever the environment says of the terminal."""
    env = {**os.environ, "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    arguments = (*words, "--url", url, "--sub", user)
    _, out, _ = await output_of("twin_sio.cli", *arguments, given=f"{answered}\n".encode(), env=env)
    expected = ANSWER if "--once" in words else f"you: {answered}\ntwin: {ANSWER}"
    assert out == f"{expected}\n".encode()


async def test_the_live_chat_shows_markdown(url: str, user: str, model: ScriptedModel, folder: Path) -> None:
    """Block by block, as the blocks get complete; what is not complete stands above the prompt as it is written."""
    model.script(contains=user, token_delay_s=0.02, tokens=tuple(re.findall(r".{1,6}", ANSWER, re.DOTALL)))
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (40, 100))
    process = await command(
        *("twin_sio.cli", "chat", "--url", url, "--sub", user, "--state", str(folder)),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"},
    )
    os.close(follower)
    got = bytearray()
    asyncio.get_running_loop().add_reader(leader, lambda: got.extend(_read(leader)))
    try:
        await eventually(lambda: b"/help lists" in got)
        os.write(leader, f"{user}\r".encode())
        await eventually(lambda: b"ready" in got and b"\x1b[1mpasta\x1b[0m" in got)
        await eventually(lambda: "      print" in _STYLE.sub("", got.decode()))
        assert "twin> Dinner" in _STYLE.sub("", got.decode())
        os.write(leader, b"\x04")
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        asyncio.get_running_loop().remove_reader(leader)
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(leader)


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 65536)
    except OSError:  # the other side is closed
        return b""

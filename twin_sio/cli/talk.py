"""How `chat` talks: live on a terminal, line by line from a batch, or with one message."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TextIO

from twin_sio.cli import batch
from twin_sio.cli.options import output
from twin_sio.cli.standard_input import in_a_thread, standard_input
from twin_sio.cli.target import Target
from twin_sio.client import TwinClient
from twin_sio.protocol import TEXT_MAX


async def talk(target: Target, device: str, conversation: str, as_json: bool, state: Path, plain: bool = False) -> None:
    """Chat until the input ends, or the user quits."""
    if _is_terminal(sys.stdin) and _is_terminal(sys.stdout) and not as_json:
        # Here, because the terminal's libraries take longer to import than a pipe takes to answer.
        from twin_sio.cli.chat_commands import run_chat

        await run_chat(target.client, device, conversation, state, _shows_markdown(plain))
    else:
        questions = standard_input()
        out = output(as_json)
        print_answer = _print_answer(plain)
        await with_client(
            target, device, lambda client: batch.ask_lines(client, questions, conversation, as_json, out, print_answer)
        )


async def ask_once(target: Target, device: str, conversation: str, as_json: bool, plain: bool) -> None:
    """Send all of stdin as one message, and print the answer; raises `Failure` where nothing can be sent."""
    if _is_terminal(sys.stdin):
        print("Reading the message from the terminal, until Ctrl-D.", file=sys.stderr, flush=True)
    text = (await in_a_thread(standard_input().read)).strip()
    if not text:
        raise batch.Failure('There is nothing to ask on stdin. Try: echo "Hello" | twin-sio chat --once')
    if len(text) > TEXT_MAX:
        raise batch.Failure(f"A message has at most {TEXT_MAX} characters; this one has {len(text)}.")
    printing = (as_json, output(as_json), _print_answer(plain))
    await with_client(target, device, lambda client: batch.ask_once(client, text, conversation, *printing))


async def with_client(target: Target, device: str, use: Callable[[TwinClient], Awaitable[None]]) -> None:
    """Have a connected client used, and close it."""
    async with target.client(device) as client:
        await use(client)


def _is_terminal(stream: TextIO | None) -> bool:
    """A stream that is closed is None."""
    return stream is not None and stream.isatty()


def _shows_markdown(plain: bool) -> bool:
    if plain or not _is_terminal(sys.stdout):
        return False
    from rich.console import Console

    return not Console().is_dumb_terminal


def _print_answer(plain: bool) -> batch.PrintAnswer | None:
    if not _shows_markdown(plain):
        return None

    def print_answer(label: str, text: str) -> None:
        from rich.console import Console
        from rich.text import Text

        from twin_sio.cli.markdown import print_labelled, rendered

        console = Console(highlight=False)
        print_labelled(console, Text(label), rendered(text, console, console.width - len(label)))

    return print_answer

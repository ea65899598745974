"""Standard input, read so that Ctrl-C ends the command while nothing comes."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TextIO


def standard_input() -> TextIO:
    """Standard input behind a reader of its own: at its end the interpreter takes hold of `sys.stdin`, which a thread
    that still reads would not let go. Nothing, where it is closed."""
    if sys.stdin is None:
        return io.StringIO()
    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):  # it is no file
        return sys.stdin
    return open(number, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False)


async def in_a_thread(read: Callable[[], str]) -> str:
    """What `read` gives. In a thread, since a pipe may stay silent for long and heartbeats must go on meanwhile; in one
    that nobody waits for, since one Ctrl-C has to be enough."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[str] = loop.create_future()

    def settle(text: str, error: Exception | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(text)
        else:
            result.set_exception(error)

    def work() -> None:
        text, error = "", None
        try:
            text = read()
        except Exception as fault:  # raised where it is waited for
            error = fault
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, text, error)

    Thread(target=work, name="standard input", daemon=True).start()
    return await result

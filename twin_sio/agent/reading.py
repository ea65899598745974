"""Texts are parsed in a process of their own, which ends where a text takes too long: no pattern is trusted.

The process sets a timer on its own CPU time, whose signal the system ends it by, in the midst of a regular expression
and also when nobody waits for it any more. It is used again for the next text, and started anew after an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from twin_sio.agent import Unreadable
from twin_sio.domain import EvidenceKind

CPU_S: Final = 2.0
"""Seconds of CPU that a text may take: a thousand times what one takes as a rule."""

_WALL_S: Final = 20.0  # until then the process had its seconds, however busy the machine
_AT_ONCE: Final = 2
_LINE_BYTES: Final = 4 * 1024 * 1024
_ROOT: Final = str(Path(__file__).parents[2])
_PROGRAM: Final = "import sys; sys.path.insert(0, sys.argv[1]); from twin_sio.agent import reading; reading.serve()"


class Reading(NamedTuple):
    """What a text says of its writer: evidence, but for whose it is and when it was observed.

    `relation`, `name` and `how_many` are of its entity (`domain.Entity`), empty where it has none. `when` is what the
    text says of the time.
    """

    key: str
    value: str
    polarity: int
    kind: EvidenceKind
    quote: str
    relation: str = ""
    name: str = ""
    how_many: int = 0
    when: str = ""


class Reader(Protocol):
    """Parses what users write. Raises `Unreadable`."""

    async def plain(self, text: str) -> Sequence[Reading]:
        """What the rules read in the text."""
        ...


class DirectReader(Reader):
    """Reads in this process: for texts that are no stranger's."""

    async def plain(self, text: str) -> Sequence[Reading]:
        return read({"text": text})


class ProcessReader(Reader):
    """Reads in processes, at most two at once; who comes later waits in order. None is started before it is needed."""

    def __init__(self, cpu_s: float = CPU_S) -> None:
        self._cpu_s = cpu_s
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._idle: list[Process] = []

    async def plain(self, text: str) -> Sequence[Reading]:
        return await self._read({"text": text})

    async def close(self) -> None:
        """End the processes."""
        while self._idle:
            await _end(self._idle.pop())

    async def _read(self, asked: dict[str, Any]) -> Sequence[Reading]:
        async with self._free:
            process = await self._process()
            try:
                answer = await asyncio.wait_for(_ask(process, asked), _WALL_S)
            except (TimeoutError, OSError, ValueError):  # it has ended, by its timer as a rule
                await _end(process)
                raise Unreadable("too_slow") from None
            except BaseException:
                await _end(process)
                raise
            self._idle.append(process)
        if "failed" in answer:
            raise Unreadable(answer["failed"])
        return [Reading(*one) for one in answer["read"]]

    async def _process(self) -> Process:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        command = (sys.executable, "-P", "-c", _PROGRAM, _ROOT, str(self._cpu_s))
        # What it would print of a failure may quote the text.
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=_LINE_BYTES
        )


async def _ask(process: Process, asked: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    await process.stdin.drain()
    answer: dict[str, Any] = json.loads(await process.stdout.readline())
    return answer


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await asyncio.shield(process.wait())


# -- in the process


def read(asked: dict[str, Any]) -> list[Reading]:
    """What is asked for."""
    from twin_sio.agent.extraction import rules  # the imports take long, and only the child process needs them

    return rules.read(asked["text"])


def serve() -> None:
    """Answer one request a line until there are no more."""
    cpu_s = float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent process ends this one
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        os.nice(5)
    # Imports and loads what reading needs, which may take longer than a text is given.
    from twin_sio.agent.extraction.languages import languages

    languages()
    read({"text": "I like it."})
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
        try:
            answer: dict[str, Any] = {"read": read(json.loads(line))}
        except Exception as error:  # any failure: its kind leaves the process, its text does not
            answer = {"failed": type(error).__name__}
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()

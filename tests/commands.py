"""Commands as processes of their own, without the seconds that their imports would take (`fork_server`)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tests.fork_server import Forked, can_fork


async def command(
    module: str,
    *args: str,
    env: Mapping[str, str] | None = None,
    stdin: Any = DEVNULL,
    stdout: Any = PIPE,
    stderr: Any = PIPE,
    cwd: Path | None = None,
) -> Command | asyncio.subprocess.Process:
    """`python -m module` with these arguments; `env` is its whole environment. A stream is a file, or None: ours."""
    env = os.environ if env is None else env
    if can_fork():
        return await _forked(module, args, env, (stdin, stdout, stderr), cwd)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *args), env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr
    )


async def output_of(module: str, *args: str, given: bytes = b"", **more: Any) -> tuple[int | None, bytes, bytes]:
    """The exit code of a command, and what it prints on both streams."""
    process = await command(module, *args, stdin=PIPE, **more)
    out, err = await process.communicate(given)
    return process.returncode, out, err


class Command:
    """A forked command as asyncio has a process."""

    def __init__(self, process: Forked) -> None:
        self._process = process
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    async def wait(self) -> int:
        loop = asyncio.get_running_loop()
        ended, handle = asyncio.Event(), self._process.opened()
        loop.add_reader(handle, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        return self._process.wait()

    async def communicate(self, given: bytes = b"") -> tuple[bytes, bytes]:
        out, err, _ = await asyncio.gather(_read(self.stdout), _read(self.stderr), self._give(given))
        await self.wait()
        return out, err

    async def _give(self, given: bytes) -> None:
        if self.stdin is not None:
            with suppress(ConnectionError):  # it reads no more
                self.stdin.write(given)
                await self.stdin.drain()
            self.stdin.close()

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()


async def _forked(
    module: str, args: Sequence[str], env: Mapping[str, str], streams: Sequence[Any], cwd: Path | None
) -> Command:
    loop = asyncio.get_running_loop()
    ours: list[int | None] = []
    with ExitStack() as stack:
        theirs = []
        for number, stream in enumerate(streams):
            own = None
            if stream == PIPE:
                read, write = os.pipe()
                stream, own = (read, write) if number == 0 else (write, read)
                stack.callback(os.close, stream)
            elif stream == DEVNULL:
                stream = os.open(os.devnull, os.O_RDWR)
                stack.callback(os.close, stream)
            elif stream is None:
                stream = number  # ours
            theirs.append(stream if isinstance(stream, int) else stream.fileno())
            ours.append(own)
        running = Command(await asyncio.to_thread(Forked, module, args, env, theirs, cwd))
    given, out, err = ours
    if given is not None:
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(given, "wb"))
        running.stdin = asyncio.StreamWriter(transport, protocol, None, loop)
    running.stdout, running.stderr = await _reader(out), await _reader(err)
    return running


async def _reader(pipe: int | None) -> asyncio.StreamReader | None:
    if pipe is None:
        return None
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(pipe, "rb"))
    return reader


async def _read(reader: asyncio.StreamReader | None) -> bytes:
    return b"" if reader is None else await reader.read()

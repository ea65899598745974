"""`twin-sio conformance`: starts the scripted server, and the client under test where one is named."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import cast

import orjson

from twin_sio.cli.batch import Failure
from twin_sio.cli.printable import Output
from twin_sio.domain import Json

_TERMINATE_TIMEOUT_S = 2.0
_STDERR = 2


async def conform(command: Sequence[str], port: int, limit_s: float, as_json: bool, out: Output) -> bool:
    """Print a line for each rule as its verdict is reached; whether all were kept.

    The lines are those of `python -m twin_sio.conformance`, as they are or as text. Raises `Failure` where the server
    or the program cannot be started.
    """

    reported: set[str] = set()  # what was observed of broken rules: one cause is told once

    def write(line: Json, text: str) -> None:
        print(orjson.dumps(line).decode() if as_json else text, file=out, flush=True)

    # -P: the installed package, whatever the current folder holds.
    kit = [sys.executable, "-P", "-m", "twin_sio.conformance", "--port", str(port), "--limit", str(limit_s)]
    async with _running(kit, stdout=PIPE) as server:
        lines = _lines(server)
        listening = await anext(lines, None)
        if listening is None:
            raise Failure(f"The scripted server cannot listen on port {port}.")
        url, token = listening["url"], listening["token"]
        write(listening, f"Point your client at {url} with the token {token}\n")
        client = [part.replace("{url}", url).replace("{token}", token) for part in command]
        async with _running(client, stdout=_STDERR) if client else _nothing():
            async for line in lines:
                if line["type"] == "rule":
                    write(line, _verdict_text(line, reported))
                else:
                    kept, failed = line["passed"], line["failed"]
                    write(line, f"\n{kept} of {kept + failed} rules kept")
                    return bool(failed == 0)
    raise Failure("The scripted server ended before the last rule.")


async def _lines(server: Process) -> AsyncIterator[Json]:
    async for line in cast(asyncio.StreamReader, server.stdout):
        yield orjson.loads(line)


def _verdict_text(line: Json, reported: set[str]) -> str:
    if line["passed"]:
        return f"ok      {line['rule']}"
    if line["observed"] in reported:
        return f"FAILED  {line['rule']}: for the same reason"
    reported.add(line["observed"])
    return f"FAILED  {line['rule']}: {line['observed']}\n        {line['must']}\n        {line['fix']}"


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _running(command: Sequence[str], stdout: int) -> AsyncIterator[Process]:
    """The program, while the block runs."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=stdout)
    except OSError as error:
        raise Failure(f"{command[0]} cannot be started: {error.strerror}") from None
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _TERMINATE_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()

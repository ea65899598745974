"""`twin-sio conformance`: the script played for whoever comes, or for a program that is started here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import orjson

from twin_sio.cli.batch import Failure
from twin_sio.cli.printable import Output
from twin_sio.conformance import RULES, Verdict, conformance_server
from twin_sio.dev_tokens import DEV_SECRET, create_token
from twin_sio.domain import Json

_ARRIVAL_S = 60.0
_FAREWELL_S = 2.0
_STDERR = 2


async def conform(command: Sequence[str], port: int, limit_s: float, as_json: bool, out: Output) -> bool:
    """Print a line for each rule as its verdict is reached; whether all were kept.

    As JSON: `{type: "listening", url, token}`, a `{type: "rule", rule, passed, said, must, fix}` for each, and
    `{type: "end", passed, failed}`. Raises `Failure` where the program cannot be started.
    """

    def tell(line: Json, plain: str) -> None:
        print(orjson.dumps(line).decode() if as_json else plain, file=out, flush=True)

    failed = 0
    token = create_token("conformance", DEV_SECRET)
    async with conformance_server(port, limit_s, _ARRIVAL_S) as (url, script):
        tell({"type": "listening", "url": url, "token": token}, f"Point your client at {url} with the token {token}\n")
        async with _running([part.replace("{url}", url).replace("{token}", token) for part in command]):
            async for verdict in script.play():
                failed += not verdict.passed
                tell(_as_json(verdict), _line(verdict))
    end = {"type": "end", "passed": len(RULES) - failed, "failed": failed}
    tell(end, f"\n{end['passed']} of {len(RULES)} rules kept")
    return failed == 0


def _as_json(verdict: Verdict) -> Json:
    rule = verdict.rule
    told = {"rule": rule.name, "passed": verdict.passed, "said": verdict.said, "must": rule.must, "fix": rule.fix}
    return {"type": "rule", **told}


def _line(verdict: Verdict) -> str:
    if verdict.passed:
        return f"ok      {verdict.rule.name}"
    return f"FAILED  {verdict.rule.name}: {verdict.said}\n        {verdict.rule.must}\n        {verdict.rule.fix}"


@asynccontextmanager
async def _running(command: Sequence[str]) -> AsyncIterator[None]:
    """The program, while the block runs; what it prints goes to stderr."""
    if not command:
        yield
        return
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=_STDERR)
    except OSError as fault:
        raise Failure(f"{command[0]} cannot be started: {fault.strerror}") from None
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _FAREWELL_S)
        except TimeoutError:
            process.kill()
            await process.wait()

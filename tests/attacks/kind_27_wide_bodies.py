"""One account sends bodies of AG-UI that are short in bytes and long in parts, or nested deep.

Their parts are counted before they are parsed, their lists are bounded, the first wrong element is the last one looked
at, and what is read is paid for.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tests.attacks.site import Site
from twin_sio.clock import new_id

BEFORE = "one body of 990 kB: others' heartbeats 3.5 s, memory +360 MB"
_EVERY_S = 1.1  # a user may connect 60 times a minute
_logged: dict[str, int] = {}  # characters, before the attack


def _bodies() -> list[bytes]:
    asked = '"messages":[{"role":"user","id":"%s","content":"hi"}]' % new_id()  # noqa: UP031 - braces are JSON's
    wide = {
        '"messages":[]': '"context":[' + ",".join(["{}"] * 330_000) + "]",
        '"messages":[' + ",".join(["1"] * 400_000) + "]": '"state":null',
        asked: '"resume":[' + ",".join(['{"interruptId":"a","status":"resolved"}'] * 24_000) + "]",
        f"{asked} ": '"resume":[' + ",".join(['{"interruptId":"a","status":"resolved"}'] * 9_000) + "]",
        f" {asked}": '"forwardedProps":{"mode":' + "[" * 900 + "]" * 900 + "}",
        '"messages":[' + ",".join(["{}"] * 29_000) + "]": '"state":null',
    }
    return [f'{{"threadId":"t","runId":"r",{one},{other}}}'.encode() for one, other in wide.items()]


async def attack(site: Site, until: float) -> str:
    headers = {"Authorization": f"Bearer {site.token(site.user())}"}
    _logged[site.mark] = len(site.logs())
    answers = Counter[int]()
    bodies = _bodies()
    while time.monotonic() < until:
        for body in bodies:
            async with site.http.post(f"{site.url}/ag-ui", data=body, headers=headers) as response:
                await response.read()
                answers[response.status] += 1
        await asyncio.sleep(_EVERY_S)
    return f"{answers.total()} bodies of up to 1 MB: {', '.join(f'{n} x {status}' for status, n in answers.items())}"


async def check(site: Site) -> list[str]:
    return ["a request failed"] if '"http_failed"' in site.logs()[_logged[site.mark] :] else []

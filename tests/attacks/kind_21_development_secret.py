"""TWIN_ENV is forgotten on a server that others can reach: everybody knows the secret that its tokens are signed with.

A server without a secret of its own starts on its own machine alone, and says in its log what that means.
"""

from __future__ import annotations

import asyncio

from tests.attacks.site import Site
from tests.processes import Process
from tests.waiting import eventually
from twin_sio.dev_tokens import DEV_SECRET

BEFORE = "a server on 0.0.0.0 with real engines took tokens of the published secret"
_OPEN = (
    {"TWIN_HOST": "0.0.0.0"},
    {"TWIN_HOST": "::"},
    {"TWIN_HOST": "127.0.0.1", "TWIN_TRUSTED_PROXIES": "127.0.0.1"},
    {"TWIN_HOST": "0.0.0.0", "TWIN_JWT_SECRET": "short"},
)


async def attack(site: Site, until: float) -> str:
    return "judged afterwards, by servers that are started so"


async def check(site: Site) -> list[str]:
    broken = []
    for variables in _OPEN:
        process = _server(site, **variables)
        process.start()
        try:
            code = await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            code = 0
            await asyncio.to_thread(process.stop, 3.0)
        if code != 2 or "TWIN_JWT_SECRET" not in process.printed():
            broken.append(f"started with {variables}")
        if DEV_SECRET in process.printed():
            broken.append("the secret is in the log")
    quiet = await _on_loopback(site)
    return broken + (["on loopback with real engines it says nothing"] if quiet else [])


async def _on_loopback(site: Site) -> bool:
    process = _server(site, TWIN_HOST="127.0.0.1")
    process.start()
    try:
        await eventually(lambda: "development_secret_counts" in process.printed(), 30)
        return False
    except TimeoutError:
        return True
    finally:
        await asyncio.to_thread(process.stop, 3.0)


def _server(site: Site, **variables: str) -> Process:
    environment = {**site.cluster.environment, "TWIN_ENV": "dev", "TWIN_JWT_SECRET": DEV_SECRET, **variables}
    return Process("server", site.cluster.folder, environment)

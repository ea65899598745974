"""One account has as much evidence as is kept, in the dearest shape, and asks for its profile all the time, and why its
traits have their numbers.

Of a user 5,000 pieces are kept, scored in n log n, in a thread; what costs much is given again for twenty times as long
as it took, and made once for all who ask.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from tests.attacks.profiles import database, profiled, said
from tests.attacks.site import Site
from tests.raw import RawSocket
from twin_sio.store import mongo

BEFORE = "each `profile_get` of 5,000 pieces blocked everybody 1 s"
_PIECES = 5_000
_users: dict[str, str] = {}


async def prepare(site: Site) -> None:
    user = _users[site.mark] = site.user()
    await profiled(
        site, user, _PIECES, lambda n, at: said(user, f"preferences.a_vs_b{n // 50}", f"v{n}", "inferred", at)
    )


async def attack(site: Site, until: float) -> str:
    user = _users[site.mark]
    headers = {"Authorization": f"Bearer {site.token(user)}"}
    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(site.socket(user)) for _ in range(5)]
        profile = await devices[0].ask("profile_get", {})
        whys = [f"/v1/profile/{trait['trait_id']}/why" for trait in profile["payload"]["traits"]]

        async def asking(device: RawSocket) -> int:
            count = 0
            while time.monotonic() < until:
                await device.ask("profile_get", {})
                count += 1
                await asyncio.sleep(0.02)
            return count

        async def reading() -> int:
            count = 0
            while time.monotonic() < until:
                for path in ("/v1/profile/statistics", "/v1/profile/trait-0/why", whys[count % len(whys)]):
                    async with site.http.get(site.url + path, headers=headers) as response:
                        await response.read()
                    count += 1
                await asyncio.sleep(0.1)
            return count

        *asked, read = await asyncio.gather(*map(asking, devices), reading())
    return f"{sum(asked)} x profile_get and {read} requests over {_PIECES} pieces"


async def check(site: Site) -> list[str]:
    async with database(site) as db:
        kept = len(await mongo.MongoProfiles(db).evidence(_users[site.mark]))
    return [f"{kept} pieces kept"] if kept > _PIECES else []

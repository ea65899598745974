"""One account has as much evidence as is kept, and over eight connections confirms its traits and rates one answer, the
same again and again.

Each has the whole profile scored. Of a user that is done one at a time, and counted: a tenth of a core, and three
seconds at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress

from tests.attacks.profiles import profiled, said
from tests.attacks.site import Site
from tests.raw import RawSocket
from twin_sio.clock import new_id

BEFORE = "others' p95 578 ms by corrections, 552 by one rating that was repeated; memory +210 MB"
_PIECES = 5_000
_users: dict[str, str] = {}


async def prepare(site: Site) -> None:
    user = _users[site.mark] = site.user()
    await profiled(
        site, user, _PIECES, lambda n, at: said(user, "preferences.food", f"dish number {n}", "explicit", at)
    )


async def attack(site: Site, until: float) -> str:
    received = Counter[str]()

    async def asking(device: RawSocket, name: str, payloads: list[dict[str, str]], message_id: str | None) -> None:
        asked = 0
        while time.monotonic() < until:
            envelope = {
                "payload": payloads[asked % len(payloads)],
                "metadata": {"message_id": message_id or new_id()},
            }
            with suppress(TimeoutError):
                answer = await device.ask(name, envelope)
                received[answer["payload"].get("code") or answer["payload"].get("status") or answer["type"]] += 1
            asked += 1
            await asyncio.sleep(0.05)

    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(site.socket(_users[site.mark])) for _ in range(8)]
        await devices[0].ask("user_message", {"payload": {"text": "hello"}, "metadata": {"message_id": new_id()}})
        (answer,) = await devices[0].until(lambda: devices[0].of("twin_message"), 30)
        profile = await devices[0].ask("profile_get", {})
        confirming = [{"trait_id": one["trait_id"], "action": "confirm"} for one in profile["payload"]["traits"]]
        rating = [{"message_id": answer["metadata"]["message_id"], "rating": "up"}]
        await asyncio.gather(
            *(asking(device, "profile_correct", confirming, None) for device in devices[:4]),
            *(asking(device, "feedback", rating, f"rating-{site.mark}") for device in devices[4:]),
        )
    return ", ".join(f"{count} x {code}" for code, count in received.most_common())

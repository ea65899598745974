"""One account has twenty-five thousand messages of the same words, and asks a hundred searches for them at once.

Of a user one search at a time has a thread, which others' searches and answers need as well; the time that it takes is
counted.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from datetime import timedelta

from tests.attacks.profiles import database
from tests.attacks.site import Site
from tests.faults.figures import percentile
from twin_sio.clock import new_id, now

BEFORE = "another user's search took 18.7 s; answers came without memory"
_FULL, _SHORT = 25_000, 5_000
_AT_ONCE, _AT_ONCE_SHORT = 100, 40  # which is seconds of computing still
_SLOW_MS = 2_000.0
_TEXT = " ".join("".join(letters) for letters in itertools.islice(itertools.product("bcdfg", "aeiou", "klmnp"), 120))
_users: dict[str, str] = {}
_others: dict[str, list[float]] = {}  # ms that a search of another user took


async def prepare(site: Site) -> None:
    user = _users[site.mark] = site.user()
    began = now() - timedelta(days=1)
    count = _FULL if site.is_full else _SHORT
    async with database(site) as db:
        for first in range(0, count, 5_000):
            events = [
                {
                    **{"epoch": 0, "user_id": user, "type": "user_message", "message_id": new_id()},
                    **{"conversation_id": "main", "session_id": "s", "in_response_to": None, "at": began},
                    **{"payload": {"text": _TEXT}, "seq": seq},
                }
                for seq in range(first + 1, first + 5_001)
            ]
            await db["events"].insert_many(events, ordered=False)


async def attack(site: Site, until: float) -> str:
    received, others, other = Counter[str](), _others.setdefault(site.mark, []), site.user("other")

    async def search(user: str, text: str) -> str:
        headers = {"Authorization": f"Bearer {site.token(user)}"}
        async with site.http.get(f"{site.url}/v1/search", params={"text": text}, headers=headers) as response:
            await response.read()
            return str(response.status)

    async def another() -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            await search(other, "tea")
            others.append((time.monotonic() - began) * 1000)
            await asyncio.sleep(0.55)

    searching = asyncio.create_task(another())
    await search(_users[site.mark], "bak")  # its index is made
    count = _AT_ONCE if site.is_full else _AT_ONCE_SHORT
    received.update(await asyncio.gather(*(search(_users[site.mark], _TEXT[:500]) for _ in range(count))))
    await searching
    answered = ", ".join(f"{count} x {status}" for status, count in received.most_common())
    return f"{answered}; another's search {percentile(others, 0.5):.0f} ms, at worst {max(others):.0f}"


async def check(site: Site) -> list[str]:
    worst = max(_others[site.mark])
    return [f"another's search took {worst:.0f} ms"] if worst > _SLOW_MS else []

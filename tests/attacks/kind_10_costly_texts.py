"""One account writes messages that are dear to parse, and a model quotes a letter of them; another user's are learnt.

Parsing takes time that grows with the text, in a process that is ended after two seconds of CPU; of a user's jobs one
runs at a time, and all the others' go on.
"""

from __future__ import annotations

import asyncio
import json
import time

from tests.attacks.site import Site
from twin_sio.clock import new_id

BEFORE = "159 s of a worker for 4,000 characters of which the model quoted one letter; blanks: 2 s"
_TEXTS = ("i am a " * 570, "a " * 1_990, " " * 3_990 + "i", '" ' * 1_990, "I like " + "." * 3_900 + "x", "ne " * 1_300)
_LEARNT_WITHIN_S = 20.0


async def attack(site: Site, until: float) -> str:
    user, count = site.user(), 0
    quoted = {"value": "a", "over": "", "polarity": "support", "kind": "explicit", "quote": "a"}
    listed = [{**quoted, "key": key} for key in ("work.employer", "work.role", "pets.has", "interests.likes") * 3]
    await site.cluster.script(site.mark, json_answer=json.dumps({"candidates": listed}))
    async with site.socket(user) as device:
        while time.monotonic() < until:
            text = f"{site.mark} {_TEXTS[count % len(_TEXTS)]}"[:4_000]
            metadata = {"message_id": new_id(), "conversation_id": f"c{count}"}
            answer = await device.ask("user_message", {"payload": {"text": text}, "metadata": metadata})
            count += "code" not in answer["payload"]
            await asyncio.sleep(0.2)
    return f"{count} messages of up to 4,000 characters"


async def check(site: Site) -> list[str]:
    began = time.monotonic()
    try:
        async with asyncio.timeout(_LEARNT_WITHIN_S), site.cluster.device(site.user("other"), 0) as other:
            await site.cluster.teach(other)
    except TimeoutError:
        return [f"another user's message was not learnt from within {time.monotonic() - began:.0f} s"]
    return []

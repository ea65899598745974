"""A token is offered in every place of a request, well and badly, and looked for in the logs.

Of what a library logs only the words of its own code are kept, and what we log ourselves is never of a request.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import aiohttp

from tests.attacks.floods import in_parallel
from tests.attacks.site import Site

BEFORE = "the whole JWT at level warning; it works"


async def attack(site: Site, until: float) -> str:
    token = site.token(_user(site))
    user = _user(site)

    async def offer() -> None:
        ws = site.url.replace("http", "ws", 1)
        for protocols in ((f"bearer.{token}",), (token,), ("twin.v1", f"bearer.{token}x")):
            async with site.http.ws_connect(f"{ws}/ws/chat/{user}", protocols=protocols) as socket:
                await socket.receive()
        headers = {"Authorization": f"Bearer {token}", "Cookie": token, "X-Session-ID": token, "Origin": token[:40]}
        for path in (f"/{token}", f"/v1/profile?token={token}", f"/socket.io/?EIO=4&transport={token}&sid={token}"):
            async with site.http.get(site.url + path, headers=headers) as answer:
                await answer.read()
        async with site.http.post(f"{site.url}/v1/ticket", data=token, headers={"Content-Encoding": token}) as answer:
            await answer.read()
        url = f"{ws}/socket.io/?EIO=4&transport=websocket"
        async with site.http.ws_connect(url, headers={"Upgrade": "websocket"}) as socket:
            await socket.send_str("40" + json.dumps({"token": token + "x", "session_id": token}))
            await socket.send_str("42" + json.dumps([token, {token: token}]))
            await socket.send_bytes(token.encode())
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break

    count = await in_parallel(2, offer, until)
    return f"{count} times in each of 12 places"


async def check(site: Site) -> list[str]:
    logs = site.logs()
    header, claims, _ = site.token(_user(site)).split(".")
    parts = (claims, quote(claims), f"{header}.{claims[:40]}")
    return ["a token in the log"] if any(part in logs for part in parts) else []


def _user(site: Site) -> str:
    return f"mallory-{site.mark}-token"

"""Tokens that should not count: tickets of revoked and ended ones, revocations that Redis forgot, endless numbers.

Tickets are checked again when they are shown, revocations stand in MongoDB, and whatever a token holds is refused with
a code, never with a server error.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import time
from typing import Any

import aiohttp
from redis.asyncio import Redis

from tests.attacks.site import Site
from tests.commands import output_of
from tests.factories import make_settings
from tests.processes import SECRET
from tests.raw import RawSocket
from twin_sio.dev_tokens import create_token

BEFORE = "a ticket outlived its revocation by 30 s; revoked tokens good again; exp 1e999 and nested claims: 500"
_ODD = (
    '{"sub":"%s","exp":1e999}',
    '{"sub":"%s","exp":NaN}',
    '{"sub":"%s","exp":4102444800,"iat":-1e999}',
    '{"sub":"%s","exp":4102444800,"nbf":1e999}',
    '{"sub":"%s","exp":4102444800,"x":' + "[" * 1500 + "]" * 1500 + "}",
)
_ALLOWED_S = 90.0


async def attack(site: Site, until: float) -> str:
    count, statuses = 0, set()
    while time.monotonic() < until:
        for claims in _ODD:
            statuses.add(await _status(site, _signed(claims % site.user())))
            count += 1
        await asyncio.sleep(0.05)
    return f"{count} odd tokens: {sorted(statuses)}"


async def check(site: Site) -> list[str]:
    tokens = {claims[:24]: _signed(claims % site.user()) for claims in _ODD}
    tokens["nested header"] = _part('{"alg":"HS256","x":' + "[" * 1500 + "]" * 1500 + "}") + ".e30.x"
    tokens["crit"] = _signed('{"sub":"ada","exp":4102444800}', '{"alg":"HS256","crit":["exp"]}')
    broken = [f"{name}: {code}" for name, one in tokens.items() if (code := await _allowed_status(site, one)) != 401]
    broken += await _revoked(site)
    shown = repr(make_settings(storage__redis_url="redis://:hunter2@r", storage__mongodb_url="mongodb://u:hunter2@m"))
    return broken + (["repr(Settings) shows a password"] if "hunter2" in shown else [])


async def _revoked(site: Site) -> list[str]:
    user = site.user()
    token = create_token(user, SECRET, ttl_s=600)
    ticket = await _ticket(site, token)
    environment = {**os.environ, **site.cluster.environment}
    code, *_ = await output_of("twin_sio.admin", "revoke", "--user", user, env=environment)
    broken = [] if code == 0 else ["the revocation failed"]
    async with site.http.ws_connect(f"{site.url}/ws/chat/{user}?ticket={ticket}") as socket:
        if (received := await _first(socket)) != "auth_invalid":
            broken.append(f"a ticket of a revoked user: {received}")
    async with Redis(port=site.cluster.redis.port) as redis:
        await redis.flushall()
    async with RawSocket(site.url, token, local_address=site.address) as again:
        if again.refusal is None:
            broken.append("a Redis that came back empty made a revoked token good again")
    return broken


async def _allowed_status(site: Site, token: str) -> int:
    """The status once the address, which has sent so many bad tokens, may ask again."""
    async with asyncio.timeout(_ALLOWED_S):
        while (status := await _status(site, token)) == 429:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(1)
    return status


async def _ticket(site: Site, token: str) -> str:
    assert await _allowed_status(site, token) == 200
    async with site.http.post(f"{site.url}/v1/ticket", headers={"Authorization": f"Bearer {token}"}) as response:
        return str((await response.json())["ticket"])


async def _first(socket: aiohttp.ClientWebSocketResponse) -> str:
    said: dict[str, Any] = await socket.receive_json(timeout=10)
    return str(said["payload"].get("code", said["type"]))


async def _status(site: Site, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    async with site.http.get(f"{site.url}/v1/profile", headers=headers) as response:
        return response.status


def _signed(claims: str, header: str = '{"alg":"HS256"}') -> str:
    parts = f"{_part(header)}.{_part(claims)}"
    digest = hmac.digest(SECRET.encode(), parts.encode(), "sha256")
    return f"{parts}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _part(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()

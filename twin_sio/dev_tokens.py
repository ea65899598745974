"""Development tokens: what a host application's backend would sign, signed here with the shared secret."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from jose import jwt

from twin_sio.clock import Clock, now

DEV_SECRET = "development-only-secret-never-in-production"  # noqa: S105 - known to all, refused in production


def create_token(sub: str, secret: str, *, ttl_s: int = 3600, scope: str = "", clock: Clock = now) -> str:
    """An HS256 token for `sub` that ends in `ttl_s` seconds; without a `scope` the server's default applies."""
    issued = clock()
    claims: dict[str, object] = {"sub": sub, "iat": issued, "exp": issued + timedelta(seconds=ttl_s)}
    # Left out, not empty: an empty scope is one that allows nothing.
    if scope:
        claims["scope"] = scope
    return str(jwt.encode(claims, secret, algorithm="HS256"))


def token_provider(sub: str, secret: str) -> Callable[[], Awaitable[str]]:
    """A token provider: a fresh token for every connection, so that a long chat outlives each of them."""

    async def provide() -> str:
        return create_token(sub, secret)

    return provide

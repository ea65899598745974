"""A token becomes an `Identity`, or is refused with one of the protocol's codes and no further reason."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
from jose import jwk, jws, jwt
from jose.exceptions import ExpiredSignatureError, JOSEError, JWSError

from twin_sio.clock import Clock, monotonic, now
from twin_sio.domain import Identity
from twin_sio.errors import HandshakeRefused
from twin_sio.store.ports import Revocations

_UNREADABLE = (JOSEError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError)
"""What the library raises over tokens that somebody has made up: numbers without an end, claims nested too deep."""

_TOKEN_MAX = 16_384
_USER_MAX = 255
_REFETCH_FLOOR_S = 10.0
_REFETCH_AFTER_S = 600.0


def auth_missing() -> HandshakeRefused:
    return HandshakeRefused("auth_missing", "A token is needed: send it as auth.token.")


def auth_invalid() -> HandshakeRefused:
    return HandshakeRefused("auth_invalid", "The token is not accepted.")


def auth_expired() -> HandshakeRefused:
    return HandshakeRefused("auth_expired", "The token has expired: connect with a fresh one.", retryable=True)


class Keys:
    """Where the key of a token comes from."""

    async def get(self, kid: str | None) -> Any:
        """The key for this `kid`, or a tuple of keys any of which may fit; raises `Refused`."""
        raise NotImplementedError


class SharedSecrets(Keys):
    """Secrets that the main app and this service know: several at once while one takes the other's place."""

    def __init__(self, *secrets: str) -> None:
        self._secrets = secrets

    async def get(self, kid: str | None) -> Any:  # noqa: ARG002 - a shared secret has no id
        return self._secrets


class JwksKeys(Keys):
    """A JWKS by URL: cached, fetched again for an unknown `kid` with a floor between fetches; when it cannot be
    reached the last good keys go on counting."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, Any] = {}
        self._fetched_at = -_REFETCH_AFTER_S
        self._lock = asyncio.Lock()

    async def get(self, kid: str | None) -> Any:
        if kid is None:
            raise auth_invalid()
        age = monotonic() - self._fetched_at
        if age > _REFETCH_AFTER_S or (kid not in self._keys and age > _REFETCH_FLOOR_S):
            await self._fetch()
        try:
            return self._keys[kid]
        except KeyError:
            if not self._keys:
                raise HandshakeRefused("unavailable", "Tokens cannot be checked right now.", retryable=True) from None
            raise auth_invalid() from None

    async def _fetch(self) -> None:
        async with self._lock:
            if monotonic() - self._fetched_at < _REFETCH_FLOOR_S:
                return
            self._fetched_at = monotonic()
            try:
                timeout = aiohttp.ClientTimeout(total=3)
                async with aiohttp.ClientSession(timeout=timeout) as http, http.get(self._url) as response:
                    response.raise_for_status()
                    found = orjson.loads(await response.read())["keys"]
                    self._keys = {key["kid"]: jwk.construct(key) for key in found if "kid" in key and "alg" in key}
            except (aiohttp.ClientError, TimeoutError, JOSEError, KeyError, TypeError, ValueError):
                return


class Authenticator:
    """Checks tokens with pinned algorithms; whatever the token says about its own checking is ignored."""

    def __init__(
        self,
        keys: Keys,
        *,
        algorithms: tuple[str, ...],
        issuer: str,
        audience: str,
        leeway_s: int,
        default_scopes: tuple[str, ...],
        revocations: Revocations,
        clock: Clock = now,
    ) -> None:
        self._clock = clock
        self._keys = keys
        self._revocations = revocations
        self._algorithms = list(algorithms)
        self._issuer = issuer or None
        self._audience = audience or None
        self._leeway_s = leeway_s
        self._default_scopes = frozenset(default_scopes)

    async def authenticate(self, token: str | None) -> Identity:
        """Who the token says somebody is; raises `Refused`: auth_missing, auth_invalid, auth_expired, unavailable."""
        if not token:
            raise auth_missing()
        if len(token) > _TOKEN_MAX or token.count(".") != 2:
            raise auth_invalid()
        try:
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            if header.get("alg") not in self._algorithms or not isinstance(kid, str | None):
                raise auth_invalid()
            if "crit" in header:  # what has to be understood, or the token refused: we understand none of it
                raise auth_invalid()
            claims = self._claims(token, await self._keys.get(kid))
        except ExpiredSignatureError:
            raise auth_expired() from None
        except _UNREADABLE:
            raise auth_invalid() from None
        identity = self._identity(claims)
        if any(await self._revocations.revoked([identity])):
            raise auth_invalid()
        return identity

    async def recheck(self, identity: Identity) -> None:
        """An identity that was checked before, and is shown again in another form, still has to count: raises `Refused`
        where its token has ended or was revoked since."""
        if (self._clock() - identity.expires_at).total_seconds() >= self._leeway_s:
            raise auth_expired()
        if any(await self._revocations.revoked([identity])):
            raise auth_invalid()

    def _claims(self, token: str, keys: Any) -> Mapping[str, Any]:
        candidates = keys if isinstance(keys, tuple) else (keys,)
        for key in candidates[:-1]:
            with suppress(JWSError):
                jws.verify(token, key, self._algorithms)
                return self._decoded(token, key)
        return self._decoded(token, candidates[-1])

    def _decoded(self, token: str, key: Any) -> Mapping[str, Any]:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=self._algorithms,
            audience=self._audience,
            issuer=self._issuer,
            options={
                "leeway": self._leeway_s,
                "require_exp": True,
                "require_sub": True,
                "require_aud": self._audience is not None,
                "require_iss": self._issuer is not None,
                "verify_aud": self._audience is not None,
                "verify_at_hash": False,
            },
        )
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        sub, exp = claims.get("sub"), claims.get("exp")
        if not isinstance(sub, str) or not 0 < len(sub) <= _USER_MAX or not sub.isprintable():
            raise auth_invalid()
        if not isinstance(exp, int | float) or isinstance(exp, bool):
            raise auth_invalid()
        issued, token_id = claims.get("iat"), claims.get("jti")
        if not isinstance(token_id, str | None) or len(token_id or "") > _USER_MAX:
            raise auth_invalid()
        try:
            expires_at = datetime.fromtimestamp(exp, UTC)
            issued_at = datetime.fromtimestamp(issued, UTC) if isinstance(issued, int | float) else None
        except (OverflowError, ValueError, OSError):
            raise auth_invalid() from None
        return Identity(sub, self._scopes(claims), expires_at, issued_at, token_id)

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        claimed = claims.get("scope", claims.get("scp"))
        if claimed is None:
            return self._default_scopes
        if isinstance(claimed, str):
            return frozenset(claimed.split())
        if isinstance(claimed, list) and all(isinstance(item, str) for item in claimed):
            return frozenset(claimed)
        raise auth_invalid()

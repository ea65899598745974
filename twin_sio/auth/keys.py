"""Where the key of a token comes from: secrets that are shared, or a key set (JWKS) by its URL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import structlog
from jose import jwk
from jose.exceptions import JOSEError

from twin_sio.auth.refusals import refused
from twin_sio.clock import monotonic
from twin_sio.errors import HandshakeRefused

log = structlog.get_logger("auth")

# Between two fetches: anybody can make up key ids, and none of them may cost the issuer a request.
_REFETCH_FLOOR_S = 10.0
# A key that the issuer has withdrawn counts no longer than this.
_REFETCH_AFTER_S = 600.0
_TIMEOUT_S = 3.0
_KEYS_MAX = 200
_OF_CURVE: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_OF_RSA: Final = ("RS256", "RS384", "RS512")
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
"""What only a private key has: with it the library would make a key that signs, and checks nothing."""


class Keys:
    """Where the key of a token comes from."""

    async def get(self, kid: str | None, algorithm: str) -> tuple[Any, ...]:
        """The keys any of which may fit this `kid` and a pinned algorithm, at least one; raises `HandshakeRefused`."""
        raise NotImplementedError


class SharedSecrets(Keys):
    """Secrets that the main app and this service know: several at once while one takes the other's place."""

    def __init__(self, *secrets: str) -> None:
        self._secrets = secrets

    async def get(self, kid: str | None, algorithm: str) -> tuple[Any, ...]:  # noqa: ARG002 - a shared secret has no id
        return self._secrets


class JwksKeys(Keys):
    """A JWKS by URL: cached, fetched again for an unknown `kid` with a floor between fetches; when it cannot be
    reached the last good keys go on counting. What a key is for follows from its type where it does not say; one that
    cannot be used is skipped, and named in the log once."""

    def __init__(self, url: str) -> None:
        self._url = url
        # By `kid`, None for those that have none. Several may share one: keys of another type, or in a change of keys.
        self._keys: dict[str | None, list[Mapping[str, Any]]] = {}
        self._constructed: dict[tuple[str | None, str], tuple[Any, ...]] = {}  # for a `kid` and an algorithm
        self._skipped: set[str] = set()  # keys that the log has named
        self._failure = ""  # why the last fetch failed: logged when it changes
        self._fetched_at = -_REFETCH_AFTER_S
        # One fetch for all tokens that come at once.
        self._lock = asyncio.Lock()

    async def get(self, kid: str | None, algorithm: str) -> tuple[Any, ...]:
        age = monotonic() - self._fetched_at
        if age > _REFETCH_AFTER_S or (not self._meant(kid) and age > _REFETCH_FLOOR_S):
            await self._fetch()
        # Never had any: whether the token is good cannot be told, which passes by itself.
        if not self._keys:
            raise HandshakeRefused("unavailable", "Tokens cannot be checked right now.", retryable=True)
        meant = self._meant(kid)
        if not meant:
            raise refused("auth_invalid", "no key of the key set has its kid")
        fitting = [key for key in meant if algorithm in _algorithms(key)]
        if not fitting:
            raise refused("auth_invalid", "its key is of another algorithm")
        if (kid, algorithm) not in self._constructed:
            self._constructed[kid, algorithm] = tuple(_constructed(key, algorithm) for key in fitting)
        return self._constructed[kid, algorithm]

    def _meant(self, kid: str | None) -> Sequence[Mapping[str, Any]]:
        """The keys that a token may mean; one without a `kid` means those without, or else the only key there is."""
        if kid is None and None not in self._keys and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid, ())

    async def _fetch(self) -> None:
        async with self._lock:
            if monotonic() - self._fetched_at < _REFETCH_FLOOR_S:
                return
            self._fetched_at = monotonic()
            try:
                timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
                # By way of the proxy that the environment names, as the model's endpoint is reached.
                async with (
                    aiohttp.ClientSession(timeout=timeout, trust_env=True) as http,
                    http.get(self._url) as response,
                ):
                    response.raise_for_status()
                    body = await response.read()
            except aiohttp.ClientResponseError as error:
                self._failed(f"status {error.status}")
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self._failed(type(error).__name__)
            else:
                self._read(body)

    def _read(self, body: bytes) -> None:
        try:
            found = json.loads(body)  # in whichever Unicode, with a byte order mark or without
            listed = found["keys"]
        except (KeyError, TypeError, ValueError, RecursionError):
            is_discovery = b'"jwks_uri"' in body
            self._failed("it is no key set" + (", but names one as its jwks_uri" if is_discovery else ""))
        else:
            self._take(listed if isinstance(listed, list) else [])

    def _take(self, listed: Sequence[Any]) -> None:
        keys: dict[str | None, list[Mapping[str, Any]]] = {}
        for nth, key in enumerate(listed[:_KEYS_MAX]):
            why = _unusable(key)
            kid = kid_of(key) if isinstance(key, dict) else None
            if why:
                self._skip(f"number {nth + 1}" if kid is None else kid[:100], why)
            else:
                keys.setdefault(kid, []).append(key)
        if not keys:
            self._failed("none of its keys can be used")
            return
        self._failure = ""
        self._keys, self._constructed = keys, {}

    def _skip(self, kid: str, why: str) -> None:
        if kid not in self._skipped and len(self._skipped) < _KEYS_MAX:
            self._skipped.add(kid)
            log.info("jwks_key_skipped", kid=kid, reason=why)

    def _failed(self, why: str) -> None:
        if why != self._failure:
            self._failure = why
            log.warning("jwks_unavailable", host=urlsplit(self._url).hostname, reason=why, keys=len(self._keys))


def _constructed(key: Mapping[str, Any], algorithm: str) -> Any:
    public = {name: value for name, value in key.items() if name not in _PRIVATE}
    return jwk.construct(public, algorithm)


def kid_of(key: Mapping[str, Any]) -> str | None:
    """The id of a key, in a key or in a token's header: a number counts as its digits; None where it has none."""
    kid = key.get("kid")
    if isinstance(kid, int) and not isinstance(kid, bool):
        return str(kid)
    return kid if isinstance(kid, str) and kid else None


def _algorithms(key: Mapping[str, Any]) -> tuple[str, ...]:
    """The algorithms that a key may be used with: its own, or those of its type."""
    named = key.get("alg") or None
    if key.get("kty") == "RSA":
        possible: tuple[str, ...] = _OF_RSA
    elif key.get("kty") == "EC":
        possible = tuple(filter(None, [_OF_CURVE.get(str(key.get("crv")))]))
    else:
        possible = ()
    return possible if named is None else tuple(one for one in possible if one == named)


def _unusable(key: Any) -> str:
    """Why a key of a set cannot check a token; empty where it can."""
    if not isinstance(key, dict):
        return "it is no object"
    if kid_of(key) is None and key.get("kid"):
        return "its kid is no text"
    if (key.get("use") or "sig") != "sig":
        return "it is not for signatures"
    operations = key.get("key_ops") or ["verify"]
    if not isinstance(operations, list) or "verify" not in operations:
        return "it is not for checking signatures"
    algorithms = _algorithms(key)
    if not algorithms:
        return "its type or algorithm is not supported"
    try:
        _constructed(key, algorithms[0])
    except (JOSEError, KeyError, TypeError, ValueError, AttributeError):
        return "it cannot be read"
    return ""

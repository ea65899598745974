"""A token becomes an `Identity`, or is refused with one of the protocol's codes. May import the store's ports, the
protocol, errors, values and the logs.

The client is told the code and no more; the log has the reason (`refusals`). `keys`: shared secrets, or a key set.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from jose import jws, jwt
from jose.exceptions import ExpiredSignatureError, JOSEError, JWSError

from twin_sio.auth.keys import JwksKeys, Keys, SharedSecrets, kid_of
from twin_sio.auth.refusals import refused
from twin_sio.clock import Clock, now
from twin_sio.domain import Identity
from twin_sio.protocol import bare_token
from twin_sio.store.ports import Revocations

_UNREADABLE = (JOSEError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError)
"""What the library raises over tokens that somebody has made up: numbers without an end, claims nested too deep."""

_TOKEN_MAX = 16_384  # characters; with groups of a company in it a token may be long
_USER_MAX = 255  # characters, as OpenID Connect has it for `sub`
_PERSONA_MAX = 64

__all__ = ["Authenticator", "JwksKeys", "Keys", "SharedSecrets"]


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
        scope_map: Mapping[str, tuple[str, ...]] | None = None,
        revocations: Revocations,
        clock: Clock = now,
    ) -> None:
        """`scope_map`: what a scope of the issuer's means here, beside what it is."""
        self._clock = clock
        self._keys = keys
        self._revocations = revocations
        self._algorithms = list(algorithms)
        self._issuer = issuer or None
        self._audience = audience or None
        self._leeway_s = leeway_s
        self._default_scopes = frozenset(default_scopes)
        self._scope_map = scope_map or {}

    async def authenticate(self, token: str | None) -> Identity:
        """Who the token says somebody is; raises `HandshakeRefused`: auth_missing, auth_invalid, auth_expired,
        unavailable."""
        token = bare_token(token or "")
        if not token:
            raise refused("auth_missing")
        # Before anything is decoded: five parts are an encrypted token, which the library would take apart.
        if len(token) > _TOKEN_MAX or token.count(".") != 2:
            raise refused("auth_invalid", "it is no JWT")
        try:
            claims = self._claims(token, await self._keys_for(jwt.get_unverified_header(token)))
        except ExpiredSignatureError:
            raise refused("auth_expired", "it has expired") from None
        except JOSEError as error:
            raise refused("auth_invalid", _reason(str(error))) from None
        except _UNREADABLE:
            raise refused("auth_invalid", "it cannot be read") from None
        identity = self._identity(claims)
        if any(await self._revocations.revoked([identity])):
            raise refused("auth_invalid", "it was revoked")
        return identity

    async def _keys_for(self, header: Mapping[str, Any]) -> tuple[Any, ...]:
        kid, algorithm = kid_of(header), header.get("alg")
        if algorithm not in self._algorithms:
            raise refused("auth_invalid", "its algorithm is not in TWIN_JWT_ALGORITHMS")
        if header.get("crit") is not None:  # what has to be understood, or the token refused: we understand none of it
            raise refused("auth_invalid", "its header has crit")
        if kid is None and header.get("kid"):
            raise refused("auth_invalid", "its kid is no text")
        return await self._keys.get(kid, algorithm)

    async def recheck(self, identity: Identity) -> None:
        """An identity that was checked before, and is shown again in another form, still has to count: raises
        `HandshakeRefused` where its token has ended or was revoked since."""
        if (self._clock() - identity.expires_at).total_seconds() >= self._leeway_s:
            raise refused("auth_expired", "it has expired")
        if any(await self._revocations.revoked([identity])):
            raise refused("auth_invalid", "it was revoked")

    def _claims(self, token: str, keys: tuple[Any, ...]) -> Mapping[str, Any]:
        # The last one's failure is the one that is told.
        for key in keys[:-1]:
            with suppress(JWSError):
                jws.verify(token, key, self._algorithms)
                return self._decoded(token, key)
        return self._decoded(token, keys[-1])

    def _decoded(self, token: str, key: Any) -> Mapping[str, Any]:
        named = jwt.get_unverified_claims(token)
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=self._algorithms,
            audience=self._audience,
            issuer=self._issuer,
            options={
                "leeway": self._leeway_s,
                # Serializers write claims that are not set as null: absent. The library would read them as numbers.
                "verify_exp": named.get("exp") is not None,  # without it the token is refused in `_identity`
                "verify_iat": named.get("iat") is not None,
                "verify_nbf": named.get("nbf") is not None,
                "verify_sub": False,  # see `_identity`
                "verify_jti": False,
                "require_aud": self._audience is not None,
                "require_iss": self._issuer is not None,
                "verify_aud": self._audience is not None,
                "verify_at_hash": False,
            },
        )
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        sub, exp = claims.get("sub"), claims.get("exp")
        if isinstance(sub, int) and not isinstance(sub, bool):
            sub = str(sub)
        if not isinstance(sub, str) or not sub.strip():
            raise refused("auth_invalid", "its sub is missing or blank")
        if len(sub) > _USER_MAX or not sub.isprintable():
            raise refused("auth_invalid", f"its sub has control characters, or more than {_USER_MAX} characters")
        if exp is None:
            raise refused("auth_invalid", "it has no exp")
        if not isinstance(exp, int | float) or isinstance(exp, bool):
            raise refused("auth_invalid", "its exp is no number")
        issued, token_id = claims.get("iat"), claims.get("jti")
        if not isinstance(token_id, str | None) or len(token_id or "") > _USER_MAX:
            raise refused("auth_invalid", f"its jti is no text of at most {_USER_MAX} characters")
        try:
            expires_at = datetime.fromtimestamp(exp, UTC)
            issued_at = datetime.fromtimestamp(issued, UTC) if isinstance(issued, int | float) else None
        except (OverflowError, ValueError, OSError):
            raise refused("auth_invalid", "its exp or iat is no time") from None
        persona = claims.get("twin_persona")
        if not isinstance(persona, str) or len(persona) > _PERSONA_MAX:  # it decides nothing but how the twin speaks
            persona = ""
        return Identity(sub, self._scopes(claims), expires_at, issued_at, token_id, persona)

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        claimed = claims.get("scope")
        if claimed is None:
            claimed = claims.get("scp")
        if claimed is None:
            return self._default_scopes
        if isinstance(claimed, str):
            claimed = claimed.split()
        if not isinstance(claimed, list) or not all(isinstance(item, str) for item in claimed):
            raise refused("auth_invalid", "its scopes are no texts")
        return frozenset(own for scope in claimed for own in (scope, *self._scope_map.get(scope, ())))


def _reason(text: str) -> str:
    """What the library says of a token, in words of our own: its text may quote the claims."""
    for word, reason in (
        ("audience", "its aud is not TWIN_JWT_AUDIENCE"),
        ("issuer", "its iss is not TWIN_JWT_ISSUER"),
        ("not yet valid", "its nbf is in the future"),
        ("signature", "its signature is not of the key"),
    ):
        if word in text.lower():
            return reason
    return "it cannot be read, or a claim of it is not as it must be"

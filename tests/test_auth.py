"""Tokens as an attacker would send them, made by another library than the one that checks them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from twin_sio.auth import Authenticator, JwksKeys, SharedSecrets
from twin_sio.domain import Identity
from twin_sio.errors import HandshakeRefused

SECRET = "a secret that is long enough for every algorithm of its family, shared"
LATER = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
GOOD = {"sub": "ada", "exp": LATER}


class NothingRevoked:
    """Whose tokens all count; revocation itself is tested over a real Redis."""

    async def revoke_user(self, user_id: str, at: datetime, for_s: int) -> None: ...

    async def revoke_token(self, token_id: str, for_s: int) -> None: ...

    async def revoked(self, identities: Sequence[Identity]) -> Sequence[bool]:
        return [False] * len(identities)


def authenticator(keys: Any = None, **more: Any) -> Authenticator:
    settings: dict[str, Any] = {
        "algorithms": ("HS256",),
        "issuer": "",
        "audience": "",
        "leeway_s": 5,
        "default_scopes": ("twin:chat", "twin:profile"),
        "revocations": NothingRevoked(),
    }
    return Authenticator(keys or SharedSecrets(SECRET), **{**settings, **more})


def signed(claims: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode(claims, secret, algorithm=algorithm, headers=headers)


async def refusal(token: str | None, **more: Any) -> str:
    with pytest.raises(HandshakeRefused) as refused:
        await authenticator(**more).authenticate(token)
    return refused.value.reason


async def test_a_good_token_is_its_user_with_the_default_scopes() -> None:
    identity = await authenticator().authenticate(signed(GOOD))
    assert identity.user_id == "ada"
    assert identity.scopes == {"twin:chat", "twin:profile"}
    assert identity.expires_at == datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("claim", [{"scope": "twin:chat other"}, {"scp": ["twin:chat", "other"]}])
async def test_scopes_are_taken_from_either_claim(claim: dict) -> None:
    assert (await authenticator().authenticate(signed({**GOOD, **claim}))).scopes == {"twin:chat", "other"}


@pytest.mark.parametrize("token", [None, ""])
async def test_no_token_is_missing(token: str | None) -> None:
    assert await refusal(token) == "auth_missing"


async def test_an_expired_token_is_expired() -> None:
    assert await refusal(signed({"sub": "ada", "exp": 1})) == "auth_expired"


def signed_text(claims: str, secret: str = SECRET) -> str:
    """A token over this very text, by the secret."""
    parts = ".".join(
        base64.urlsafe_b64encode(one).rstrip(b"=").decode() for one in (b'{"alg":"HS256"}', claims.encode())
    )
    digest = hmac.digest(secret.encode(), parts.encode(), "sha256")
    return f"{parts}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=").decode() for one in (header, claims)]
    return ".".join([*parts, ""])


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b.c",
        "a.b.c.d.e",
        "\x00.\x00.\x00",
        "x" * 1_000_000,
        signed(GOOD, "another secret that is long enough for every algorithm of its family"),
        signed(GOOD, algorithm="HS384"),
        unsigned({"alg": "none"}, GOOD),
        unsigned({"alg": "None", "typ": "JWT"}, GOOD),
        signed({"exp": LATER}),
        signed({"sub": "ada"}),
        signed({"sub": "", "exp": LATER}),
        signed({"sub": "a" * 10_000, "exp": LATER}),
        signed({"sub": "a\nb", "exp": LATER}),
        signed({**GOOD, "nbf": LATER}),
        signed({**GOOD, "scope": 7}),
        signed({**GOOD, "scope": {"twin:chat": True}}),
        signed(GOOD) + "x",
        signed({"sub": ["ada"], "exp": LATER}),
        signed({"sub": {"id": "ada"}, "exp": LATER}),
        signed({**GOOD, "exp": "tomorrow"}),
        signed({**GOOD, "exp": 10**30}),
        signed({**GOOD, "iat": 10**30}),
        signed({**GOOD, "jti": 7}),
        unsigned({"alg": "dir", "enc": "A256GCM", "cty": "JWT"}, GOOD),
        ".".join(
            [
                "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwiY3R5IjoiSldUIn0",
                "",
                "aXY",
                signed(GOOD).replace(".", ""),
                "dGFn",
            ]
        ),
        unsigned({"alg": "HS256", "crit": ["exp"]}, GOOD),
        signed(GOOD, crit=["exp"]),
        signed(GOOD, crit=["b64"], b64=False),
        signed_text('{"sub": "ada", "exp": 1e999}'),
        signed_text('{"sub": "ada", "exp": NaN}'),
        signed_text('{"sub": "ada", "exp": 4102444800, "nbf": 1e999}'),
        signed_text('{"sub": "ada", "exp": 4102444800, "iat": -1e999}'),
        signed_text('{"sub": "ada", "exp": 4102444800, "deep": ' + "[" * 5000 + "]" * 5000 + "}"),
        base64.urlsafe_b64encode(b'{"alg": "HS256", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}").decode() + ".e30.x",
        unsigned({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}}, GOOD),
        unsigned({"alg": "HS256", "kid": 7}, GOOD),
    ],
)
async def test_a_bad_token_is_invalid_and_no_more_is_said(token: str) -> None:
    assert await refusal(token) == "auth_invalid"


async def test_issuer_and_audience_are_checked_where_set() -> None:
    wanted = {"issuer": "main-app", "audience": "twin"}
    good = signed({**GOOD, "iss": "main-app", "aud": "twin"})
    assert (await authenticator(**wanted).authenticate(good)).user_id == "ada"
    for claims in (
        {"iss": "main-app"},
        {"aud": "twin"},
        {"iss": "other", "aud": "twin"},
        {"iss": "main-app", "aud": "x"},
    ):
        assert await refusal(signed({**GOOD, **claims}), **wanted) == "auth_invalid"


async def test_previous_secrets_count_during_rotation() -> None:
    """Tokens of the new and the previous secret count while one replaces the other."""
    before = "the secret of before, which is long enough for every algorithm of its family"
    auth = authenticator(SharedSecrets(SECRET, before))
    assert (await auth.authenticate(signed(GOOD))).user_id == "ada"
    assert (await auth.authenticate(signed(GOOD, before))).user_id == "ada"
    for bad, reason in ((signed({**GOOD, "exp": 1}, before), "auth_expired"), (signed(GOOD, "z" * 64), "auth_invalid")):
        with pytest.raises(HandshakeRefused) as refused:
            await auth.authenticate(bad)
        assert refused.value.reason == reason


class Issuer:
    """A main app that publishes its keys."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.fetched = 0
        self.down = False

    def token(self, kid: str = "k1", **claims: Any) -> str:
        return jwt.encode({**GOOD, **claims}, self.key, algorithm="RS256", headers={"kid": kid})

    async def keys(self, _: web.Request) -> web.Response:
        self.fetched += 1
        if self.down:
            raise web.HTTPServiceUnavailable
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return web.json_response({"keys": [{**public, "kid": "k1", "alg": "RS256", "use": "sig"}]})

    @property
    def public_pem(self) -> str:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


@pytest.fixture
async def issuer() -> Any:
    made = Issuer()
    app = web.Application()
    app.router.add_get("/jwks.json", made.keys)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
    yield made
    await runner.cleanup()


async def test_a_key_set_is_fetched_once_and_its_tokens_accepted(issuer: Any) -> None:
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    for _ in range(3):
        assert (await auth.authenticate(issuer.token())).user_id == "ada"
    assert issuer.fetched == 1


async def test_an_unknown_key_is_not_fetched_every_time(issuer: Any) -> None:
    """An unknown key is invalid and does not fetch at every try."""
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    await auth.authenticate(issuer.token())
    for _ in range(5):
        with pytest.raises(HandshakeRefused, match="internal"):
            await auth.authenticate(issuer.token(kid="other"))
    assert issuer.fetched == 1


async def test_the_public_key_as_a_secret_is_refused(issuer: Any) -> None:
    """A token signed with the public key as a secret is refused."""
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    body = jwt.encode(GOOD, "x" * 32, algorithm="HS256", headers={"kid": "k1"}).rsplit(".", 1)[0]
    digest = hmac.new(issuer.public_pem.encode(), body.encode(), hashlib.sha256).digest()
    forged = body + "." + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    with pytest.raises(HandshakeRefused) as refused:
        await auth.authenticate(forged)
    assert refused.value.reason == "auth_invalid"


async def test_the_last_good_keys_count_during_an_outage(issuer: Any) -> None:
    """Without its key set the last good keys go on counting."""
    keys = JwksKeys(issuer.url)
    auth = authenticator(keys, algorithms=("RS256",))
    await auth.authenticate(issuer.token())
    issuer.down = True
    keys._fetched_at = -1e9
    assert (await auth.authenticate(issuer.token())).user_id == "ada"
    assert issuer.fetched == 2

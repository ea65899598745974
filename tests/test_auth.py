"""Tokens as an attacker would send them, made by another library than the one that checks them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from twin_sio.auth import Authenticator, JwksKeys, SharedSecrets, refusals
from twin_sio.domain import Identity
from twin_sio.errors import HandshakeRefused
from twin_sio.observability.limited_log import LimitedLog

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


@pytest.mark.parametrize(
    "claim",
    [{"scope": "twin:chat other"}, {"scp": ["twin:chat", "other"]}, {"scope": None, "scp": "twin:chat other"}],
)
async def test_scopes_are_taken_from_either_claim(claim: dict) -> None:
    assert (await authenticator().authenticate(signed({**GOOD, **claim}))).scopes == {"twin:chat", "other"}


@pytest.mark.parametrize("token", [None, ""])
async def test_no_token_is_missing(token: str | None) -> None:
    """Both ways to send it are named: nobody knows here which one the client takes."""
    with pytest.raises(HandshakeRefused) as refused:
        await authenticator().authenticate(token)
    assert refused.value.reason == "auth_missing"
    assert all(way in refused.value.message for way in ("auth.token", "Authorization: Bearer", "never in the query"))


@pytest.mark.parametrize(
    "around",
    ["{}\n", " {}", '"{}"', "'{}'\r\n", "Bearer {}", "bearer  {}", '"Bearer {}"', 'Bearer "{}"', "Bearer Bearer {}",
     "Authorization: Bearer {}\n", "\ufeff{}", "\u2060{}", "„{}“", "«Bearer {}»", "Bearer\u2003{}"],
)  # fmt: skip
async def test_a_token_is_taken_out_of_what_was_copied_with_it(around: str) -> None:
    assert (await authenticator().authenticate(around.format(signed(GOOD)))).user_id == "ada"
    assert await refusal(around.format("")) in ("auth_missing", "auth_invalid")


async def test_an_expired_token_is_expired() -> None:
    assert await refusal(signed({"sub": "ada", "exp": 1})) == "auth_expired"


def signed_text(claims: str, secret: str = SECRET, **headers: Any) -> str:
    """A token over this very text, by the secret."""
    header = json.dumps({"alg": "HS256", **headers})
    parts = ".".join(base64.urlsafe_b64encode(one.encode()).rstrip(b"=").decode() for one in (header, claims))
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
        signed({"sub": "  ", "exp": LATER}),
        signed({"sub": True, "exp": LATER}),
        signed({"sub": None, "exp": LATER}),
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
        pytest.param(
            signed_text('{"sub": "ada", "exp": 4102444800, "deep": ' + "[" * 5000 + "]" * 5000 + "}"),
            marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python 3.13 reads so deep a claim"),
        ),
        base64.urlsafe_b64encode(b'{"alg": "HS256", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}").decode() + ".e30.x",
        unsigned({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}}, GOOD),
        unsigned({"alg": "HS256", "kid": 7}, GOOD),
    ],
)
async def test_a_bad_token_is_invalid_and_no_more_is_said(token: str) -> None:
    assert await refusal(token) == "auth_invalid"


@pytest.mark.parametrize(
    "claim", ["nbf", "iat", "jti", "iss", "aud", "scope", "scp", "twin_persona", "at_hash", "azp", "groups"]
)
async def test_an_optional_claim_of_null_is_absent(claim: str) -> None:
    bare = await authenticator().authenticate(signed_text(json.dumps(GOOD)))
    assert await authenticator().authenticate(signed_text(json.dumps({**GOOD, claim: None}))) == bare


async def test_every_optional_claim_may_be_null() -> None:
    claims = dict.fromkeys(("nbf", "iat", "jti", "iss", "aud", "scope", "scp", "twin_persona"))
    assert (await authenticator().authenticate(signed_text(json.dumps({**GOOD, **claims})))).user_id == "ada"


@pytest.mark.parametrize("name", ["kid", "typ", "cty", "crit", "x5t"])
async def test_a_header_of_null_is_absent(name: str) -> None:
    assert (await authenticator().authenticate(signed_text(json.dumps(GOOD), **{name: None}))).user_id == "ada"


async def test_a_required_claim_of_null_is_missing() -> None:
    wanted = {"issuer": "main-app", "audience": "twin"}
    whole = {**GOOD, "iss": "main-app", "aud": "twin"}
    assert (await authenticator(**wanted).authenticate(signed_text(json.dumps(whole)))).user_id == "ada"
    for claim in whole:
        token = signed_text(json.dumps({**whole, claim: None}))
        assert await refusal(token, **wanted) == "auth_invalid"


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
        self.listed: Any = None
        self.body: str | bytes | None = None

    def token(self, kid: str = "k1", **claims: Any) -> str:
        return jwt.encode({**GOOD, **claims}, self.key, algorithm="RS256", headers={"kid": kid})

    async def keys(self, _: web.Request) -> web.Response:
        self.fetched += 1
        if self.down:
            raise web.HTTPServiceUnavailable
        if self.body is not None:
            return web.Response(body=self.body)
        own = [public(self.key, kid="k1", alg="RS256", use="sig")]
        return web.json_response({"keys": own if self.listed is None else self.listed})

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


def public(key: Any, **fields: Any) -> dict[str, Any]:
    """A key of a set."""
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), **fields}


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("RS256", lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        ("RS512", lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("ES384", lambda: ec.generate_private_key(ec.SECP384R1())),
    ],
)
async def test_a_keys_type_says_what_it_is_for(issuer: Any, algorithm: str, make: Any) -> None:
    """Keys without alg, as several issuers publish them."""
    issuer.key = make()
    issuer.listed = [public(issuer.key, kid="k1")]
    auth = authenticator(JwksKeys(issuer.url), algorithms=(algorithm,))
    token = jwt.encode(GOOD, issuer.key, algorithm=algorithm, headers={"kid": "k1"})
    assert (await auth.authenticate(token)).user_id == "ada"


async def test_a_key_that_cannot_be_used_spoils_no_other(issuer: Any, logged: list[Any]) -> None:
    good = public(issuer.key, kid="k1")
    issuer.listed = [
        None, 7, {}, {"kid": "a", "kty": "OKP", "crv": "Ed25519", "x": "AA"}, {"kid": "b", "kty": "RSA", "n": "?"},
        {"kid": "c", "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}, {**good, "kid": "d", "use": "enc"},
        {**good, "kid": "e", "alg": "RSA-OAEP"}, {**good, "kid": "f", "alg": 7}, good,
    ]  # fmt: skip
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    assert (await auth.authenticate(issuer.token())).user_id == "ada"
    assert await refusal_of(auth, issuer.token(kid="d")) == "auth_invalid"
    assert sum(line["event"] == "jwks_key_skipped" for line in logged) == 9


@pytest.mark.parametrize(
    "member", [{"use": None}, {"use": ""}, {"alg": None}, {"alg": ""}, {"key_ops": None}, {"key_ops": []},
               {"key_ops": ["verify"]}, {"key_ops": ["sign", "verify"]}, {"x5c": None, "ext": True, "exp": "soon"}],
)  # fmt: skip
async def test_an_empty_member_of_a_key_is_absent(issuer: Any, member: dict[str, Any]) -> None:
    issuer.listed = [public(issuer.key, kid="k1", **member)]
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    assert (await auth.authenticate(issuer.token())).user_id == "ada"


async def test_a_key_not_for_checking_is_skipped(issuer: Any, logged: list[Any]) -> None:
    good, members = public(issuer.key), [
        {"use": "enc"}, {"use": 7}, {"key_ops": ["encrypt"]}, {"key_ops": "verify"}, {"key_ops": 7},
        {"key_ops": {}, "use": []}, {"kid": ["k1"]}, {"kid": {"a": 1}}, {"kid": True}, {"kid": 1.5},
    ]  # fmt: skip
    issuer.listed = [*({**good, **more} for more in members), {**good, "kid": "k1"}]
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    assert (await auth.authenticate(issuer.token())).user_id == "ada"
    skipped = [line["kid"] for line in logged if line["event"] == "jwks_key_skipped"]
    assert skipped == [f"number {nth + 1}" for nth in range(len(members)) if nth != 5]


async def test_a_key_id_that_is_a_number_is_its_digits(issuer: Any) -> None:
    issuer.listed = [public(issuer.key, kid=7), public(ec.generate_private_key(ec.SECP256R1()), kid=8)]
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    assert (await auth.authenticate(issuer.token(kid="7"))).user_id == "ada"


async def test_keys_that_share_an_id_are_all_tried(issuer: Any) -> None:
    """The same id, or none at all, in whichever order: of another type, and of the same while keys change."""
    others = [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(public_exponent=65537, key_size=2048)]
    bare = jwt.encode(GOOD, issuer.key, algorithm="RS256")
    for ids, token in (({"kid": "k1"}, issuer.token()), ({}, bare), ({"kid": ""}, bare), ({"kid": None}, bare)):
        for keys in ([issuer.key, *others], [*others, issuer.key]):
            issuer.listed = [*(public(key, **ids) for key in keys), public(others[1], kid="other")]
            auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
            assert (await auth.authenticate(token)).user_id == "ada"


async def test_a_private_key_in_a_set_checks_as_its_public_half(issuer: Any) -> None:
    whole = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(issuer.key))
    issuer.listed = [{**whole, "kid": "k1", "key_ops": None}]
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    assert (await auth.authenticate(issuer.token())).user_id == "ada"


@pytest.mark.parametrize(
    "body", ["null", "[]", "7", '"keys"', '{"keys": null}', '{"keys": {"k1": {}}}', "{}", "<html>"]
)
async def test_what_is_no_key_set_is_named(issuer: Any, body: str, logged: list[Any]) -> None:
    issuer.body = body
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    assert await refusal_of(auth, issuer.token()) == "unavailable"
    (line,) = [line for line in logged if line["event"] == "jwks_unavailable"]
    assert line["reason"] in ("it is no key set", "none of its keys can be used")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
async def test_a_key_set_is_read_in_whichever_unicode(issuer: Any, encoding: str) -> None:
    issuer.body = json.dumps({"keys": [public(issuer.key, kid="k1")]}).encode(encoding)
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    assert (await auth.authenticate(issuer.token())).user_id == "ada"


async def test_a_discovery_document_is_told_from_a_key_set(issuer: Any, logged: list[Any]) -> None:
    issuer.body = json.dumps({"issuer": "x", "jwks_uri": issuer.url})
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    assert await refusal_of(auth, issuer.token()) == "unavailable"
    assert [one["reason"] for one in logged] == ["it is no key set, but names one as its jwks_uri"]


async def test_a_key_set_is_fetched_by_the_proxy_of_the_environment(
    issuer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the model's endpoint is: where nothing else leads out, tokens would never be checked."""
    monkeypatch.setenv("http_proxy", issuer.url.removesuffix("/jwks.json"))
    auth = authenticator(JwksKeys("http://idp.invalid/jwks.json"), algorithms=("RS256",))
    assert (await auth.authenticate(issuer.token())).user_id == "ada"
    monkeypatch.setenv("no_proxy", "idp.invalid")
    auth = authenticator(JwksKeys("http://idp.invalid/jwks.json"), algorithms=("RS256",))
    assert await refusal_of(auth, issuer.token()) == "unavailable"


@pytest.mark.parametrize("kid", ["", 0, 7])
async def test_a_kid_is_read_alike_in_tokens_and_keys(issuer: Any, kid: object) -> None:
    issuer.listed = [public(issuer.key, kid=kid)]
    bare = jwt.encode(GOOD, issuer.key, algorithm="RS256")
    body = {"alg": "RS256", "typ": "JWT", "kid": kid}
    head = base64.urlsafe_b64encode(json.dumps(body).encode()).rstrip(b"=").decode()
    said = f"{head}.{bare.split('.')[1]}"
    signature = issuer.key.sign(said.encode(), padding.PKCS1v15(), hashes.SHA256())
    token = f"{said}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    assert (await auth.authenticate(token)).user_id == "ada"


async def test_a_token_without_kid_is_of_the_only_key(issuer: Any) -> None:
    issuer.listed = [public(issuer.key)]
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    bare = jwt.encode(GOOD, issuer.key, algorithm="RS256")
    assert (await auth.authenticate(bare)).user_id == "ada"
    issuer.listed = [public(issuer.key, kid="k1"), public(issuer.key, kid="k2")]
    assert await refusal_of(authenticator(JwksKeys(issuer.url), algorithms=("RS256",)), bare) == "auth_invalid"


@pytest.mark.parametrize("listed", [[], "no list", [{"kid": "a", "kty": "OKP"}]])
async def test_without_a_usable_key_tokens_cannot_be_checked(issuer: Any, listed: Any, logged: list[Any]) -> None:
    """It passes by itself once the key set is right, and is said in the log once."""
    issuer.listed = listed
    auth = authenticator(JwksKeys(issuer.url), algorithms=("RS256",))
    for _ in range(3):
        assert await refusal_of(auth, issuer.token()) == "unavailable"
    (line,) = [line for line in logged if line["event"] == "jwks_unavailable"]
    assert line["reason"] == "none of its keys can be used"


async def refusal_of(auth: Authenticator, token: str) -> str:
    with pytest.raises(HandshakeRefused) as refused:
        await auth.authenticate(token)
    return str(refused.value.reason)


@pytest.mark.parametrize(("sub", "user"), [(42, "42"), (0, "0"), (2**60, str(2**60))])
async def test_a_number_as_sub_is_its_digits(sub: int, user: str) -> None:
    assert (await authenticator().authenticate(signed({"sub": sub, "exp": LATER}))).user_id == user


async def test_foreign_scopes_are_mapped() -> None:
    mapped = {"openid": ("twin:chat", "twin:profile"), "email": ("twin:chat",)}
    identity = await authenticator(scope_map=mapped).authenticate(signed({**GOOD, "scope": "openid phone"}))
    assert identity.scopes == {"openid", "phone", "twin:chat", "twin:profile"}
    assert (await authenticator().authenticate(signed({**GOOD, "scope": "openid phone"}))).scopes == {"openid", "phone"}


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (signed({"sub": " ", "exp": LATER}), "its sub is missing or blank"),
        (signed({"sub": "ada"}), "it has no exp"),
        (signed_text('{"sub": "ada", "exp": null}'), "it has no exp"),
        (signed({**GOOD, "nbf": LATER}), "its nbf is in the future"),
        (signed(GOOD, algorithm="HS384"), "its algorithm is not in TWIN_JWT_ALGORITHMS"),
        (signed({"sub": "ada", "exp": 1}), "it has expired"),
        (signed(GOOD, secret="x" * 64), "its signature is not of the key"),
        ("a.b", "it is no JWT"),
    ],
)
async def test_the_log_says_why_a_token_is_refused(
    token: str, reason: str, monkeypatch: Any, logged: list[Any]
) -> None:
    """With the reason, once a minute, and never with a word of the token."""
    monkeypatch.setattr(refusals, "_logged", LimitedLog("auth", "token_refused"))
    for _ in range(3):
        await refusal_of(authenticator(), token)
    (line,) = logged
    assert (line["event"], line["kind"]) == ("token_refused", reason)
    assert token[:20] not in str(line)
    assert "ada" not in str(line)


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

"""`docs/troubleshooting.md` is true of tokens, key sets and origins: each mistake is made, and what is said of it is
what the page has."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import jwt
import pytest

from tests.test_auth import (  # noqa: F401 - its fixture
    GOOD,
    LATER,
    NothingRevoked,
    authenticator,
    issuer,
    refusal_of,
    signed,
    signed_text,
)
from tests.test_troubleshooting import ROOT, shown, tables
from twin_sio.auth import JwksKeys, refusals
from twin_sio.observability.limited_log import LimitedLog
from twin_sio.transport.origins import Origins

TOKENS, CODES, KEY_SETS = tables("Signing in")


class AllRevoked(NothingRevoked):
    async def revoked(self, identities: Any) -> list[bool]:
        return [True] * len(identities)


MISTAKES: dict[str, tuple[str, dict[str, Any]]] = {
    "it has expired": (signed({"sub": "ada", "exp": 1}), {}),
    "it is no JWT": ("s%3Aa-session-id", {}),
    "its signature is not of the key": (signed(GOOD, "another secret that is long enough for it"), {}),
    "its algorithm is not in TWIN_JWT_ALGORITHMS": (signed(GOOD, algorithm="HS512"), {}),
    "its aud is not TWIN_JWT_AUDIENCE": (signed({**GOOD, "aud": "an app"}), {"audience": "twin"}),
    "its iss is not TWIN_JWT_ISSUER": (
        signed({**GOOD, "iss": "https://id.example/"}),
        {"issuer": "https://id.example"},
    ),
    "its nbf is in the future": (signed({**GOOD, "nbf": LATER - 1}), {}),
    "its sub is missing or blank": (signed({"exp": LATER}), {}),
    "its sub has control characters, or more than 255 characters": (signed({**GOOD, "sub": "a" * 256}), {}),
    "it has no exp": (signed({"sub": "ada"}), {}),
    "its exp is no number": (signed_text(json.dumps({**GOOD, "exp": str(LATER)})), {}),
    "its exp or iat is no time": (signed({**GOOD, "exp": LATER * 1000}), {}),
    "its jti is no text of at most 255 characters": (signed({**GOOD, "jti": "j" * 256}), {}),
    "its scopes are no texts": (signed({**GOOD, "scope": {"twin": "chat"}}), {}),
    "it was revoked": (signed(GOOD), {"revocations": AllRevoked()}),
    "its header has crit": (signed_text(json.dumps(GOOD), crit=["b64"]), {}),
    "its kid is no text": (signed_text(json.dumps(GOOD), kid=["k1"]), {}),
    "it cannot be read": (base64.b64encode(b"{").decode() + ".e30.e30", {}),
}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has not said anything yet: it says each thing once a minute."""
    monkeypatch.setattr(refusals, "_logged", LimitedLog("auth", "token_refused"))


@pytest.mark.parametrize("row", TOKENS, ids=lambda row: row[1])
async def test_what_is_wrong_with_a_token_is_logged(
    row: list[str],
    issuer: Any,  # noqa: F811
    fresh: None,
    logged: list[Any],
) -> None:
    sees, said, _ = row
    if "key set" in said or "its key is" in said:
        algorithm = "RS256" if "kid" in said else "RS512"
        token = jwt.encode(GOOD, issuer.key, algorithm, {"kid": "another" if "kid" in said else "k1"})
        given: dict[str, Any] = {"keys": JwksKeys(issuer.url), "algorithms": (algorithm,)}
    else:
        token, given = MISTAKES[said]
    code = await refusal_of(authenticator(**given), token)
    (line,) = [one for one in logged if one["event"] == "token_refused"]
    assert line["kind"].startswith(said)
    assert line["code"] == code
    shown(code, sees)


def test_each_reason_is_on_the_page() -> None:
    reasons = {row[1] for row in TOKENS}
    for module in ("__init__", "keys"):
        source = (ROOT / f"twin_sio/auth/{module}.py").read_text().replace("{_USER_MAX}", "255")
        for said in re.findall(r'refused\("auth_\w+", f?"([^"]+)"', source) + re.findall(
            r'\("\w[\w ]*", "(its [^"]+)"', source
        ):
            assert said in reasons, said


@pytest.mark.parametrize("row", CODES, ids=lambda row: row[1])
def test_what_the_page_shows_of_a_refusal(row: list[str]) -> None:
    sees, code, _ = row
    shown(code.split("`")[1], sees)


@pytest.mark.parametrize("row", KEY_SETS, ids=lambda row: row[0])
async def test_what_is_wrong_with_a_key_set_is_logged(row: list[str], issuer: Any, logged: list[Any]) -> None:  # noqa: F811
    url, reason = issuer.url, row[0]
    if reason == "status 404":
        url += "/none"
    elif reason == "ClientConnectorError":
        url = "http://127.0.0.1:9/jwks.json"
    elif reason == "none of its keys can be used":
        issuer.listed = [{"kty": "oct", "k": "c2VjcmV0"}]
    else:
        issuer.body = b'{"issuer": "i", "jwks_uri": "u"}' if "jwks_uri" in reason else b"<html>"
    assert await refusal_of(authenticator(JwksKeys(url), algorithms=("RS256",)), issuer.token()) == "unavailable"
    assert [one["reason"] for one in logged if one["event"] == "jwks_unavailable"] == [reason]


def test_an_origin_that_is_refused_is_logged(logged: list[Any]) -> None:
    origins = Origins(["https://app.example.com"])
    assert not origins.may_connect(
        "https://signing-in.example", host="twin.example", scheme="https", forwarded_proto=""
    )
    (line,) = logged
    assert line["event"] == "origin_refused"
    assert "TWIN_CORS_ORIGINS" in line["advice"]

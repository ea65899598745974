"""Addresses as operators write them: cleaned, or refused by the variable's name, without the value."""

from __future__ import annotations

import pytest

from twin_sio.config import ConfigError, Settings
from twin_sio.redis_connection import pool
from twin_sio.store import mongo

REDIS, MONGODB, JWKS, GRAPH = "TWIN_REDIS_URL", "TWIN_MONGODB_URL", "TWIN_JWT_JWKS_URL", "TWIN_GRAPH_URL"
WORD = "kanarienvogel"


@pytest.mark.parametrize(
    ("variable", "written", "taken"),
    [
        (REDIS, " redis://host:6379/0\n", "redis://host:6379/0"),
        (REDIS, '"redis://host/0"', "redis://host/0"),
        (REDIS, "REDIS://:pass%2Fword@host", "redis://:pass%2Fword@host"),
        (REDIS, "Rediss+Sentinel://:p@a:26379,b:26379/0?master=m", "rediss+sentinel://:p@a:26379,b:26379/0?master=m"),
        (REDIS, "redis+cluster://[::1]:7000,b:7001", "redis+cluster://[::1]:7000,b:7001"),
        (REDIS, "unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        (REDIS, "valkey://host:6379/0", "redis://host:6379/0"),
        (REDIS, "Valkeys://:p@host", "rediss://:p@host"),
        (REDIS, "rediss://host/0?ssl_cert_reqs=CERT_NONE", "rediss://host/0?ssl_cert_reqs=none"),
        (REDIS, "\u202aredis://host:6379/0\u202c", "redis://host:6379/0"),
        (JWKS, "\u2066https://idp.example.com/keys\u200d\u2069\u00ad", "https://idp.example.com/keys"),
        (JWKS, "\u00abhttps://idp.example.com/keys\u00bb", "https://idp.example.com/keys"),
        (MONGODB, "'MongoDB://a:1,b:2/own?replicaSet=rs'\n", "mongodb://a:1,b:2/own?replicaSet=rs"),
        (MONGODB, "mongodb+srv://u:p%40w@cluster.example.com/", "mongodb+srv://u:p%40w@cluster.example.com/"),
        (JWKS, " HTTPS://idp.example.com/keys ", "https://idp.example.com/keys"),
        (JWKS, "\u201chttps://idp.example.com/keys\u201d\u00a0\ufeff", "https://idp.example.com/keys"),
        (GRAPH, "FALKOR://host:6380 ", "falkor://host:6380"),
    ],
)
def test_what_stands_around_an_address_is_taken_off(
    variable: str, written: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, written)
    settings = Settings.from_environment()
    assert taken in (
        settings.storage.redis_url,
        settings.storage.mongodb_url,
        settings.auth.jwt_jwks_url,
        settings.storage.graph_url,
    )


@pytest.mark.parametrize(
    ("variable", "written", "group", "field", "taken"),
    [
        ("TWIN_MONGODB_DATABASE", " twins\r\n", "storage", "mongodb_database", "twins"),
        ("TWIN_JWT_ISSUER", '"https://idp.example.com/" ', "auth", "jwt_issuer", "https://idp.example.com/"),
        ("TWIN_JWT_AUDIENCE", "'twin'\n", "auth", "jwt_audience", "twin"),
        ("TWIN_JWT_ALGORITHMS", "'HS256', \"HS384\"", "auth", "jwt_algorithms", ("HS256", "HS384")),
        ("TWIN_JWT_ALGORITHMS", '["hs256", "HS512"]', "auth", "jwt_algorithms", ("HS256", "HS512")),
        ("TWIN_JWT_ALGORITHMS", "HS256; HS512;", "auth", "jwt_algorithms", ("HS256", "HS512")),
        ("TWIN_CORS_ORIGINS", "http://[::1] ,http://[::2]", "server", "cors_origins", ("http://[::1]", "http://[::2]")),
        ("TWIN_MODEL", "`gpt-5`\u200b", "model", "name", "gpt-5"),
        ("TWIN_EMBEDDINGS_MODEL", " e5 ", "embeddings", "model", "e5"),
        ("OPENAI_BASE_URL", '"localhost:11434/v1/"', "model", "base_url", "http://localhost:11434/v1"),
        ("PORT", "'8001'\n", "server", "port", 8001),
        ("TWIN_ENV", "dev\r", "process", "env", "dev"),
        ("TWIN_MODEL_BACKGROUND", '"false"', "model", "background", False),
        ("TWIN_CORS_ORIGINS", '\'https://A.example\' "https://b.example/"', "server", "cors_origins",
         ("https://a.example", "https://b.example")),
    ],
)  # fmt: skip
def test_every_kind_of_value_is_cleaned_in_one_way(
    variable: str, written: str, group: str, field: str, taken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, written)
    assert getattr(getattr(Settings.from_environment(), group), field) == taken


def test_a_secret_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blanks and quotes may be part of it; an API key's are not, since no header carries them."""
    monkeypatch.setenv("TWIN_JWT_SECRET", ' "quoted" ' * 9)
    monkeypatch.setenv("OPENAI_API_KEY", ' "Bearer sk-1"\n')
    settings = Settings.from_environment()
    assert settings.auth.jwt_secret.get_secret_value() == ' "quoted" ' * 9
    assert settings.model.api_key.get_secret_value() == "sk-1"


@pytest.mark.parametrize(
    ("variable", "written", "why"),
    [
        (REDIS, f"{WORD}:6379", "a scheme is missing"),
        (REDIS, f"http://{WORD}:6379", "its scheme must be one of"),
        (REDIS, f"redis://:{WORD}/slash@host:6379/0", "percent-encoded"),
        (REDIS, f"redis://:{WORD}#hash@host:6379/0", "percent-encoded"),
        (REDIS, f"redis://:{WORD}?what@host:6379/0", "percent-encoded"),
        (REDIS, f"redis://:{WORD}@at@host:6379/0", "percent-encoded"),
        (REDIS, f"redis://:{WORD}[@host:6379/0", "percent-encoded"),
        (REDIS, f"redis://:{WORD}%zz@host:6379/0", "percent-encoded"),
        (REDIS, f"redis://{WORD} host:6379/0", "a blank"),
        (REDIS, f"redis://{WORD}\u200b:6379/0", "not shown"),
        (MONGODB, f"mongodb://\u202a{WORD}/", "not shown"),
        ("OPENAI_BASE_URL", f"https://{WORD}/\u200bv1", "blanks within it"),
        ("OPENAI_BASE_URL", f"https:/{WORD}/v1", "must begin with"),
        ("OPENAI_BASE_URL", f"https//{WORD}/v1", "must begin with"),
        ("OPENAI_BASE_URL", f"https://http://{WORD}/v1", "must begin with"),
        (REDIS, "redis://:6379/0", "it names no host"),
        (REDIS, f"redis://{WORD}:99999/0", "its port is no number"),
        (REDIS, f"redis://host/{WORD}", "number of a database"),
        (REDIS, f"redis://{WORD}:1,b:2/0", "its port is no number"),
        (REDIS, "unix://", "names no socket"),
        (REDIS, "redis+cluster://", "it names no host"),
        (REDIS, f"redis+cluster://one:{WORD}", "its port is no number"),
        (MONGODB, f"{WORD}:27017", "a scheme is missing"),
        (MONGODB, f"mongodb://ada:{WORD}/slash@host/", "percent-encoded"),
        (MONGODB, f"mongodb://ada:{WORD}@at@host/", "percent-encoded"),
        (MONGODB, f"mongodb://a,{WORD}:x/", "its port is no number"),
        (MONGODB, f"redis://{WORD}/", "its scheme must be one of mongodb"),
        (JWKS, f"{WORD}.example.com/keys", "a scheme is missing"),
        (JWKS, "https:///keys", "it names no host"),
        (GRAPH, f"bolt://{WORD}:7687", "its scheme must be one of"),
    ],
)
def test_an_address_that_cannot_be_used_is_named(
    variable: str, written: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused address: the variable and what to do, and nothing of the value."""
    monkeypatch.setenv(variable, written)
    with pytest.raises(ConfigError, match=variable) as caught:
        Settings.from_environment()
    assert why in str(caught.value)
    assert WORD not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "database", "used"), [("", "", "twin_sio"), ("own", "", "own"), ("own", "other", "other")]
)
async def test_the_database_of_the_address_is_used(path: str, database: str, used: str) -> None:
    client, db = mongo.connect(f"mongodb://127.0.0.1:9/{path}", database, 100)
    assert db.name == used
    client.close()


async def test_an_address_of_mongodb_takes_no_guarantee_away() -> None:
    """Some providers' addresses read from secondaries, which do not have yet what was just written."""
    client, db = mongo.connect("mongodb://127.0.0.1:9/?readPreference=secondaryPreferred&w=1", "", 100)
    assert (db.read_preference.name, db.client.read_preference.name) == ("Primary", "Primary")
    assert db.write_concern.document == {"w": "majority", "j": True}
    client.close()


@pytest.mark.parametrize("option", ["tlsCAFile=/nowhere", "tlsCertificateKeyFile=/nowhere", "tls=true&ssl=false"])
async def test_an_address_of_mongodb_that_cannot_be_used_is_its_own_failure(option: str) -> None:
    """And not that of the start, which says no more than that a file is missing."""
    with pytest.raises(ValueError, match="no URL of a MongoDB"):
        mongo.connect(f"mongodb://127.0.0.1:9/?{option}", "", 100)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/0?foo=bar",
        "redis://h/0?protocol=9",
        "rediss://h/0?ssl_cert_reqs=maybe",
        "redis://h/0?db=abc",
        "redis+sentinel://a:1,b:2/0?foo=bar",
        "redis+sentinel://a:1/0?service_name=m",
        "redis+cluster://a:1?foo=bar",
        "rediss+cluster://a:1?ssl_cert_reqs=maybe",
    ],
)
def test_an_option_of_redis_that_is_none_stops_the_start(url: str) -> None:
    """Whatever the library raises over it, and whenever it would."""
    with pytest.raises(ValueError, match="option"):
        pool(url)


@pytest.mark.parametrize("scheme", ["redis://h/0", "redis+sentinel://a:1/0", "redis+cluster://a:1"])
def test_an_address_of_redis_does_not_change_what_replies_are(scheme: str) -> None:
    made = pool(f"{scheme}?decode_responses=true&health_check_interval=30")
    assert made.connection_kwargs["decode_responses"] is False
    assert made.connection_kwargs["health_check_interval"] == 30

"""The settings of the service, one class a group: each field has its variable, its unit and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import NoDecode

from twin_sio.config.endpoints import ApiKey, Dialect, EndpointUrl, json_object
from twin_sio.config.group import Group, Words
from twin_sio.config.group import env as _env
from twin_sio.config.origins import normal_origins
from twin_sio.config.urls import GraphUrl, HttpUrl, MongoUrl, RedisUrl
from twin_sio.dev_tokens import DEV_SECRET
from twin_sio.domain import Scope

SECRET_MIN_BYTES = 32
SHARED_SECRET_ALGORITHMS = frozenset({"HS256", "HS384", "HS512"})
SCOPES = frozenset(get_args(Scope))
KEY_SET_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"})


class ProcessSettings(Group):
    """Process"""

    env: Literal["dev", "production"] = _env(
        "TWIN_ENV",
        "dev",
        "`dev` embeds engines that have no URL; `production` refuses to start without them",
    )
    data_dir: Path = _env("TWIN_DATA_DIR", Path(".twin"), "where the embedded engines keep their data")
    drain_s: float = _env(
        "TWIN_DRAIN_S", 25.0, "s that running answers get at SIGTERM before another instance takes them over", ge=0
    )
    log_level: Literal["debug", "info", "warning", "error"] = _env("TWIN_LOG_LEVEL", "info", "lowest level logged")
    watchdog_ms: int = _env(
        "TWIN_WATCHDOG_MS",
        0,
        "ms of CPU that one step of the event loop may take before its place in the code is logged; 0: not watched",
        ge=0,
    )
    otlp_endpoint: HttpUrl = _env(
        "OTEL_EXPORTER_OTLP_ENDPOINT", "", "collector of traces over OTLP/HTTP (extra `otel`); empty: no traces"
    )


class ServerSettings(Group):
    """Server"""

    host: str = _env("TWIN_HOST", "127.0.0.1", "address to listen on")
    port: int = _env("PORT", 8000, "port to listen on; 0: a free one", "TWIN_PORT", ge=0, le=65535)
    worker_port: int = _env(
        "TWIN_WORKER_PORT", 0, "port of a worker's /healthz and /metrics, on TWIN_HOST; 0: none", ge=0, le=65535
    )
    tls_cert: Path | None = _env("TWIN_TLS_CERT", None, "certificate chain (PEM), where no proxy terminates TLS")
    tls_key: Path | None = _env("TWIN_TLS_KEY", None, "its private key (PEM)")
    cors_origins: Annotated[Words, AfterValidator(normal_origins)] = _env(
        "TWIN_CORS_ORIGINS",
        (),
        "origins of browsers that may connect beside the service's own, space-separated; `https://*.example.com`: any "
        "host below it; `*`: any origin",
    )
    trusted_proxies: Words = _env(
        "TWIN_TRUSTED_PROXIES", (), "addresses or networks whose X-Forwarded-For is believed, space-separated"
    )
    heartbeat_interval_ms: int = _env(
        "TWIN_HEARTBEAT_INTERVAL_MS", 25_000, "ms between a client's heartbeats, announced in session_ready", ge=1000
    )
    slow_hard_bytes: int = _env(
        "TWIN_SLOW_HARD_BYTES", 1024 * 1024, "bytes buffered for a connection over which it is closed", ge=4096
    )
    admin_ui_secret: SecretStr = _env(
        "TWIN_ADMIN_UI_SECRET", SecretStr(""), "password of the Socket.IO Admin UI, 32 bytes or more; empty: no /admin"
    )

    @property
    def is_loopback_only(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.trusted_proxies:
            return False
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


class StorageSettings(Group):
    """Storage"""

    mongodb_url: MongoUrl = _env("TWIN_MONGODB_URL", "", "MongoDB, a replica set; empty in dev: embedded")
    mongodb_database: str = _env("TWIN_MONGODB_DATABASE", "", "its database; empty: the URL's, else `twin_sio`")
    mongodb_timeout_ms: int = _env(
        "TWIN_MONGODB_TIMEOUT_MS", 2500, "ms until an operation fails as storage_unavailable", ge=100
    )
    redis_url: RedisUrl = _env(
        "TWIN_REDIS_URL",
        "",
        "`redis://`, `redis+sentinel://` or `redis+cluster://`, with TLS `rediss...`; empty in dev: embedded",
    )
    graph_url: GraphUrl = _env(
        "TWIN_GRAPH_URL", "", "FalkorDB (`redis://` or `falkor://`) for the graph of the profile; empty: no graph"
    )
    encryption_keys: SecretStr = _env(
        "TWIN_ENCRYPTION_KEYS",
        SecretStr(""),
        "Fernet keys that encrypt stored text, the first one encrypts; empty: stored in plain",
    )
    context_ttl_s: int = _env("TWIN_CONTEXT_TTL_S", 86_400, "s that a session's host context is stored", ge=1)
    retention_messages_days: int = _env(
        "TWIN_RETENTION_MESSAGES_DAYS", 0, "days that messages and other events are stored; 0: for ever", ge=0
    )
    retention_evidence_days: int = _env(
        "TWIN_RETENTION_EVIDENCE_DAYS",
        0,
        "days that the evidence of the profile is stored, a rejection too, which holds no longer; 0: for ever",
        ge=0,
    )


class AuthSettings(Group):
    """Authentication"""

    jwt_secret: SecretStr = _env(
        "TWIN_JWT_SECRET", SecretStr(DEV_SECRET), "shared secret of HS256 tokens, 32 bytes or more"
    )
    jwt_previous_secrets: SecretStr = _env(
        "TWIN_JWT_PREVIOUS_SECRETS",
        SecretStr(""),
        "secrets still accepted during a rotation, comma-separated; empty: none",
    )
    jwt_algorithms: Annotated[Words, AfterValidator(lambda names: tuple(map(str.upper, names)))] = _env(
        "TWIN_JWT_ALGORITHMS", ("HS256",), "accepted algorithms, space-separated, one family"
    )
    jwt_jwks_url: HttpUrl = _env("TWIN_JWT_JWKS_URL", "", "key set of RS256 / ES256 tokens; empty: a shared secret")
    jwt_issuer: str = _env("TWIN_JWT_ISSUER", "", "required `iss`; empty: not checked")
    jwt_audience: str = _env("TWIN_JWT_AUDIENCE", "", "required `aud`; empty: not checked")
    jwt_leeway_s: int = _env("TWIN_JWT_LEEWAY_S", 5, "s of clock skew that are accepted; 0: none", ge=0, le=300)
    default_scopes: Words = _env(
        "TWIN_DEFAULT_SCOPES", ("twin:chat", "twin:profile"), "scopes of a token that claims none"
    )
    scope_map: Words = _env(
        "TWIN_SCOPE_MAP",
        (),
        "what scopes of your issuer mean here, in pairs: `openid=twin:chat openid=twin:profile`; empty: nothing",
    )

    @property
    def scopes_by_foreign(self) -> Mapping[str, tuple[str, ...]]:
        """`scope_map` as a table. Raises `ValueError` for a pair that is none."""
        found: dict[str, tuple[str, ...]] = {}
        for foreign, _, own in (pair.partition("=") for pair in self.scope_map):
            if not foreign or not own:
                raise ValueError
            found[foreign] = (*found.get(foreign, ()), own)
        return found

    @property
    def previous_secrets(self) -> tuple[str, ...]:
        """The previous secrets that are still accepted."""
        parts = (part.strip() for part in self.jwt_previous_secrets.get_secret_value().split(","))
        return tuple(part for part in parts if part)

    @property
    def takes_shared_secrets(self) -> bool:
        """Whether tokens are signed with a secret, and not with a key of a key set."""
        return bool(set(self.jwt_algorithms) & SHARED_SECRET_ALGORITHMS)

    @property
    def takes_development_secret(self) -> bool:
        """Whether anybody can sign a token."""
        secrets = (self.jwt_secret.get_secret_value(), *self.previous_secrets)
        return self.takes_shared_secrets and DEV_SECRET in secrets


class ModelSettings(Group):
    """Language model"""

    base_url: EndpointUrl = _env(
        "OPENAI_BASE_URL", "", "an OpenAI-compatible endpoint; empty with a key: OpenAI, in dev without: embedded"
    )
    api_key: ApiKey = _env("OPENAI_API_KEY", SecretStr(""), "API key of the endpoint")
    name: str = _env("TWIN_MODEL", "", "name of the model; empty: `gpt-4o-mini`, or the embedded one")
    dialect: Annotated[Dialect, NoDecode, BeforeValidator(json_object)] = _env(
        "TWIN_MODEL_DIALECT",
        Dialect(),
        "JSON object with the forms in which the endpoint is asked, below, as "
        '`{"max_tokens": "max_completion_tokens"}`; what is not set is learnt from what it refuses',
    )
    first_token_s: float = _env(
        "TWIN_MODEL_FIRST_TOKEN_S", 30.0, "s to the first sign of an answer, and of silence while it reasons", gt=0
    )
    reasoning_s: float = _env(
        "TWIN_MODEL_REASONING_S", 300.0, "s that a model may show that it reasons before its first word", gt=0
    )
    concurrency: int = _env("TWIN_MODEL_CONCURRENCY", 64, "answers generated at once per instance", ge=1)
    max_tokens: int = _env("TWIN_MODEL_MAX_TOKENS", 800, "longest answer, in tokens", ge=1)
    prompt_budget_tokens: int = _env(
        "TWIN_PROMPT_BUDGET_TOKENS", 2400, "tokens of history, profile and memories in a prompt, estimated", ge=200
    )
    background: bool = _env(
        "TWIN_MODEL_BACKGROUND",
        True,
        "the model also extracts traits, summarises and writes titles; false (the default with the embedded model): "
        "rules extract traits, and there are no summaries or titles",
    )
    extraction: Literal["auto", "model", "rules"] = _env(
        "TWIN_EXTRACTION",
        "auto",
        "what reads users' messages: the model where it passes a short test (`twin-sio doctor --model`), else the "
        "rules; `model` or `rules` without a test",
    )


class EmbeddingSettings(Group):
    """Embeddings"""

    url: EndpointUrl = _env(
        "TWIN_EMBEDDINGS_URL", "", "an OpenAI-compatible endpoint for recall; empty: the local model where installed"
    )
    model: str = _env("TWIN_EMBEDDINGS_MODEL", "text-embedding-3-small", "name of the embedding model")
    key: ApiKey = _env("TWIN_EMBEDDINGS_KEY", SecretStr(""), "API key of the endpoint; empty: OPENAI_API_KEY")


class LimitSettings(Group):
    """Limits"""

    messages_per_minute: int = _env("TWIN_LIMIT_MESSAGES_PER_MINUTE", 60, "user messages per minute and user", ge=1)
    writes_per_minute: int = _env(
        "TWIN_LIMIT_WRITES_PER_MINUTE",
        120,
        "feedback, read receipts, corrections and contexts per minute and user; 0: unlimited. Corrections are 60 at "
        "most, whatever this is",
        ge=0,
    )
    events_per_second: int = _env("TWIN_LIMIT_EVENTS_PER_SECOND", 50, "events per second and connection", ge=1)
    connects_per_minute: int = _env(
        "TWIN_LIMIT_CONNECTS_PER_MINUTE", 60, "connects per minute and user; 0: unlimited", ge=0
    )
    connects_per_address: int = _env(
        "TWIN_LIMIT_CONNECTS_PER_ADDRESS",
        1200,
        "connects and requests per minute and address, of IPv6 a /64; 0: unlimited",
        ge=0,
    )
    requests_per_minute: int = _env(
        "TWIN_LIMIT_REQUESTS_PER_MINUTE", 120, "HTTP requests, and searches, per minute and user; 0: unlimited", ge=0
    )
    tokens_per_day: int = _env(
        "TWIN_LIMIT_TOKENS_PER_DAY",
        1_000_000,
        "tokens of the model per day and user, answers and jobs; 0: unlimited",
        ge=0,
    )
    sessions: int = _env("TWIN_LIMIT_SESSIONS", 20, "simultaneous sessions per user", ge=1)


class OverloadSettings(Group):
    """Overload"""

    lag_ms: int = _env(
        "TWIN_OVERLOAD_LAG_MS",
        500,
        "ms of event-loop delay within a second from which the instance is overloaded; 0: not watched",
        ge=0,
    )
    generations: int = _env(
        "TWIN_OVERLOAD_GENERATIONS",
        256,
        "conversations being answered from which the instance is overloaded; 0: not watched",
        ge=0,
    )
    memory_mb: int = _env(
        "TWIN_OVERLOAD_MEMORY_MB",
        0,
        "MB of memory of the process from which the instance is overloaded; 0: not watched",
        ge=0,
    )


class ScoreWeights(BaseModel):
    """The numbers of the scoring model: weights by kind of evidence, half-lives in days, thresholds of the bands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    confirmed: float = Field(16.0, gt=0, description="weight of a trait that its user confirms")
    edited: float = Field(16.0, gt=0, description="weight of a value that its user enters")
    rejected: float = Field(16.0, gt=0, description="weight against a value that its user rejects; never decays")
    change: float = Field(12.0, gt=0, description='weight of a change stated plainly ("I moved to")')
    explicit: float = Field(8.0, gt=0, description="weight of a plain statement")
    host: float = Field(6.0, gt=0, description="weight of a verified field of the host application")
    inferred: float = Field(0.5, gt=0, description="weight of what is only inferred from a message")
    up: float = Field(0.25, gt=0, description="weight of a thumb up, for each trait the answer used")
    down: float = Field(0.75, gt=0, description="weight of a thumb down, against each trait the answer used")
    repeat: float = Field(0.25, ge=0, lt=1, description="share of its weight that each repeat within a session has")
    explicit_half_life: float = Field(365.0, gt=0, description="days after which a statement weighs half")
    inferred_half_life: float = Field(60.0, gt=0, description="days after which an inference weighs half")
    apply: float = Field(0.80, gt=0.5, lt=1, description="confidence from which a trait is applied")
    demote: float = Field(0.65, ge=0.5, lt=1, description="confidence under which it no longer is")
    tentative: float = Field(0.55, ge=0.5, lt=1, description="confidence from which the twin may ask for a trait")

    @model_validator(mode="after")
    def _bands_rise(self) -> ScoreWeights:
        if not self.tentative <= self.demote <= self.apply:
            raise ValueError("tentative, demote and apply must rise in this order")
        return self

    def of(self, kind: str) -> float:
        """The weight of a kind of evidence; a kind without one, as `withdrawn`, weighs nothing."""
        return float(getattr(self, kind, 0.0))

    def half_life(self, *, explicit: bool) -> float:
        """Days after which a piece of evidence weighs half."""
        return self.explicit_half_life if explicit else self.inferred_half_life


class ScoringSettings(Group):
    """Scoring"""

    weights: ScoreWeights = _env(
        "TWIN_SCORE_WEIGHTS",
        ScoreWeights(),
        'JSON object with the weights that differ from the defaults below, as `{"explicit": 6}`; changing one '
        "re-rates every user",
    )


class Tuning(BaseModel):
    """What no operator needs to change. Tests pass other values, or set TWIN_TEST_TUNING for a process of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # s before a token expires at which its session gets `auth_expiring`
    auth_expiring_s: int = Field(60, ge=1)
    # s between two tokens of an answer, then model_timeout
    model_stall_s: float = Field(20.0, gt=0)
    # cosine, less what all messages of the user have in common, from which an earlier one counts as related
    embeddings_floor: float = Field(0.1, ge=-1, le=1)
    # ms an answer waits for recalled messages, then goes without
    recall_ms: int = Field(150, ge=0)
    # ms over which tokens are gathered into one chunk; the first chunk goes at once
    chunk_interval_ms: int = Field(40, ge=0)
    # s after which another instance takes over the answer of a dead one
    turn_lease_s: float = Field(10.0, ge=0.5)
    # messages of a conversation that may wait for their answer, then busy
    turn_queue: int = Field(8, ge=1)
    # messages of a user, in all conversations, that may wait for their answer, then busy
    pending_turns_per_user: int = Field(100, ge=1)
    # answers generated at once per user
    generations_per_user: int = Field(4, ge=1)
    # events of one connection that may wait, then rate_limited
    connection_queue: int = Field(64, ge=1)
    # s of silence after which a connection is closed: the sum of the ping's interval and its timeout
    stale_s: int = Field(45, ge=2)
    # s that a socket has to authenticate
    handshake_s: float = Field(10.0, gt=0)
    # bytes buffered for a connection over which ephemeral events are dropped
    slow_soft_bytes: int = Field(256 * 1024, ge=1024)
    # s without progress after which a connection over the soft bound is closed
    slow_stuck_s: float = Field(5.0, gt=0)
    # s a background job may take; the job of a killed worker runs again after it
    job_timeout_s: int = Field(60, ge=1)

    @property
    def ping_interval_s(self) -> float:
        """A ping every 25 s of the default 45 s of silence, which are Engine.IO's own figures (25 s and 20 s)."""
        return self.stale_s * 5 / 9

    @property
    def ping_timeout_s(self) -> float:
        """How long a client may take to answer a ping."""
        return self.stale_s * 4 / 9


class TestSettings(Group):
    """For tests"""

    __test__ = False  # no test case, whatever its name begins with

    tuning: Tuning = _env(
        "TWIN_TEST_TUNING", Tuning(), "JSON object that overrides constants (`Tuning`); for tests, not for operation"
    )

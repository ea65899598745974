"""Settings: the only reader of the environment. Every field says its unit; `docs` lists them in a table."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from twin_sio.dev_tokens import DEV_SECRET

SECRET_MIN_BYTES = 32
_SHARED = frozenset({"HS256", "HS384", "HS512"})
_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@|(?<=\?)[^#\s]+")


def set_variable(name: str, value: str) -> None:
    """Set a variable of the process's environment for good, for a library that reads it when it likes."""
    os.environ[name] = value  # noqa: TID251


@contextmanager
def variables(**given: str) -> Iterator[None]:
    """The process's environment with these variables, for a library that reads it when it is imported."""
    before = {name: os.environ.get(name) for name in given}  # noqa: TID251 - this is its one reader, and writer
    os.environ.update(given)  # noqa: TID251
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)  # noqa: TID251
            if value is not None:
                os.environ[name] = value  # noqa: TID251


class ConfigError(Exception):
    """The environment cannot be served; the text names the variable and is safe to print."""


@contextmanager
def refused_as(name: str) -> Iterator[None]:
    """What cannot be made of the setting `name` is a `ConfigError`: a library's own error may quote the value."""
    try:
        yield
    except ValueError:
        raise ConfigError(f"{name} is refused: it cannot be read; see the README's configuration table.") from None


def _without_login(text: str) -> str:
    """A URL without what stands before its host and after its path."""
    return _LOGIN.sub(lambda found: "***@" if found.group().endswith("@") else "***", text) if "://" in text else text


def _words(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]


def _env(name: str, default: Any, doc: str, *more: str, **bounds: Any) -> Any:
    return Field(default, validation_alias=AliasChoices(name, *more), description=doc, **bounds)


class Settings(BaseSettings):
    """What an operator can set. Anything not set has the default that suits one developer on one machine."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    env: Literal["dev", "production"] = _env(
        "TWIN_ENV", "dev", "`dev` runs what has no URL embedded; `production` refuses to"
    )
    host: str = _env("TWIN_HOST", "127.0.0.1", "address to listen on")
    port: int = _env("PORT", 8000, "port to listen on; 0 takes a free one", "TWIN_PORT", ge=0, le=65535)
    data_dir: Path = _env("TWIN_DATA_DIR", Path(".twin"), "where the embedded engines keep their data")

    mongodb_url: str = _env("TWIN_MONGODB_URL", "", "MongoDB, a replica set; empty in dev: embedded")
    mongodb_database: str = _env("TWIN_MONGODB_DATABASE", "twin_sio", "the database's name")
    mongodb_timeout_ms: int = _env(
        "TWIN_MONGODB_TIMEOUT_MS", 2500, "ms until an operation fails as storage_unavailable", ge=100
    )
    redis_url: str = _env(
        "TWIN_REDIS_URL",
        "",
        "`redis://`, `rediss://` (TLS), `redis+sentinel://` or `redis+cluster://`; empty in dev: embedded",
    )

    encryption_keys: SecretStr = _env(
        "TWIN_ENCRYPTION_KEYS",
        SecretStr(""),
        "Fernet keys that seal text at rest, the first seals; empty: kept as it is",
    )

    jwt_secret: SecretStr = _env(
        "TWIN_JWT_SECRET", SecretStr(DEV_SECRET), "shared secret of HS256 tokens, 32 bytes or more"
    )
    jwt_previous_secrets: SecretStr = _env(
        "TWIN_JWT_PREVIOUS_SECRETS", SecretStr(""), "secrets that still count while they are replaced, comma-separated"
    )
    jwt_algorithms: Words = _env("TWIN_JWT_ALGORITHMS", ("HS256",), "accepted algorithms, space-separated, one family")
    jwt_jwks_url: str = _env("TWIN_JWT_JWKS_URL", "", "key set of RS256 / ES256 tokens")
    jwt_issuer: str = _env("TWIN_JWT_ISSUER", "", "required `iss`; empty: not checked")
    jwt_audience: str = _env("TWIN_JWT_AUDIENCE", "", "required `aud`; empty: not checked")
    jwt_leeway_s: int = _env("TWIN_JWT_LEEWAY_S", 5, "s of clock skew that are forgiven", ge=0, le=300)
    default_scopes: Words = _env(
        "TWIN_DEFAULT_SCOPES", ("twin:chat", "twin:profile"), "scopes of a token that claims none"
    )
    auth_expiring_s: int = _env("TWIN_AUTH_EXPIRING_S", 60, "s before its token's end that a session is told", ge=1)

    openai_base_url: str = _env(
        "OPENAI_BASE_URL", "", "an OpenAI-compatible endpoint; empty with a key: OpenAI, in dev without: embedded"
    )
    openai_api_key: SecretStr = _env("OPENAI_API_KEY", SecretStr(""), "its key")
    model: str = _env("TWIN_MODEL", "", "model name; empty: `gpt-4o-mini`, or the embedded one")
    model_first_token_s: float = _env(
        "TWIN_MODEL_FIRST_TOKEN_S", 30.0, "s to the first token, then model_timeout", gt=0
    )
    model_stall_s: float = _env("TWIN_MODEL_STALL_S", 20.0, "s between two tokens, then model_timeout", gt=0)
    model_concurrency: int = _env("TWIN_MODEL_CONCURRENCY", 64, "answers generated at once per instance", ge=1)
    model_max_tokens: int = _env("TWIN_MODEL_MAX_TOKENS", 800, "tokens an answer has at most", ge=1)
    model_price_read: float = _env(
        "TWIN_MODEL_PRICE_READ", 0.0, "what a million tokens that the model reads cost, for /metrics", ge=0
    )
    model_price_written: float = _env(
        "TWIN_MODEL_PRICE_WRITTEN", 0.0, "what a million tokens that it writes cost, for /metrics", ge=0
    )
    prompt_budget_tokens: int = _env(
        "TWIN_PROMPT_BUDGET_TOKENS", 2400, "tokens of history, profile and memories in a prompt, estimated", ge=200
    )
    model_background: bool = _env(
        "TWIN_MODEL_BACKGROUND",
        True,
        "the model also learns, summarises and gives titles; without it rules learn (so with the embedded one)",
    )
    embeddings_url: str = _env(
        "TWIN_EMBEDDINGS_URL", "", "an OpenAI-compatible endpoint for recall; empty: the local model where installed"
    )
    embeddings_model: str = _env("TWIN_EMBEDDINGS_MODEL", "text-embedding-3-small", "its model's name")
    embeddings_key: SecretStr = _env("TWIN_EMBEDDINGS_KEY", SecretStr(""), "its key; empty: OPENAI_API_KEY")
    embeddings_floor: float = _env(
        "TWIN_EMBEDDINGS_FLOOR", 0.3, "cosine from which an earlier message is related", ge=-1, le=1
    )
    graph_url: str = _env(
        "TWIN_GRAPH_URL", "", "FalkorDB (`redis://` or `falkor://`) for the graph of the profile; empty: none"
    )
    recall_ms: int = _env(
        "TWIN_RECALL_MS", 150, "ms an answer waits for what was said earlier, then goes without", ge=0
    )

    chunk_interval_ms: int = _env(
        "TWIN_CHUNK_INTERVAL_MS", 40, "ms over which tokens are gathered into one chunk; the first goes at once", ge=0
    )
    turn_lease_s: float = _env(
        "TWIN_TURN_LEASE_S", 10.0, "s after which the answer of a dead instance is taken over", ge=0.5
    )
    turn_queue: int = _env(
        "TWIN_TURN_QUEUE", 8, "messages of a conversation that may wait for their answer, then busy", ge=1
    )
    connection_queue: int = _env(
        "TWIN_CONNECTION_QUEUE", 64, "events of one connection that may wait, then rate_limited", ge=1
    )
    heartbeat_interval_ms: int = _env(
        "TWIN_HEARTBEAT_INTERVAL_MS", 25_000, "ms between a client's heartbeats, told in session_ready", ge=1000
    )
    stale_s: int = _env("TWIN_STALE_S", 45, "s without a sign of life after which a connection is closed", ge=2)
    handshake_s: float = _env("TWIN_HANDSHAKE_S", 10.0, "s that a socket has to authenticate", gt=0)
    context_ttl_s: int = _env("TWIN_CONTEXT_TTL_S", 86_400, "s that a session's host context is kept", ge=1)
    drain_s: float = _env(
        "TWIN_DRAIN_S", 25.0, "s that running answers get at SIGTERM before they are handed over", ge=0
    )
    slow_soft_bytes: int = _env(
        "TWIN_SLOW_SOFT_BYTES", 256 * 1024, "bytes queued for a connection over which ephemera are dropped", ge=1024
    )
    slow_hard_bytes: int = _env(
        "TWIN_SLOW_HARD_BYTES", 1024 * 1024, "bytes queued for a connection over which it is cut", ge=4096
    )
    slow_stuck_s: float = _env(
        "TWIN_SLOW_STUCK_S", 5.0, "s without progress after which a full connection is cut", gt=0
    )

    limit_messages_per_minute: int = _env("TWIN_LIMIT_MESSAGES_PER_MINUTE", 60, "user messages a minute and user", ge=1)
    limit_writes_per_minute: int = _env(
        "TWIN_LIMIT_WRITES_PER_MINUTE",
        120,
        "feedback, read marks, corrections and contexts a minute and user; 0: no bound",
        ge=0,
    )
    limit_events_per_second: int = _env("TWIN_LIMIT_EVENTS_PER_SECOND", 50, "events a second and connection", ge=1)
    limit_connects_per_minute: int = _env(
        "TWIN_LIMIT_CONNECTS_PER_MINUTE", 60, "connects a minute and user; 0: no bound", ge=0
    )
    limit_connects_per_address: int = _env(
        "TWIN_LIMIT_CONNECTS_PER_ADDRESS",
        1200,
        "connects and requests a minute and address, of IPv6 a /64; 0: no bound",
        ge=0,
    )
    limit_requests_per_minute: int = _env(
        "TWIN_LIMIT_REQUESTS_PER_MINUTE", 120, "HTTP requests a minute and user; 0: no bound", ge=0
    )
    limit_generations: int = _env("TWIN_LIMIT_GENERATIONS", 4, "answers generated at once per user", ge=1)
    limit_owed: int = _env("TWIN_LIMIT_OWED", 100, "messages of a user that may wait for their answer, then busy", ge=1)
    limit_tokens_per_day: int = _env(
        "TWIN_LIMIT_TOKENS_PER_DAY",
        1_000_000,
        "tokens of the model a day and user, answers and jobs; 0: no bound",
        ge=0,
    )
    overload_lag_ms: int = _env(
        "TWIN_OVERLOAD_LAG_MS", 500, "ms the event loop is late, over a second, that are too much; 0: not watched", ge=0
    )
    overload_generations: int = _env(
        "TWIN_OVERLOAD_GENERATIONS", 256, "conversations being answered by an instance that are too many", ge=0
    )
    overload_memory_mb: int = _env(
        "TWIN_OVERLOAD_MEMORY_MB", 0, "MB of memory of the process that are too much; 0: not watched", ge=0
    )
    trusted_proxies: Words = _env(
        "TWIN_TRUSTED_PROXIES", (), "addresses or networks whose X-Forwarded-For is believed, space-separated"
    )
    limit_sessions: int = _env("TWIN_LIMIT_SESSIONS", 20, "sessions at once and user", ge=1)

    score_confirmed: float = _env("TWIN_SCORE_CONFIRMED", 16.0, "weight of a trait that its user confirms", gt=0)
    score_edited: float = _env("TWIN_SCORE_EDITED", 16.0, "weight of a value that its user puts in", gt=0)
    score_rejected: float = _env(
        "TWIN_SCORE_REJECTED", 16.0, "weight against a value that its user rejects; never fades", gt=0
    )
    score_change: float = _env(
        "TWIN_SCORE_CHANGE", 12.0, 'weight of a change that is plainly said ("I moved to")', gt=0
    )
    score_explicit: float = _env("TWIN_SCORE_EXPLICIT", 8.0, "weight of a plain statement", gt=0)
    score_host: float = _env("TWIN_SCORE_HOST", 6.0, "weight of a verified field of the host", gt=0)
    score_inferred: float = _env("TWIN_SCORE_INFERRED", 0.5, "weight of what only follows from a message", gt=0)
    score_up: float = _env("TWIN_SCORE_UP", 0.25, "weight of a thumb up, for each trait the answer used", gt=0)
    score_down: float = _env(
        "TWIN_SCORE_DOWN", 0.75, "weight of a thumb down, against each trait the answer used", gt=0
    )
    score_repeat: float = _env(
        "TWIN_SCORE_REPEAT", 0.25, "share of its weight that each repeat within a session keeps", ge=0, lt=1
    )
    score_explicit_half_life: float = _env(
        "TWIN_SCORE_EXPLICIT_HALF_LIFE", 365.0, "days after which what was said weighs half", gt=0
    )
    score_inferred_half_life: float = _env(
        "TWIN_SCORE_INFERRED_HALF_LIFE", 60.0, "days after which what was inferred weighs half", gt=0
    )
    score_apply: float = _env("TWIN_SCORE_APPLY", 0.80, "confidence from which a trait is applied", gt=0.5, lt=1)
    score_demote: float = _env("TWIN_SCORE_DEMOTE", 0.65, "confidence under which it no longer is", ge=0.5, lt=1)
    score_tentative: float = _env(
        "TWIN_SCORE_TENTATIVE", 0.55, "confidence from which the twin may ask for a trait", ge=0.5, lt=1
    )

    retention_messages_days: int = _env(
        "TWIN_RETENTION_MESSAGES_DAYS", 0, "days that messages and other events are kept; 0: for ever", ge=0
    )
    retention_evidence_days: int = _env(
        "TWIN_RETENTION_EVIDENCE_DAYS", 0, "days that the evidence of the profile is kept; 0: for ever", ge=0
    )
    job_timeout_s: int = _env(
        "TWIN_JOB_TIMEOUT_S", 60, "s a background job may take; a killed worker's job runs again after it", ge=1
    )
    log_level: Literal["debug", "info", "warning", "error"] = _env("TWIN_LOG_LEVEL", "info", "the least that is logged")
    watchdog_ms: int = _env(
        "TWIN_WATCHDOG_MS",
        0,
        "ms of CPU that one step of a server's event loop may take before its place is logged; 0: not watched",
        ge=0,
    )
    otlp_endpoint: str = _env(
        "OTEL_EXPORTER_OTLP_ENDPOINT", "", "collector of traces over OTLP/HTTP (extra `otel`); empty: no traces"
    )
    worker_port: int = _env(
        "TWIN_WORKER_PORT", 0, "port of a worker's /healthz and /metrics, on TWIN_HOST; 0: none", ge=0, le=65535
    )
    admin_ui_secret: SecretStr = _env(
        "TWIN_ADMIN_UI_SECRET", SecretStr(""), "password of the Socket.IO Admin UI, 32 bytes or more; empty: no /admin"
    )
    tls_cert: Path | None = _env("TWIN_TLS_CERT", None, "certificate chain (PEM), for those without a proxy")
    tls_key: Path | None = _env("TWIN_TLS_KEY", None, "its private key (PEM)")
    cors_origins: Words = _env(
        "TWIN_CORS_ORIGINS", (), "origins of browsers that may connect, space-separated; empty: the same origin"
    )

    @property
    def previous_secrets(self) -> tuple[str, ...]:
        """The secrets that still count."""
        parts = (one.strip() for one in self.jwt_previous_secrets.get_secret_value().split(","))
        return tuple(one for one in parts if one)

    @property
    def signs_for_everybody(self) -> bool:
        """Whether a secret counts that is known to all, or short enough to be guessed."""
        if not set(self.jwt_algorithms) & _SHARED:
            return False
        secrets = (self.jwt_secret.get_secret_value(), *self.previous_secrets)
        return any(one == DEV_SECRET or len(one.encode()) < SECRET_MIN_BYTES for one in secrets)

    @property
    def is_for_this_machine_alone(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.trusted_proxies:
            return False
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The fields, without the passwords of URLs."""
        for name, value in super().__repr_args__():
            yield name, _without_login(value) if isinstance(value, str) else value

    @property
    def is_dev(self) -> bool:
        return self.env == "dev"

    @classmethod
    def from_environment(cls) -> Settings:
        """The environment's settings; raises `ConfigError` naming the variable, never its value."""
        try:
            settings = cls()
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{name} is refused ({first['type']}); see the README's configuration table.") from None
        settings.check()
        return settings

    def check(self) -> None:
        """Raise `ConfigError` where production would start on a missing URL or a secret that everybody knows."""
        algorithms = set(self.jwt_algorithms)
        shared = _SHARED
        if not algorithms or (algorithms & shared and algorithms - shared):
            raise ConfigError("TWIN_JWT_ALGORITHMS must name algorithms of one family: HS256, or RS256 / ES256.")
        if not algorithms & shared and not self.jwt_jwks_url:
            raise ConfigError("TWIN_JWT_JWKS_URL is needed for RS256 / ES256 tokens.")
        try:
            for proxy in self.trusted_proxies:
                ip_network(proxy, strict=False)
        except ValueError:
            raise ConfigError("TWIN_TRUSTED_PROXIES holds what is no address and no network.") from None
        for name, value in (
            ("OPENAI_BASE_URL", self.openai_base_url),
            ("TWIN_EMBEDDINGS_URL", self.embeddings_url),
            ("TWIN_GRAPH_URL", self.graph_url),
            ("TWIN_JWT_JWKS_URL", self.jwt_jwks_url),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.otlp_endpoint),
        ):
            with refused_as(name):
                _ = urlsplit(value).port  # which looks at all that is before it, too
        if 0 < len(self.admin_ui_secret.get_secret_value().encode()) < SECRET_MIN_BYTES:
            raise ConfigError("TWIN_ADMIN_UI_SECRET must be 32 bytes or more, or empty.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TWIN_TLS_CERT and TWIN_TLS_KEY are set together or not at all.")
        if not self.score_tentative <= self.score_demote <= self.score_apply:
            raise ConfigError("TWIN_SCORE_TENTATIVE, TWIN_SCORE_DEMOTE and TWIN_SCORE_APPLY must rise in this order.")
        if self.is_dev:
            if self.signs_for_everybody and not self.is_for_this_machine_alone:
                raise ConfigError(
                    "TWIN_JWT_SECRET is the development secret, or shorter than 32 bytes: anybody can be anybody. "
                    "A server that others can reach (TWIN_HOST, TWIN_TRUSTED_PROXIES) needs one of its own. "
                    "In production set TWIN_ENV=production, too."
                )
            return
        if not algorithms & shared and not (self.jwt_issuer and self.jwt_audience):
            raise ConfigError(
                "TWIN_JWT_ISSUER and TWIN_JWT_AUDIENCE are needed beside TWIN_JWT_JWKS_URL: "
                "the key set signs tokens for other services, too."
            )
        for name, value in (("TWIN_MONGODB_URL", self.mongodb_url), ("TWIN_REDIS_URL", self.redis_url)):
            if not value:
                raise ConfigError(f"{name} is not set: production runs no embedded engines.")
        if not self.openai_base_url and not self.openai_api_key.get_secret_value():
            raise ConfigError("OPENAI_API_KEY (or OPENAI_BASE_URL) is not set: production runs no embedded model.")
        if algorithms & shared:
            secret = self.jwt_secret.get_secret_value()
            if secret == DEV_SECRET or len(secret.encode()) < SECRET_MIN_BYTES:
                raise ConfigError("TWIN_JWT_SECRET must be a secret of your own, of 32 bytes or more.")
            if any(one == DEV_SECRET or len(one.encode()) < SECRET_MIN_BYTES for one in self.previous_secrets):
                raise ConfigError("TWIN_JWT_PREVIOUS_SECRETS must be secrets of your own, of 32 bytes or more each.")


def table() -> str:
    """The configuration table of the README, in Markdown, made from the fields above."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for field in Settings.model_fields.values():
        choices = field.validation_alias
        names = choices.choices if isinstance(choices, AliasChoices) else []
        default = field.default
        if isinstance(default, SecretStr):
            shown = "a development secret" if default.get_secret_value() else ""
        else:
            shown = " ".join(default) if isinstance(default, tuple) else "" if default is None else str(default)
        variable = " / ".join(f"`{name}`" for name in names)
        rows.append(f"| {variable} | {f'`{shown}`' if shown else '–'} | {field.description} |")
    return "\n".join(rows) + "\n"

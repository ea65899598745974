"""The settings: the only reader of the environment.

`groups` has the fields by group, `refusals` the variables that are settings no longer, those that never were, and why a
value cannot be used. May import `dev_tokens` and nothing else of the service.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import SettingsError

from twin_sio.config.agent import AgentSettings
from twin_sio.config.endpoints import DEFAULT_MODEL, Dialect
from twin_sio.config.group import Group
from twin_sio.config.groups import (
    KEY_SET_ALGORITHMS,
    SCOPES,
    SECRET_MIN_BYTES,
    SHARED_SECRET_ALGORITHMS,
    AuthSettings,
    EmbeddingSettings,
    LimitSettings,
    ModelSettings,
    OverloadSettings,
    ProcessSettings,
    ScoreWeights,
    ScoringSettings,
    ServerSettings,
    StorageSettings,
    TestSettings,
    Tuning,
)
from twin_sio.config.refusals import REMOVED, UnknownVariable, first_removed, reason_of, unknown_variables
from twin_sio.dev_tokens import DEV_SECRET

__all__ = [
    "DEFAULT_MODEL",
    "GROUPS",
    "REMOVED",
    "SCOPES",
    "AgentSettings",
    "AuthSettings",
    "ConfigError",
    "Dialect",
    "EmbeddingSettings",
    "Group",
    "LimitSettings",
    "ModelSettings",
    "OverloadSettings",
    "ProcessSettings",
    "ScoreWeights",
    "ScoringSettings",
    "ServerSettings",
    "Settings",
    "StorageSettings",
    "TestSettings",
    "Tuning",
    "UnknownVariable",
    "refused_as",
    "unknown_settings",
    "variable_of",
]

_DOCS = "see docs/configuration.md"


class ConfigError(Exception):
    """The environment cannot be served; the text names the variable and is safe to print."""


@contextmanager
def refused_as(name: str) -> Iterator[None]:
    """A `ValueError` about the setting `name` becomes a `ConfigError`: a library's own error may quote the value."""
    try:
        yield
    except ValueError:
        raise ConfigError(f"{name} is refused: it cannot be read; {_DOCS}.") from None


class Settings(BaseModel):
    """What an operator can set, in groups. The defaults suit one developer on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    process: ProcessSettings = Field(default_factory=ProcessSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    agent: AgentSettings = Field(default_factory=AgentSettings)
    embeddings: EmbeddingSettings = Field(default_factory=EmbeddingSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    overload: OverloadSettings = Field(default_factory=OverloadSettings)
    scoring: ScoringSettings = Field(default_factory=ScoringSettings)
    tuning: Tuning = Field(default_factory=lambda: TestSettings().tuning)

    @property
    def is_dev(self) -> bool:
        return self.process.env == "dev"

    def changed(self, **groups: Mapping[str, Any]) -> Settings:
        """A copy with some fields of some groups replaced, as `changed(server={"port": 0})`."""
        return self.model_copy(
            update={name: getattr(self, name).model_copy(update=fields) for name, fields in groups.items()}
        )

    @classmethod
    def from_environment(cls) -> Settings:
        """The environment's settings; raises `ConfigError` naming the variable, never its value."""
        # Before the settings are read: who sets one that is gone would wait for its effect in vain.
        removed = first_removed(sorted(os.environ))  # noqa: TID251 - this package is its one reader
        if removed is not None:
            raise ConfigError(removed)
        groups: dict[str, Any] = {}
        classes: dict[str, type[Group]] = {**GROUPS, "test": TestSettings}
        for name, group in classes.items():
            try:
                groups[name] = group()
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                # By the variable's name, which is the field's alias, and never with the value: it may be a secret.
                variable = ".".join(str(part) for part in first["loc"])
                raise ConfigError(f"{variable} is refused ({reason_of(first)}); {_DOCS}.") from None
            except SettingsError:
                # The one kind of value that pydantic-settings decodes itself is JSON.
                variable = next(variable_of(group, field) for field in group.model_fields)
                raise ConfigError(f"{variable} is refused: it is not a JSON object; {_DOCS}.") from None
        groups["tuning"] = groups.pop("test").tuning
        settings = cls(**groups)
        settings.check()
        return settings

    def check(self) -> None:
        """Raise `ConfigError` where production would start on a missing URL or a secret that everybody knows."""
        _check_scopes(self.auth)
        _check_algorithms(self.auth)
        _check_server(self.server)
        for name, value in (
            ("OPENAI_BASE_URL", self.model.base_url),
            ("TWIN_EMBEDDINGS_URL", self.embeddings.url),
        ):
            with refused_as(name):
                _ = urlsplit(value).port  # parses everything before the port, too
        if not self.is_dev:
            self._check_production()
        _check_secrets(self.auth, is_dev=self.is_dev)
        if self.auth.takes_development_secret and not self.server.is_loopback_only:
            raise ConfigError(
                "TWIN_JWT_SECRET is the development secret: anybody can be anybody. "
                "A server that others can reach (TWIN_HOST, TWIN_TRUSTED_PROXIES) needs one of its own. "
                "In production set TWIN_ENV=production, too."
            )

    def _check_production(self) -> None:
        auth = self.auth
        if not auth.takes_shared_secrets and not (auth.jwt_issuer and auth.jwt_audience):
            raise ConfigError(
                "TWIN_JWT_ISSUER and TWIN_JWT_AUDIENCE are needed beside TWIN_JWT_JWKS_URL: "
                "the key set signs tokens for other services, too."
            )
        for name, value in (
            ("TWIN_MONGODB_URL", self.storage.mongodb_url),
            ("TWIN_REDIS_URL", self.storage.redis_url),
        ):
            if not value:
                raise ConfigError(f"{name} is not set: production runs no embedded engines.")
        if not self.model.base_url and not self.model.api_key.get_secret_value():
            raise ConfigError("OPENAI_API_KEY (or OPENAI_BASE_URL) is not set: production runs no embedded model.")


GROUPS: Final[dict[str, type[Group]]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Group)
}


def variable_of(group: type[Group], field: str) -> str:
    """The environment variable of a field."""
    return _variables_of(group, field)[0]


def _variables_of(group: type[Group], field: str) -> list[str]:
    choices = group.model_fields[field].validation_alias
    return [str(choice) for choice in choices.choices] if isinstance(choices, AliasChoices) else [field]


def unknown_settings() -> list[UnknownVariable]:
    """The variables of the environment that look like a setting, and that nothing reads."""
    groups: list[type[Group]] = [*GROUPS.values(), TestSettings]
    known = [name for group in groups for field in group.model_fields for name in _variables_of(group, field)]
    return unknown_variables(os.environ, known)  # noqa: TID251 - this package is its one reader


def _check_scopes(auth: AuthSettings) -> None:
    try:
        own = [scope for scopes in auth.scopes_by_foreign.values() for scope in scopes]
    except ValueError:
        raise ConfigError("TWIN_SCOPE_MAP must hold pairs, as openid=twin:chat.") from None
    for name, scopes in (("TWIN_SCOPE_MAP", own), ("TWIN_DEFAULT_SCOPES", auth.default_scopes)):
        if not SCOPES.issuperset(scopes):
            raise ConfigError(f"{name} names a scope that there is not: {', '.join(sorted(SCOPES))} are.")


def _check_algorithms(auth: AuthSettings) -> None:
    algorithms = set(auth.jwt_algorithms)
    shared = algorithms & SHARED_SECRET_ALGORITHMS
    if not algorithms <= SHARED_SECRET_ALGORITHMS | KEY_SET_ALGORITHMS:
        raise ConfigError(
            "TWIN_JWT_ALGORITHMS names one that is not supported: HS256, RS256 and ES256 are, and those of 384 and 512."
        )
    if not algorithms or (shared and algorithms - shared):
        raise ConfigError("TWIN_JWT_ALGORITHMS must name algorithms of one family: HS256, or RS256 / ES256.")
    if not shared and not auth.jwt_jwks_url:
        raise ConfigError("TWIN_JWT_JWKS_URL is needed for RS256 / ES256 tokens.")


def _check_secrets(auth: AuthSettings, *, is_dev: bool) -> None:
    def is_weak(secret: str) -> bool:
        return (secret == DEV_SECRET and not is_dev) or len(secret.encode()) < SECRET_MIN_BYTES

    if auth.takes_shared_secrets:
        if is_weak(auth.jwt_secret.get_secret_value()):
            raise ConfigError("TWIN_JWT_SECRET must be a secret of your own, of 32 bytes or more.")
        if any(map(is_weak, auth.previous_secrets)):
            raise ConfigError("TWIN_JWT_PREVIOUS_SECRETS must be secrets of your own, of 32 bytes or more each.")


def _check_server(server: ServerSettings) -> None:
    try:
        for proxy in server.trusted_proxies:
            ip_network(proxy, strict=False)
    except ValueError:
        raise ConfigError("TWIN_TRUSTED_PROXIES must hold addresses and networks only.") from None
    if 0 < len(server.admin_ui_secret.get_secret_value().encode()) < SECRET_MIN_BYTES:
        raise ConfigError("TWIN_ADMIN_UI_SECRET must be 32 bytes or more, or empty.")
    if (server.tls_cert is None) != (server.tls_key is None):
        raise ConfigError("TWIN_TLS_CERT and TWIN_TLS_KEY are set together or not at all.")

"""What all groups of settings have in common: how a value is cleaned, and what is shown of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import AliasChoices, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from twin_sio.config.values import cleaned, without_login


def env(name: str, default: Any, doc: str, *more: str, **bounds: Any) -> Any:
    """A field that is read from the variable `name`, or from one of `more`."""
    return Field(default, validation_alias=AliasChoices(name, *more), description=doc, **bounds)


class Group(BaseSettings):
    """Settings that belong together; a field that is not given is read from the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def _cleaned(cls, value: object, info: ValidationInfo) -> object:
        """A secret is left as it is: every character may be part of it (`ApiKey` knows better)."""
        is_secret = cls.model_fields[str(info.field_name)].annotation is SecretStr
        return value if is_secret else cleaned(value)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The fields, without the passwords of URLs."""
        for name, value in super().__repr_args__():
            yield name, without_login(value) if isinstance(value, str) else value

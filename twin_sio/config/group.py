"""What all groups of settings have in common: how values are read, cleaned and shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from twin_sio.pasted import strip_pasted

_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@|(?<=\?)[^#\s]+")


def cleaned(value: object) -> object:
    """A text without the blanks and quotation marks that are pasted, or left by a shell or a file, around it; all else
    as it is. Every value of the environment but secrets comes through here, before its own parser."""
    return strip_pasted(value) if isinstance(value, str) else value


def without_login(text: str) -> str:
    """A URL without what stands before its host and after its path."""
    return _LOGIN.sub(lambda found: "***@" if found.group().endswith("@") else "***", text) if "://" in text else text


def _words(value: object) -> object:
    """Words between blanks, commas or semicolons; or a JSON list of them."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        with suppress(ValueError, RecursionError):
            return tuple(strip_pasted(word) if isinstance(word, str) else word for word in json.loads(value))
    return tuple(filter(None, map(strip_pasted, re.split(r"[\s,;]+", value))))


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
"""A setting of several words."""


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

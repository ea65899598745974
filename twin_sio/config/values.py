"""Kinds of values that several settings have, and how they are read."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@|(?<=\?)[^#\s]+")


def without_login(text: str) -> str:
    """A URL without what stands before its host and after its path."""
    return _LOGIN.sub(lambda found: "***@" if found.group().endswith("@") else "***", text) if "://" in text else text


def _words(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]

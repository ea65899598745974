"""Kinds of values that several settings have, and how they are read."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from twin_sio.pasted import strip_pasted

_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@|(?<=\?)[^#\s]+")


def cleaned(value: object) -> object:
    """A text without the blanks and quotation marks that are pasted, or left by a shell or a file, around it; all else
    as it is. Every value of the environment but secrets comes through here (`group.Group`), before its own parser."""
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

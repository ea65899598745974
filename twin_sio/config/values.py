"""Kinds of values that several settings have, and how they are read."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

_AROUND: Final = " \t\r\n\f\v\"'`\u00a0\u200b\u2028\u2029\u2060\u3000\ufeff\u201c\u201d\u2018\u2019"
_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@|(?<=\?)[^#\s]+")


def cleaned(value: object) -> object:
    """A text without the blanks and quotation marks that are pasted, or left by a shell or a file, around it; all else
    as it is. Every value of the environment but secrets comes through here (`group.Group`), before its own parser."""
    return value.strip(_AROUND) if isinstance(value, str) else value


def without_login(text: str) -> str:
    """A URL without what stands before its host and after its path."""
    return _LOGIN.sub(lambda found: "***@" if found.group().endswith("@") else "***", text) if "://" in text else text


def _words(value: object) -> object:
    return tuple(word.strip(_AROUND) for word in value.replace(",", " ").split()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]

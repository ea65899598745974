"""Kinds of values that several settings have, and how they are read."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Annotated, Final

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

# Beside quotation marks all that shows no sign: blanks of every width, and the marks for directions and joints, which
# come along where a value is copied from a page or a window.
_UNSEEN: Final = "".join(map(chr, (*range(0x2000, 0x2010), *range(0x2028, 0x2030), *range(0x205F, 0x2070))))
_QUOTES: Final = "\"'`\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"
_AROUND: Final = f" \t\r\n\f\v\u00a0\u00ad\u061c\u3000\ufeff{_UNSEEN}{_QUOTES}"
_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@|(?<=\?)[^#\s]+")


def cleaned(value: object) -> object:
    """A text without the blanks and quotation marks that are pasted, or left by a shell or a file, around it; all else
    as it is. Every value of the environment but secrets comes through here (`group.Group`), before its own parser."""
    return value.strip(_AROUND) if isinstance(value, str) else value


def without_login(text: str) -> str:
    """A URL without what stands before its host and after its path."""
    return _LOGIN.sub(lambda found: "***@" if found.group().endswith("@") else "***", text) if "://" in text else text


def _words(value: object) -> object:
    """Words between blanks, commas or semicolons; or a JSON list of them."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        with suppress(ValueError, RecursionError):
            return tuple(word.strip(_AROUND) if isinstance(word, str) else word for word in json.loads(value))
    return tuple(filter(None, (word.strip(_AROUND) for word in re.split(r"[\s,;]+", value))))


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]

"""Takes off what comes along where a value is pasted: from a page, a file, a shell or a window. Pure."""

from __future__ import annotations

from typing import Final

# Blanks of every width, and the marks for directions and joints, which show no sign.
_UNSEEN: Final = "".join(map(chr, (*range(0x2000, 0x2010), *range(0x2028, 0x2030), *range(0x205F, 0x2070))))
_QUOTES: Final = "\"'`\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"
PASTED_AROUND: Final = f" \t\r\n\f\v\u00a0\u00ad\u061c\u3000\ufeff{_UNSEEN}{_QUOTES}"
"""The characters that may stand around such a value and are no part of it: what shows no sign, and quotation marks."""


def strip_pasted(text: str) -> str:
    """The value without blanks and quotation marks around it."""
    return text.strip(PASTED_AROUND)

"""What models write that is nearly JSON, as JSON: trailing commas, objects as Python and JavaScript write them. Pure;
it takes as long as the text is."""

from __future__ import annotations

import re
from typing import Final

# A string that was cut off goes on to the end: else it would be looked for again behind each of its quotation marks.
_COMMAS: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|,(?=\s*+[}\]])', re.DOTALL)
_LITERALS: Final = re.compile(
    r""""(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'((?:[^'\\]|\\.)*+)(?:'|\\?\Z)"""
    r"""|(?<![\w$])([A-Za-z_$][\w$]{0,63}+)(?=\s{0,20}+:)|\b(?:True|False|None)\b""",
    re.DOTALL,
)
"""Strings, names of JavaScript, and what Python calls true, false and null."""
_ESCAPED: Final = re.compile(r"\\(.)|\"", re.DOTALL)
_WORDS: Final = {"True": "true", "False": "false", "None": "null"}


def without_commas(text: str) -> str:
    """The text without the commas before an end, which JSON does not know."""
    return _COMMAS.sub(lambda found: "" if found.group() == "," else found.group(), text)


def as_json(text: str) -> str:
    """A text that begins with an object as Python or JavaScript writes it, as JSON."""

    def written(found: re.Match[str]) -> str:
        said = found.group()
        if said[0] == '"':
            return said
        if found[2] is not None:
            return f'"{found[2]}"'
        if found[1] is None:
            return _WORDS[said]
        inner = _ESCAPED.sub(lambda one: "'" if one[1] == "'" else one[0] if one[1] else '\\"', found[1])
        return f'"{inner}"'

    return without_commas(_LITERALS.sub(written, text))

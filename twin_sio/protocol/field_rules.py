"""What a client is told of a field that is refused: its rule, and never a word of what was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from twin_sio.errors import InvalidMessage
from twin_sio.protocol.limits import ID_PATTERN, TOOL_NAME_PATTERN

_LETTERS: Final = {ID_PATTERN: "letters, digits, . _ : and -", TOOL_NAME_PATTERN: "letters, digits, _ and -"}
_PATTERNS: Final[Mapping[str, str]] = {
    pattern: f"may have {letters}, {pattern.rpartition(',')[2].rstrip('}$')} at most and one at least"
    for pattern, letters in _LETTERS.items()
}
_UNSTORABLE: Final = "has a character that cannot be stored"
# Of our own validators, which else found NUL or half of a character.
_OURS: Final = {"blank": "must have something in it that can be seen", "too many": "has too many entries"}
# By the type of pydantic's error; each is given that error's context, which is of the rule and not of the value.
_RULES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "missing": lambda _: "is missing",
    "model_type": lambda _: "must be an object",
    "dict_type": lambda _: "must be an object",
    "list_type": lambda _: "must be a list",
    "string_type": lambda _: "must be a text",
    "string_unicode": lambda _: _UNSTORABLE,
    "bool_type": lambda _: "must be true or false",
    "int_type": lambda _: "must be a whole number",
    "int_from_float": lambda _: "must be a whole number",
    "int_parsing": lambda _: "must be a whole number",
    "int_parsing_size": lambda _: "must be a whole number, and a smaller one",
    "string_pattern_mismatch": lambda about: _PATTERNS.get(about["pattern"], "has characters that are not taken"),
    "string_too_short": lambda about: (
        "must not be empty" if about["min_length"] == 1 else f"is too short: {about['min_length']} characters at least"
    ),
    "string_too_long": lambda about: f"is too long: {about['max_length']} characters at most",
    "too_long": lambda about: f"has too many entries: {about['max_length']} at most",
    "greater_than_equal": lambda about: f"must be {about['ge']} or more",
    "less_than_equal": lambda about: f"must be {about['le']} or less",
    "literal_error": lambda about: "must be one of: " + about["expected"].replace(" or ", ", ").replace("'", ""),
    "value_error": lambda about: _OURS.get(str(about["error"]), _UNSTORABLE),
}
_TIME: Final = "must be a time with its zone, as 2026-01-31T12:00:00Z"


def refused_field(error: ValidationError, where: str) -> InvalidMessage:
    """The first fault, as the client is told of it; `where` is the path of what was validated."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = [where, *first["loc"]]
    name = next(str(part) for part in reversed(path) if isinstance(part, str))
    subject = name if isinstance(path[-1], str) else f"An entry of {name}"
    return InvalidMessage(
        f"{subject} {_rule(first['type'], first.get('ctx', {}))}.", field=".".join(map(str, path))[:200]
    )


def _rule(kind: str, about: Mapping[str, Any]) -> str:
    if kind.startswith(("datetime", "timezone")):
        return _TIME
    rule = _RULES.get(kind)
    return rule(about) if rule is not None else "is refused: it does not follow the protocol"

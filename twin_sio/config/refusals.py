"""Why a value is refused, in words, and never with the value: it may be a secret."""

from __future__ import annotations

from typing import Any, Final

# By the type of the error; what is in braces is a bound of ours.
_REASONS: Final = {
    "literal_error": "it must be {expected}",
    "greater_than_equal": "it must be {ge} or more",
    "greater_than": "it must be more than {gt}",
    "less_than_equal": "it must be {le} or less",
    "less_than": "it must be less than {lt}",
    "extra_forbidden": "there is no such key",
    "json_invalid": "it is not a JSON object",
}
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "a text",
    "path": "a path",
    "tuple": "a list",
    "mapping": "a JSON object",
    "dict": "a JSON object",
    "model": "a JSON object",
}


def reason_of(error: Any) -> str:
    """Of an error of pydantic's, as `ValidationError.errors` has it: with its own text only where that is ours."""
    kind = str(error["type"])
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if kind in _REASONS:
        bounds = {name: _shown(bound) for name, bound in error.get("ctx", {}).items()}
        return _REASONS[kind].format(**bounds)
    wanted = _KINDS.get(kind.partition("_")[0])
    return f"it must be {wanted}" if wanted else "it cannot be used"


def _shown(bound: object) -> str:
    return str(bound).removesuffix(".0").replace("'", "")

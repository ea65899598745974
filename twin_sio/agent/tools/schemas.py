"""Arguments of calls against the JSON schema of their tool, and what is wrong with them, said to people.

What people are told has names and rules of the schema in it, never a value that was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import jsonschema
from jsonschema.exceptions import best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

from twin_sio.agent.text import encodable
from twin_sio.agent.tools import Tool
from twin_sio.domain import Json

_SHOWN_CHARACTERS: Final = 200
_SCHEMAS: Final = "edit_schemas"  # within the saved state of an agent
_TYPES: Final[Mapping[str, str]] = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_RULES: Final[Mapping[str, Callable[[Any], str]]] = {
    "type": lambda kind: "must be " + " or ".join(_TYPES.get(one, str(one)) for one in _several(kind)),
    "enum": lambda values: "must be one of: " + ", ".join(str(one) for one in _several(values)),
    "const": lambda value: f"must be {value}",
    "minimum": lambda least: f"must be {least} or more",
    "maximum": lambda most: f"must be {most} or less",
    "exclusiveMinimum": lambda bound: f"must be more than {bound}",
    "exclusiveMaximum": lambda bound: f"must be less than {bound}",
    "minLength": lambda least: f"is too short: {least} characters or more",
    "maxLength": lambda most: f"is too long: {most} characters at most",
    "minItems": lambda least: f"has too little in it: {least} or more",
    "maxItems": lambda most: f"has too much in it: {most} at most",
    "pattern": lambda pattern: f"must be of the form {pattern}",
    "format": lambda form: f"must be of the form {form}",
}


class SchemaUnusable(Exception):
    """Nothing can be held against this schema."""


def fault(schema: Json, arguments: Json) -> jsonschema.ValidationError | None:
    """What is wrong with the arguments first of all. Raises `SchemaUnusable`."""
    try:
        jsonschema.Draft202012Validator.check_schema(dict(schema))
        validator = jsonschema.Draft202012Validator(dict(schema), registry=Registry())  # nothing is fetched
        found: jsonschema.ValidationError | None = best_match(validator.iter_errors(dict(arguments)))
    except (jsonschema.SchemaError, Unresolvable, RecursionError):
        raise SchemaUnusable from None
    return found


def with_schemas(state: Json, tools: Mapping[str, Tool], waiting: Iterable[str]) -> Json:
    """The state of an agent, and in it what an edit of the calls that wait for an approval is held against."""
    checked = {name: dict(tools[name].parameters) for name in waiting if name in tools and tools[name].is_checked}
    return {**state, _SCHEMAS: checked}


def refused_edit(state: Json | None, tool: str, arguments: Json) -> str | None:
    """What is wrong with the arguments that a user wants in place of the model's; None: they can be used, as far as
    `state`, of the agent that waits for the approval, tells."""
    schema = ((state or {}).get(_SCHEMAS) or {}).get(tool)
    if schema is None:
        return None
    try:
        error = fault(schema, arguments)
    except SchemaUnusable:
        return None  # the call itself says so
    return None if error is None else _sentence(schema, error)


def _sentence(schema: Json, error: jsonschema.ValidationError) -> str:
    known = schema.get("properties") or {}
    path = list(error.absolute_path)
    name = str(path[0]) if path and path[0] in known else None
    value = error.validator_value
    if error.validator == "required" and isinstance(error.instance, Mapping):
        missing = ", ".join(str(one) for one in _several(value) if one not in error.instance)
        where = "The arguments lack" if name is None else f"The argument {name} lacks"
        return _shown(f"{where}: {missing}")
    if error.validator in ("additionalProperties", "unevaluatedProperties") and not path:
        return _shown(f"There is an argument that the tool does not have. It has: {', '.join(known)}")
    if name is None:
        return "The arguments do not fit the tool's schema."
    subject = f"The argument {name}" if len(path) == 1 else f"A value in the argument {name}"
    rule = _RULES.get(str(error.validator))
    return _shown(f"{subject} {rule(value) if rule is not None else 'does not fit the schema of the tool'}")


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _shown(text: str) -> str:
    return f"{encodable(text.replace(chr(0), ''))[:_SHOWN_CHARACTERS]}."

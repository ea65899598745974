"""What a user is told of edited arguments that do not fit their tool."""

from __future__ import annotations

from typing import Any

import pytest

from twin_sio.agent.tools import Tool
from twin_sio.agent.tools.schemas import refused_edit, with_schemas


def sentence(schema: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """Of a tool with this schema, in a turn that waits for its approval."""

    async def run(_: object) -> object:
        raise AssertionError("not called")

    tool = Tool("book", "Books.", schema, run)
    return refused_edit(with_schemas({}, {"book": tool}, ["book"]), "book", arguments)


def of(**argument: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"city": argument}}


@pytest.mark.parametrize(
    ("schema", "given", "told"),
    [
        (of(type="string"), "Oslo", None),
        (of(type="string"), 5, "The argument city must be a text."),
        (of(type=["integer", "null"]), "x", "The argument city must be a whole number or null."),
        (of(enum=["Oslo", "Bergen"]), "secret", "The argument city must be one of: Oslo, Bergen."),
        (of(type="integer", minimum=1), 0, "The argument city must be 1 or more."),
        (of(type="string", maxLength=3), "secret", "The argument city is too long: 3 characters at most."),
        (of(type="string", pattern="^[A-Z]+$"), "secret", "The argument city must be of the form ^[A-Z]+$."),
        (of(type="array", uniqueItems=True), [1, 1], "The argument city does not fit the schema of the tool."),
        (
            of(type="array", items={"type": "integer"}),
            ["secret"],
            "A value in the argument city must be a whole number.",
        ),
        (of(type="object", required=["name"]), {}, "The argument city lacks: name."),
        ({**of(), "required": ["nights"]}, "Oslo", "The arguments lack: nights."),
        ({**of(), "minProperties": 2}, "Oslo", "The arguments do not fit the tool's schema."),
        (
            {"type": "object", "properties": {"town": {}}, "additionalProperties": False},
            "Oslo",
            "There is an argument that the tool does not have. It has: town.",
        ),
        ({"type": 5}, "Oslo", None),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "Oslo", None),
    ],
)
def test_the_rule_is_said_and_the_argument_named(schema: dict[str, Any], given: object, told: str | None) -> None:
    """Never the value. A schema that cannot be used refuses nobody: the call itself says so."""
    assert sentence(schema, {"city": given}) == told


def test_what_was_asked_before_schemas_were_kept_is_not_checked() -> None:
    assert refused_edit({"said": []}, "book", {"city": 5}) is None
    assert refused_edit(None, "book", {"city": 5}) is None

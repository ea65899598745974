"""Writes the generated parts of the docs: `python tools/docs.py` (a test sees to it that they are current)."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, SecretStr
from pydantic.fields import FieldInfo

from twin_sio import conformance, protocol
from twin_sio.config import (
    GROUPS,
    REMOVED,
    Dialect,
    Group,
    ModelSettings,
    ScoreWeights,
    TestSettings,
    Tuning,
    variable_of,
)
from twin_sio.http import openapi
from twin_sio.protocol import asyncapi

ROOT = Path(__file__).parent.parent
Json = Mapping[str, Any]


def client_events() -> str:
    """The table of what clients send, from the payload models."""
    rows = ["| event | `message_id` | scope | payload |", "|---|---|---|---|"]
    for name, event in protocol.CLIENT_EVENTS.items():
        needs = "required" if event.needs_id else "optional"
        fields = [_field(field, info) for field, info in event.payload.model_fields.items()]
        scope = f"`{event.scope}`" if event.scope else "any"
        rows.append(f"| `{name}` | {needs} | {scope} | {', '.join(fields) or '–'} |")
    return "\n".join(rows) + "\n"


def _field(name: str, info: FieldInfo) -> str:
    return f"`{name}`" if info.is_required() else f"`{name}?`"


def server_events() -> str:
    """The table of what the server sends."""
    rows = ["| event | `seq` | meaning |", "|---|---|---|"]
    for name, event in protocol.SERVER_EVENTS.items():
        durable = "yes" if event.is_durable else ""
        rows.append(f"| `{name}` | {durable} | {event.meaning} |")
    return "\n".join(rows) + "\n"


def conformance_rules() -> str:
    """The table of what `twin-sio conformance` looks at."""
    rows = ["| rule | what a client must do | where it does not |", "|---|---|---|"]
    rows += [f"| `{rule.name}` | {rule.must} | {rule.fix} |" for rule in conformance.RULES]
    return "\n".join(rows) + "\n"


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "client events": ("docs/protocol.md", client_events),
    "server events": ("docs/protocol.md", server_events),
    "conformance rules": ("docs/clients/README.md", conformance_rules),
}


def rendered(text: str, part: str) -> str:
    """`text` with the generated part between its markers brought up to date."""
    begin, end = f"<!-- generated: {part} -->\n", "<!-- end -->\n"
    before, found, rest = text.partition(begin)
    if not found:
        raise SystemExit(f"no marker for {part}")
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"no end after {part}")
    return before + begin + PARTS[part][1]() + end + after


def openapi_document() -> str:
    """The OpenAPI document, as it is served at `/openapi.json`."""
    return json.dumps(openapi.document(), indent=2) + "\n"


def asyncapi_document() -> str:
    """The AsyncAPI document, as it is served at `/asyncapi.json`."""
    return json.dumps(asyncapi.document(), indent=2) + "\n"


def events_page(document: Json) -> str:
    """Markdown: what clients send, what the server says, and the values that those share."""
    schemas = document["components"]["schemas"]
    messages = document["components"]["messages"]
    lines = [
        "# Events, field by field",
        "",
        "Made from [asyncapi.json](asyncapi.json) by `python tools/docs.py`; [protocol.md](protocol.md) says what they "
        "are for. `?`: may be left out.",
    ]
    for title, prefix in (("Client to server", "client_"), ("Server to client", "server_")):
        lines += ["", f"## {title}"]
        for key, message in messages.items():
            if key.startswith(prefix):
                lines += _message(message, schemas)
    named = {_schema_name(message["payload"]["properties"]["payload"]) for message in messages.values()}
    lines += ["", "## Values"]
    for name, schema in schemas.items():
        if name not in named:
            lines += ["", f"### {name}", "", *_field_rows(schema)]
    page = "\n".join(lines) + "\n"
    for schema, anchor in _payload_anchors(messages).items():
        page = page.replace(f"(#{schema.lower()})", f"(#{anchor})")
    return page


def _payload_anchors(messages: Json) -> dict[str, str]:
    """Where the fields of a payload stand: below its event, whose heading some events of both directions share."""
    seen: Counter[str] = Counter()
    found = {}
    for key in sorted(messages, key=lambda key: key.startswith("server_")):
        name = messages[key]["name"]
        schema = _schema_name(messages[key]["payload"]["properties"]["payload"])
        found[schema] = f"{name}-{seen[name]}" if seen[name] else name
        seen[name] += 1
    return found


def _message(message: Json, schemas: Json) -> Iterator[str]:
    payload = schemas[_schema_name(message["payload"]["properties"]["payload"])]
    yield from ("", f"### `{message['name']}`", "")
    if "summary" in message:
        yield from (message["summary"], "")
    yield from _field_rows(payload)


def _field_rows(schema: Json) -> Iterator[str]:
    properties = schema.get("properties", {})
    if not properties:
        yield "No fields."
        return
    yield from ("| field | type | |", "|---|---|---|")
    for name, field in properties.items():
        optional = "" if name in schema.get("required", ()) else "?"
        yield f"| `{name}{optional}` | {_type(field)} | {_description(field)} |"


def _description(field: Json) -> str:
    for one in field.get("anyOf", ()):
        field = {**one, **field} if one.get("type") != "null" else field
    parts = [field.get("description", ""), f"`{field['pattern']}`" if "pattern" in field else ""]
    for key, word in (("minLength", "at least"), ("maxLength", "at most")):
        if key in field:
            parts.append(f"{word} {field[key]} characters")
    if "maxItems" in field:
        parts.append(f"at most {field['maxItems']}")
    if "minimum" in field and "maximum" in field:
        parts.append(f"{field['minimum']} to {field['maximum']}")
    return "; ".join(part for part in parts if part).replace("|", "\\|")


def _type(field: Json) -> str:
    if "$ref" in field:
        name = _schema_name(field)
        return f"[{name}](#{name.lower()})"
    if "allOf" in field:
        return _type(field["allOf"][0])
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"] if one.get("type") != "null")
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " ".join(f"`{one}`" for one in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("format") or field.get("type") or "any")


def _schema_name(reference: Json) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[-1]


def events() -> str:
    """Every event with its fields, as a page."""
    return events_page(asyncapi.document())


_GROUP_NOTES = {
    "process": "What kind of process this is, and what operators see of it.",
    "server": "Where the server listens, who may reach it, and when it closes a connection.",
    "storage": "The engines, and how long they store what.",
    "auth": "Whose tokens are accepted.",
    "model": "The model that writes the answers.",
    "agent": "Who the twin is, what it can do, and what stands in its place: [make the twin yours](make-it-yours.md).",
    "embeddings": "The model that finds related earlier messages.",
    "limits": "How much one user, address or connection may ask for.",
    "overload": "When an instance sheds load: ephemeral events first, then connections, then messages.",
    "scoring": "How the confidence of a trait follows from its evidence.",
}


def configuration() -> str:
    """Every setting, grouped, with its variable, default and meaning."""
    lines = [
        "# Configuration",
        "",
        "Environment variables only. `python tools/docs.py` generates this page from `twin_sio/config`. The process "
        "refuses to start on a value that it cannot use, and on a variable that is no longer a setting; the message "
        "names the variable, never its value. A variable that begins with `TWIN_` and is none of these is ignored, "
        "and the start says so.",
    ]
    for name, group in GROUPS.items():
        lines += ["", f"## {group.__doc__}", "", f"{_GROUP_NOTES[name]} In code: `settings.{name}`.", ""]
        lines += _settings_table(group)
        if group is ModelSettings:
            lines += ["", "The keys of `TWIN_MODEL_DIALECT`; [which servers want which](endpoints.md).", ""]
            lines += ["| key | values, the first is the default | meaning |", "|---|---|---|"]
            for key, field in Dialect.model_fields.items():
                values = get_args(field.annotation) or (True, False)
                shown = " ".join(f"`{json.dumps(value)}`" for value in values)
                lines.append(f"| `{key}` | {shown} | {field.description} |")
    lines += [
        "",
        "### Weights",
        "",
        "The keys of `TWIN_SCORE_WEIGHTS`.",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    for key, field in ScoreWeights.model_fields.items():
        lines.append(f"| `{key}` | `{field.default}` | {field.description} |")
    lines += ["", f"## {TestSettings.__doc__}", "", *_settings_table(TestSettings)]
    keys = ", ".join(f"`{key}` ({field.default})" for key, field in Tuning.model_fields.items())
    lines += ["", f"Its keys: {keys}. `twin_sio/config/groups.py` says what each is for."]
    lines += ["", "## No longer settings", "", "A start with one of these is refused.", ""]
    lines += ["| variable | instead |", "|---|---|"]
    lines += [f"| `{name}` | {hint} |" for name, hint in REMOVED.items()]
    return "\n".join(lines) + "\n"


def _settings_table(group: type[Group]) -> Iterator[str]:
    yield from ("| variable | default | meaning |", "|---|---|---|")
    for name, field in group.model_fields.items():
        choices = field.validation_alias
        names = [str(choice) for choice in choices.choices] if isinstance(choices, AliasChoices) else []
        variable = " / ".join(f"`{name}`" for name in names or [variable_of(group, name)])
        default = _shown_default(field.default)
        yield f"| {variable} | {f'`{default}`' if default else '–'} | {field.description} |"


def _shown_default(default: object) -> str:
    if isinstance(default, SecretStr):
        return "a development secret" if default.get_secret_value() else ""
    if isinstance(default, tuple):
        return " ".join(default)
    return "" if default is None or isinstance(default, BaseModel) else str(default)


FILES: dict[str, Callable[[], str]] = {
    "docs/openapi.json": openapi_document,
    "docs/asyncapi.json": asyncapi_document,
    "docs/events.md": events,
    "docs/configuration.md": configuration,
}


def main() -> int:
    """Rewrite every file that is generated, or has generated parts."""
    for name, text in FILES.items():
        (ROOT / name).write_text(text())
    for part, (name, _) in PARTS.items():
        path = ROOT / name
        path.write_text(rendered(path.read_text(), part))
    return 0


if __name__ == "__main__":
    sys.exit(main())

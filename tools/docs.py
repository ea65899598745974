"""Writes the generated parts of the docs: `python tools/docs.py` (a test sees to it that they are current)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic.fields import FieldInfo

from twin_sio import asyncapi, config, conformance, protocol, rest

ROOT = Path(__file__).parent.parent


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
    "configuration": ("README.md", config.table),
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


def openapi() -> str:
    """The OpenAPI document, as it is served at `/openapi.json`."""
    return json.dumps(rest.openapi(), indent=2) + "\n"


def asyncapi_document() -> str:
    """The AsyncAPI document, as it is served at `/asyncapi.json`."""
    return json.dumps(asyncapi.document(), indent=2) + "\n"


FILES: dict[str, Callable[[], str]] = {"docs/openapi.json": openapi, "docs/asyncapi.json": asyncapi_document}


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

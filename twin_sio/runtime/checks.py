"""What the programs behind `twin-sio doctor` print: a JSON object a line."""

from __future__ import annotations

import sys

import orjson

from twin_sio.domain import Json


def print_check(check: str, ok: bool, text: str, advice: str = "") -> bool:
    """Print what was looked at, what was found, and what to do; `ok`."""
    print_line({"check": check, "ok": ok, "text": text, "advice": advice})
    return ok


def print_line(line: Json) -> None:
    """Print it at once: somebody waits for it."""
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()

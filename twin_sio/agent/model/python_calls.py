"""Pythonic tool calls: `[look(city="Rome", days=2), weigh(x=None)]` (Llama, LFM, Olmo). Pure."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from twin_sio.agent.model.calls import MAX_CALLS
from twin_sio.agent.model.relaxed_json import as_json

_CALL: Final = re.compile(r"\s*+([A-Za-z_][\w.-]{0,63}+)\(")
_BETWEEN: Final = re.compile(r"\s*+[,;]?\s*+")
_PIECE: Final = re.compile(
    # A string that was cut off goes on to the end.
    r""""(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z)|\b([A-Za-z_]\w{0,63}+)\s{0,20}+=|[()\[\]{}]""",
    re.DOTALL,
)
_AS_LIST: Final = {"(": "[", ")": "]"}


def python_calls(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """The names and arguments of the calls that a text is made of; None where it is anything else, or was cut. It takes
    as long as the text is."""
    text = text.strip()
    if text.startswith("["):
        if not text.endswith("]"):
            return None
        text = text[1:-1]
    calls: list[tuple[str, dict[str, Any]]] = []
    at = 0
    while at < len(text):
        named = _CALL.match(text, at)
        if named is None or len(calls) > MAX_CALLS:
            return None
        pieces, at = _arguments(text, named.end())
        try:
            arguments = json.loads(as_json(f"{{{''.join(pieces)}}}"), strict=False)
        except (ValueError, RecursionError):
            return None
        calls.append((named[1].removesuffix(".call"), arguments))
        between = _BETWEEN.match(text, at)
        at = between.end() if between is not None else at
    return calls or None


def _arguments(text: str, begin: int) -> tuple[list[str], int]:
    """What stands between the brackets of a call, its names as keys of JSON; and where the call ends. Without an end it
    is no JSON."""
    pieces, at, depth = [], begin, 0
    for found in _PIECE.finditer(text, begin):
        pieces.append(text[at : found.start()])
        piece, at = found[0], found.end()
        if found[1] is not None:
            pieces.append(f'"{found[1]}":' if not depth else piece)
            continue
        if piece == ")" and not depth:
            return pieces, at
        depth += 1 if piece in ("(", "[", "{") else -1 if piece in (")", "]", "}") else 0
        pieces.append(_AS_LIST.get(piece, piece))
    return ["{"], len(text)

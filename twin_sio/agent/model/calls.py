"""The tools' calls in an answer, put together from its pieces. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from twin_sio.agent.model.failures import Failed
from twin_sio.agent.text import encodable

MAX_CALLS: Final = 32  # of one answer
MAX_ARGUMENTS_CHARACTERS: Final = 64 * 1024  # of all of them


@dataclass(frozen=True, slots=True)
class RequestedCall:
    """A call that the model asks for; `arguments` is what it wrote, which may be no JSON."""

    name: str
    arguments: str


@dataclass(slots=True)
class _Entry:
    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Calls:
    """The calls of one answer as they come. Servers number them by `index`, or by their ids, or send each whole."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._by_index: dict[int, _Entry] = {}
        self._characters = 0

    @property
    def count(self) -> int:
        """How many have begun."""
        return len(self._entries)

    def take(self, said: dict[str, Any]) -> None:
        """What a message, or a piece of one, holds of them. Raises `Failed` for what is none, or too much."""
        pieces = said.get("tool_calls")
        if not pieces:
            old = said.get("function_call")  # of the API before there were tools
            pieces = [{"index": 0, "function": old}] if old else []
        if not isinstance(pieces, list):
            raise Failed(again=False)
        for piece in pieces:
            function = piece.get("function") if isinstance(piece, dict) else None
            if not isinstance(function, dict):
                raise Failed(again=False)
            self._add(self._entry(piece), function)

    def _entry(self, piece: dict[str, Any]) -> _Entry:
        name, index = str(piece.get("id") or ""), piece.get("index")
        known = self._by_index.get(index) if isinstance(index, int) else None
        if known is None and not isinstance(index, int) and not name and self._entries:
            known = self._entries[-1]  # it goes on
        if known is None or (name and known.id and name != known.id):
            known = _Entry(name)
            self._entries.append(known)
            if isinstance(index, int):
                self._by_index[index] = known
        return known

    def _add(self, entry: _Entry, function: dict[str, Any]) -> None:
        entry.name = entry.name or str(function.get("name") or "")
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""
        entry.arguments.append(text)
        self._characters += len(text)
        if self._characters > MAX_ARGUMENTS_CHARACTERS or len(self._entries) > MAX_CALLS:
            raise Failed(again=False)

    def all(self) -> tuple[RequestedCall, ...]:
        """The calls, in the order in which they began."""
        return tuple(
            RequestedCall(encodable(one.name), encodable("".join(one.arguments)) or "{}")
            for one in self._entries
            if one.name
        )

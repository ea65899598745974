"""The tools' calls in an answer, put together from its pieces. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from twin_sio.agent.model.failures import Failed
from twin_sio.agent.text import encodable
from twin_sio.domain import Json

MAX_CALLS: Final = 32  # of one answer
MAX_ARGUMENTS_CHARACTERS: Final = 64 * 1024  # of all of them
MAX_EXTRA_CHARACTERS: Final = 16 * 1024  # of each


@dataclass(frozen=True, slots=True)
class RequestedCall:
    """A call that the model asks for; `arguments` is what it wrote, which may be no JSON. `extra` came with it and goes
    back with it: some endpoints sign their calls, and take none that lacks its signature."""

    name: str
    arguments: str
    extra: Json | None = None


@dataclass(slots=True)
class _Entry:
    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    extra: Json | None = None

    def text(self) -> str:
        """Its arguments. An empty object before them stood for those that were still to come."""
        text = encodable("".join(self.arguments)).strip()
        return (text[2:].lstrip() if re.match(r"\{\}\s*\{", text) else text) or "{}"

    def is_whole(self) -> bool:
        """Whether its arguments are JSON already."""
        try:
            json.loads("".join(self.arguments))
        except (ValueError, RecursionError):
            return False
        return True

    def ends_before(self, wire_id: str, arguments: object) -> bool:
        """Whether a piece of its index, with a name, is of another call. Gemini sends all under index 0, each whole,
        and some without ids."""
        if wire_id and self.id and wire_id != self.id:
            return True
        return bool(arguments) and self.is_whole() and "".join(self.arguments).strip() != "{}"


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
            function = piece.get("function") if isinstance(piece, dict) else ""
            if function is None:  # it is still to come, or what it holds stands beside it
                function = piece
            if not isinstance(function, dict):
                raise Failed(again=False)
            entry = self._entry(piece, function)
            self._add(entry, function)
            extra = piece.get("extra_content")
            if isinstance(extra, dict) and len(str(extra)) <= MAX_EXTRA_CHARACTERS:
                entry.extra = extra

    def _entry(self, piece: dict[str, Any], function: dict[str, Any]) -> _Entry:
        """The call that a piece belongs to. A new id alone begins none: some servers make one up for every piece."""
        wire_id = str(piece.get("id") or "")
        index = piece.get("index")
        is_named = bool(function.get("name"))
        if isinstance(index, str) and index.isdecimal():
            index = int(index)
        if isinstance(index, int):
            known = self._by_index.get(index)
            if known is not None and is_named and known.ends_before(wire_id, function.get("arguments")):
                known = None
        else:
            known = next((one for one in self._entries if wire_id and one.id == wire_id), None)
            if known is None and self._entries and not (is_named and (wire_id or self._entries[-1].is_whole())):
                known = self._entries[-1]  # it goes on
        if known is None:
            known = _Entry(wire_id)
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
        return tuple(RequestedCall(encodable(one.name), one.text(), one.extra) for one in self._entries if one.name)

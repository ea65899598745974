"""Server-sent events with JSON in them, as they come off a socket. Pure."""

from __future__ import annotations

import json
import re
from collections import deque
from typing import Any, Final

import orjson

from twin_sio.agent.model.failures import Failed, in_place_of_answer, no_api, of_object

MAX_LINE_BYTES: Final = 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = frozenset({b"", b"data", b"event", b"id", b"retry"})  # of the standard; the first is a comment's
_PAGE: Final = re.compile(rb"<(!doctype html|html|head|body)\b", re.IGNORECASE)


def loads(raw: bytes) -> Any:
    """What JSON says, also with half a character in it, or bytes that are no UTF-8; `ValueError` where it is none."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            return json.loads(raw.decode(errors="replace"))
        except RecursionError:
            raise ValueError("nested too deep") from None


def object_of(found: object) -> dict[str, Any]:
    """An answer, or a piece of one. Raises `Failed` for everything else: some servers fail in the middle of a 200."""
    if not isinstance(found, dict):
        raise of_object(found)
    if found.get("error") or found.get("object") == "error":
        raise of_object(found)
    return found


class EventParser:
    """The `data:` objects of a stream, of which the pieces are fed as they come. Other fields and comments are passed
    over; an answer that is no stream but one object is one event. Raises `Failed` for what is neither."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._unfinished = b""  # of a value that goes on in the next line
        self._is_error = False  # the event that is being read is named so
        self._whole: bytearray | None = None
        self._begun = False
        self._is_page = False
        self._is_single = False  # it is no stream, but one value
        self._is_stream: bool | None = None  # None: nothing came so far that tells
        self._closed = False
        self._ends_in_cr = False
        self.ended = False
        """Nothing more is said."""
        self.announced_end = False
        """It was said that nothing more comes."""

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        if not self._begun:
            piece = (self._rest + piece).lstrip(_BOM + b" \t\r\n")
            if not piece:
                return
            self._begun, self._rest = True, b""
            self._is_page = _PAGE.match(piece) is not None
            if piece.startswith((b"{", b"[")):
                self._whole = bytearray()
        if self._whole is not None:
            self._whole += piece
            if len(self._whole) > MAX_LINE_BYTES:
                raise Failed(again=False)
            return
        if self._ends_in_cr and piece.startswith(b"\n"):  # of a CRLF that two pieces share
            piece = piece[1:]
        self._ends_in_cr = piece.endswith(b"\r")
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        self._lines.extend(lines)
        if len(self._rest) + len(self._unfinished) > MAX_LINE_BYTES:
            raise Failed(again=False)

    def close(self) -> None:
        """Nothing more comes: what was fed is all."""
        last = self._rest
        if self._whole is not None:
            self._is_stream = self._is_single = True
            last, self._whole, self.announced_end = b"data:" + bytes(self._whole), None, True
        self._lines += (last, b"")
        self._rest, self._closed = b"", True

    def next(self) -> dict[str, Any] | None:
        """The next object of what was fed; None where there is none, or where it has ended."""
        lines = self._lines
        while lines and not self.ended:
            field, _, value = lines.popleft().partition(b":")
            if field != b"data":
                self._other(field, value)
                continue
            self._is_stream = True
            if self._unfinished:
                value = self._unfinished + b"\n" + value
            elif value.strip() == b"[DONE]":
                self.announced_end = self.ended = True
                return None
            try:
                found = orjson.loads(value)
            except orjson.JSONDecodeError:
                try:
                    found = loads(value)
                except ValueError:
                    if value.strip():
                        self._unfinished = value
                    continue
            self._unfinished = b""
            if found is None:
                continue
            if self._is_single and not isinstance(found, dict):
                raise in_place_of_answer(found)
            if self._is_error and isinstance(found, dict) and "error" not in found:
                found = {"error": found}
            return object_of(found)
        self.ended = self.ended or self._closed
        if self.ended and self._is_stream is False:
            raise no_api("Page" if self._is_page else "PlainText")
        return None

    def _other(self, field: bytes, value: bytes) -> None:
        """A line that is no data."""
        if not field and not value:  # the event's end
            is_error, self._is_error = self._is_error, False
            if self._unfinished:
                raise of_object(self._unfinished.decode(errors="replace")) if is_error else Failed(again=False)
        elif field == b"event":
            self._is_error = value.strip() == b"error"
        if self._is_stream is None and field not in _FIELDS:
            self._is_stream = False

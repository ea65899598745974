"""Exports: their lines, and streamed answers that are aborted if the client does not read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import orjson
from aiohttp import web

from twin_sio.clock import iso, monotonic
from twin_sio.errors import Overloaded, RateLimited

AT_ONCE = 16
"""Simultaneous exports of an instance; each buffers at most 3 MB of documents that are not sent yet."""

WRITE_S = 10.0
"""Seconds that the client has to read a piece."""

_PIECE = 64 * 1024  # bytes that are gathered before they are sent
_PATIENCE_S = 30.0  # in which a client may be as slow as it likes
_SLOWEST = 16 * 1024  # bytes a second, after the first seconds


class NotRead(Exception):
    """The client does not read, or not fast enough, or has disconnected."""


class Exports:
    """One export at a time per user of this instance, and a limit in all."""

    def __init__(self) -> None:
        # Users whose export is under way.
        self._running: set[str] = set()

    @contextmanager
    def place(self, user_id: str) -> Iterator[None]:
        """Take a place for the user; raises `RateLimited` or `Overloaded`. A client that does not read loses it."""
        wait_ms = int(WRITE_S * 1000)
        if user_id in self._running:
            raise RateLimited("Another export is under way.", retry_after_ms=wait_ms)
        if len(self._running) >= AT_ONCE:
            raise Overloaded(retry_after_ms=wait_ms)
        self._running.add(user_id)
        try:
            yield
        finally:
            self._running.discard(user_id)


def line_of(value: Mapping[str, Any]) -> bytes:
    """A line of an export: JSON, with its end."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME) + b"\n"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return iso(value)
    raise TypeError


async def stream(request: web.Request, response: web.StreamResponse, lines: AsyncIterator[bytes]) -> None:
    """Send all lines; raises `NotRead` after aborting the connection. Buffers one piece at a time."""
    began, sent, piece = monotonic(), 0, bytearray()

    async def send() -> None:
        nonlocal sent
        # A client that reads a byte now and then would hold its place for ever.
        late_s = monotonic() - began - _PATIENCE_S
        if late_s > 0 and sent < late_s * _SLOWEST:
            raise TimeoutError
        async with asyncio.timeout(WRITE_S):
            await response.write(bytes(piece))
        sent += len(piece)
        piece.clear()

    try:
        async for line in lines:
            piece += line
            if len(piece) >= _PIECE:
                await send()
        if piece:
            await send()
    except (TimeoutError, ConnectionError):
        if request.transport is not None:
            # The length is not known beforehand: only a broken connection says that the rest is missing.
            request.transport.abort()
        raise NotRead from None

"""A connection's queue of frames, by bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from twin_sio.clock import monotonic
from twin_sio.transport.frames import (
    EncodedFrame,
)

_PACKET_BYTES = 64


class SendQueue(asyncio.Queue[Any]):
    """A socket's queue that knows how many bytes it holds and when one last left it.

    The WebSocket's writer takes all there is at once and may then wait for its client for ever: what it has in its
    hands counts until `sent` is called for it. A poll's answer counts as gone once it is taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.buffered_bytes = 0
        self.moved_at = monotonic()
        self.writer_attached = False
        self.is_idle = False
        """There is a writer, it has written something, and nothing is queued or in its hands."""
        self._in_flight: deque[int] = deque()

    def sent(self) -> None:
        """The oldest packet in the writer's hands has gone out."""
        if self._in_flight:
            self.buffered_bytes -= self._in_flight.popleft()
            self.moved_at = monotonic()
            self.is_idle = not self._in_flight and self.empty()

    def _put(self, item: Any) -> None:
        if not self.buffered_bytes:
            self.moved_at = monotonic()
        self.buffered_bytes += _size(item)
        self.is_idle = False
        super()._put(item)

    def _get(self) -> Any:
        item = super()._get()
        if self.writer_attached:
            self._in_flight.append(_size(item))
        else:
            self.buffered_bytes -= _size(item)
            self.moved_at = monotonic()
        return item


def _size(item: Any) -> int:
    """What the packet takes in memory: one emoji makes four bytes of every character of a text."""
    if isinstance(item, EncodedFrame):
        return _PACKET_BYTES + len(item.raw)
    data = getattr(item, "data", None)
    return _PACKET_BYTES + (data.__sizeof__() if isinstance(data, str) else 0)

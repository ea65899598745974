"""A connection's queue of frames, by bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from twin_sio.clock import monotonic
from twin_sio.transport.frames import EncodedFrame

STRAIGHT_MAX_BYTES = 64 * 1024
"""Up to so many unsent bytes a frame goes straight to the transport, past the queue."""
_PACKET_BYTES = 64  # what an object in the queue takes beside its text


class SendQueue(asyncio.Queue[Any]):
    """A socket's queue that knows how many bytes it holds and when one last left it.

    The WebSocket's writer takes all there is at once and may then wait for its client for ever: what it has taken
    counts until `sent` is called for it. The response to a poll counts as written once it is taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.buffered_bytes = 0
        """Bytes that are queued or with the writer."""
        self.moved_at = monotonic()
        """When something last left, or the first of what waits was queued."""
        self.writer_attached = False
        """A WebSocket's writer takes what is queued; otherwise polls do."""
        self.is_idle = False
        """There is a writer, it has written something, and nothing is queued or with it."""
        self._in_flight: deque[int] = deque()  # sizes of what the writer has taken and not sent yet, the oldest first

    def sent(self) -> None:
        """The oldest packet that the writer has taken was sent."""
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

"""After Redis was away: every stream is compared with the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from twin_sio.background import BackgroundTasks
from twin_sio.delivery.user_stream import UserStream, storage_retry_s
from twin_sio.errors import StorageUnavailable

_HEADS_AT_ONCE = 500  # users in one query

ReadHeads = Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]
"""The head of the log for each of these users."""


class CatchingUp:
    """Tells each user's stream how far the log goes, in the background."""

    def __init__(
        self,
        streams: Mapping[str, UserStream],
        read_heads: ReadHeads,
        then: Callable[[UserStream], None],
        tasks: BackgroundTasks,
    ) -> None:
        """`then` is called for each stream once all have been told."""
        self._streams = streams
        self._read_heads = read_heads
        self._then = then
        self._tasks = tasks
        self._is_due = False
        self._is_running = False

    def ask(self) -> None:
        """Do it. Every process asks that finds Redis restored: what is asked for meanwhile is done once more."""
        self._is_due = True
        if not self._is_running:
            self._is_running = True
            self._tasks.start(self._run())

    async def _run(self) -> None:
        try:
            while self._is_due:
                self._is_due = False
                await self._tell_all()
                for stream in list(self._streams.values()):
                    self._then(stream)
        finally:
            self._is_running = False

    async def _tell_all(self) -> None:
        """Waits for the log for as long as it takes."""
        left = list(self._streams)  # those that come later subscribe to a Redis that is back
        while left:
            try:
                heads = await self._read_heads(left[:_HEADS_AT_ONCE])
            except StorageUnavailable:
                await asyncio.sleep(storage_retry_s())
                continue
            for user_id, head in heads.items():
                if user_id in self._streams:
                    self._streams[user_id].catch_up_to(head)
            del left[:_HEADS_AT_ONCE]

"""How an app follows a client: the changes of its state and of its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from twin_sio.client.changes import StateChange
from twin_sio.client.connection import ClientError


@dataclass(frozen=True, slots=True)
class Disconnected:
    reason: str


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The next attempt is made in `delay_s` seconds; `attempt` counts from 0; `why` the last one failed, if it did."""

    attempt: int
    delay_s: float
    why: ClientError | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The last change of a stream. `error` is None after `close()`."""

    error: BaseException | None


Change = StateChange | Disconnected | Reconnecting | Ended


class Changes:
    """A stream of what changes, from the moment it is made; ends with `Ended`. Unbounded: read it or close it."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Change] = asyncio.Queue()
        self._is_over = False

    def put(self, change: Change) -> None:
        self._queue.put_nowait(change)

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        if self._is_over:
            raise StopAsyncIteration
        change = await self._queue.get()
        self._is_over = isinstance(change, Ended)
        return change

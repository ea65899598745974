"""After Redis was away: every stream is compared with the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from twin_sio.delivery.user_stream import UserStream, storage_retry_s
from twin_sio.errors import StorageUnavailable

_HEADS_AT_ONCE = 500  # users in one query

ReadHeads = Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]
"""The head of the log for each of these users."""


async def catch_up_all(streams: Mapping[str, UserStream], read_heads: ReadHeads) -> None:
    """Tell each user's stream how far the log goes; waits for the log for as long as it takes."""
    while True:
        users = list(streams)  # those that come later subscribe to a Redis that is back
        try:
            for start in range(0, len(users), _HEADS_AT_ONCE):
                heads = await read_heads(users[start : start + _HEADS_AT_ONCE])
                for user_id, head in heads.items():
                    if user_id in streams:
                        streams[user_id].catch_up_to(head)
            return
        except StorageUnavailable:
            await asyncio.sleep(storage_retry_s())

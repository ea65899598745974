"""Waiting for conditions. It imports nothing of the service: processes that only measure start at once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def eventually(check: Callable[[], Any], timeout: float = 20.0) -> Any:
    """The first true result of `check`, sync or async, asked again and again."""
    async with asyncio.timeout(timeout):
        while True:
            found = check()
            if inspect.isawaitable(found):  # Motor's are futures, not coroutines
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)

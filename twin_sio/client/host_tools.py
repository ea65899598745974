"""What an app offers the twin to do on this device: offered on every connection, run once for each call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from twin_sio.client.changes import ToolCalled
from twin_sio.client.connection import RequestFailed, ResponseTimeout
from twin_sio.clock import new_id
from twin_sio.domain import Json

RunTool = Callable[[str, Json], Awaitable[Any]]
"""Runs one call, by the tool's name and its arguments; the value, as JSON has it, goes to the twin."""

_REMEMBERED = 256
_ERROR_MAX = 2_000
_PAUSE_MS = 1_000
_REFUSED_AS_IT_IS = frozenset({"invalid_message", "too_large"})


class Request(Protocol):
    """`ClientSession.request`."""

    def __call__(self, type: str, payload: Json, *, message_id: str | None = None, **more: Any) -> Awaitable[Json]: ...


class HostTools:
    """The tools of one session. The server forgets them with the connection, so every `session_ready` calls for them
    again; a call may come again over another one, and is known by its `call_id`."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._tools: Sequence[Json] = ()
        self._run: RunTool | None = None
        self._offering = asyncio.Lock()  # one at a time: an older offer must not take the place of a newer one
        # Of the newest calls, by id: their payload of `tool_result`, None while they run.
        self._results: dict[str, Json | None] = {}

    async def offer(self, tools: Sequence[Json], run: RunTool) -> None:
        """Offer these from now on. Raises `RequestFailed` where the server refuses them."""
        self._tools, self._run = tuple(tools), run
        async with self._offering:
            await self._request("host_tools", {"tools": self._tools})

    async def offer_again(self) -> None:
        """The same on a new connection, until they are taken. What is on its way goes there by itself."""
        if not self._tools or self._offering.locked():
            return
        async with self._offering:
            await self._until_received("host_tools", {"tools": self._tools})

    async def on_call(self, call: ToolCalled) -> None:
        """Run a call once, and send its result until it is received; a repeat of one that has ended gets it again."""
        if call.call_id in self._results:
            result = self._results[call.call_id]
            if result is not None:
                await self._send(result)
            return
        self._results[call.call_id] = None
        while len(self._results) > _REMEMBERED:
            del self._results[next(iter(self._results))]
        result = await self._result(call)
        self._results[call.call_id] = result
        await self._send(result)

    async def _result(self, call: ToolCalled) -> Json:
        if self._run is None or call.name not in {tool["name"] for tool in self._tools}:
            return {"call_id": call.call_id, "error": "This session does not offer the tool."}
        try:
            async with asyncio.timeout(call.timeout_ms / 1000):
                return {"call_id": call.call_id, "output": await self._run(call.name, call.arguments)}
        except Exception as fault:  # whatever the app's function may raise: the twin is told of it
            return {"call_id": call.call_id, "error": f"{type(fault).__name__}: {fault}"[:_ERROR_MAX]}

    async def _send(self, result: Json) -> None:
        refused = await self._until_received("tool_result", result)
        if refused is not None and refused.code in _REFUSED_AS_IT_IS and "output" in result:
            error = f"The result could not be sent: {refused.code}."
            await self._until_received("tool_result", {"call_id": result["call_id"], "error": error})

    async def _until_received(self, type: str, payload: Json) -> RequestFailed | None:
        """Send it until the server has it, or refuses it for good, which is returned."""
        message_id = new_id()
        while True:
            try:
                await self._request(type, payload, message_id=message_id)
                return None
            except ResponseTimeout:
                continue
            except RequestFailed as refused:
                if not refused.retryable:
                    return refused
                await asyncio.sleep((refused.retry_after_ms or _PAUSE_MS) / 1000)

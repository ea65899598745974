"""Tools of MCP servers, through `langchain-mcp-adapters` (extra `mcp`): one session with each server, kept open."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Final

import structlog
from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

from twin_sio.agent.tools import Tool, tool_of
from twin_sio.background import BackgroundTasks
from twin_sio.config.agent import McpServer
from twin_sio.domain import Json

log = structlog.get_logger("tools")

START_S: Final = 10.0  # that a process waits for its servers as it starts; then it goes on without them
PING_S: Final = 20.0  # between two pings; a call that failed, or took too long, is followed by one at once
_PONG_S: Final = 3.0
_BACKOFF_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)


class McpTools:
    """The tools of the servers that can be reached now; the others are tried again, ever later."""

    def __init__(self, servers: Mapping[str, McpServer]) -> None:
        self._servers = servers
        self._client = MultiServerMCPClient({name: _connection(server) for name, server in servers.items()})
        self._tools: dict[str, Sequence[Tool]] = {}
        self._tasks = BackgroundTasks()
        self._ready = {name: asyncio.Event() for name in servers}  # tried once
        self._doubted = {name: asyncio.Event() for name in servers}  # a call did not end well

    async def start(self) -> None:
        """Connect to every server; waits `START_S` at most."""
        for name in self._servers:
            self._tasks.start(self._serve(name))
        with suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await asyncio.gather(*(ready.wait() for ready in self._ready.values()))

    async def close(self) -> None:
        """End the sessions, and the servers that are processes of ours."""
        await self._tasks.stop()

    def tools(self) -> Sequence[Tool]:
        """What can be called now. Where two servers have a tool of one name, the server's comes before it."""
        counted = Counter(tool.name for tools in self._tools.values() for tool in tools)
        return [
            tool if counted[tool.name] == 1 else replace(tool, name=f"{_plain(server)}_{tool.name}"[:64])
            for server, tools in self._tools.items()
            for tool in tools
        ]

    async def _serve(self, name: str) -> None:
        """Keep a session with the server: in one task, as its library wants it."""
        failures = 0
        while True:
            try:
                async with self._client.session(name) as session:
                    found = await load_mcp_tools(session)
                    self._tools[name] = [self._tool(name, tool) for tool in found]
                    log.info("mcp_connected", server=name, tools=len(found))
                    failures = 0
                    self._ready[name].set()
                    while True:
                        with suppress(TimeoutError):
                            async with asyncio.timeout(PING_S):
                                await self._doubted[name].wait()
                        self._doubted[name].clear()
                        await asyncio.wait_for(session.send_ping(), _PONG_S)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # anyio gathers what went wrong in groups
                meaning = "the twin is without its tools; `twin-sio doctor --server` looks at it"
                log.warning("mcp_unavailable", server=name, error=_kind(error), meaning=meaning)
            finally:
                self._tools.pop(name, None)
                self._ready[name].set()
            wait_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
            failures += 1
            await asyncio.sleep(wait_s)

    def _tool(self, server: str, found: BaseTool) -> Tool:
        settings, hints = self._servers[server], found.metadata or {}
        made = tool_of(
            found,
            needs_approval=any(fnmatchcase(found.name, pattern) for pattern in settings.approve),
            is_repeatable=bool(hints.get("readOnlyHint") or hints.get("idempotentHint")),
            timeout_s=settings.timeout_s,
        )

        async def run(arguments: Json) -> object:
            try:
                return await made.run(arguments)
            except BaseException:
                self._doubted[server].set()
                raise

        return replace(made, name=_plain(made.name), run=run)


def _connection(server: McpServer) -> Any:
    if server.command:
        secrets = {name: value.get_secret_value() for name, value in server.env.items()}
        return {
            "transport": "stdio",
            "command": server.command,
            "args": list(server.args),
            **({"env": secrets} if secrets else {}),
        }
    headers = {name: value.get_secret_value() for name, value in server.headers.items()}
    return {"transport": server.transport, "url": server.url, "headers": headers}


def _plain(name: str) -> str:
    """A name as models' APIs take it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def _kind(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__

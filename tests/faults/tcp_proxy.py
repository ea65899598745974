"""A TCP proxy: what a load balancer does for clients, and what a bad network does to anybody.

Bytes are passed on as they come. `hold` keeps a connection's answers back while it stays open; `cut` ends connections.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

Targets = Callable[[], Sequence[int]]


@dataclass(eq=False)
class Connection:
    """One proxied connection; `sent` is the begin of what the client sent, `flows` is set while answers pass."""

    target: int
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    sent: bytearray = field(default_factory=bytearray)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class TcpProxy:
    """Listens on a port of its own; each connection goes to the next of `targets()` that takes it. With `tls` it ends
    that, and tells its targets nothing of it."""

    def __init__(self, targets: Targets, tls: ssl.SSLContext | None = None) -> None:
        self._targets = targets
        self._tls = tls
        self._turn = 0
        self._server: asyncio.Server | None = None
        self.connections: set[Connection] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.sleep(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def hold(self, chosen: Callable[[Connection], object] = lambda _: True) -> list[Connection]:
        """Keep back what the target sends on the chosen connections, until `release`."""
        held = [one for one in self.connections if chosen(one)]
        for one in held:
            one.flows.clear()
        return held

    def release(self) -> None:
        for one in self.connections:
            one.flows.set()

    def cut(self, chosen: Callable[[Connection], object] = lambda _: True) -> int:
        """End the chosen connections, as if the network had; how many there were."""
        found = [one for one in self.connections if chosen(one)]
        for one in found:
            for task in one.tasks:
                task.cancel()
        return len(found)

    async def _reach(self) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter] | None:
        targets = list(self._targets())
        self._turn += 1
        for step in range(len(targets)):
            port = targets[(self._turn + step) % len(targets)]
            with suppress(OSError):
                return (port, *await asyncio.open_connection("127.0.0.1", port))
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached = await self._reach()
        if reached is None:
            writer.transport.abort()
            return
        port, far_reader, far_writer = reached
        connection = Connection(port)
        connection.flows.set()
        there = asyncio.create_task(self._pass(reader, far_writer, connection, is_answer=False))
        back = asyncio.create_task(self._pass(far_reader, writer, connection, is_answer=True))
        connection.tasks = [there, back]
        self.connections.add(connection)
        try:
            await asyncio.wait(connection.tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.connections.discard(connection)
            for task in connection.tasks:
                task.cancel()
            await asyncio.gather(*connection.tasks, return_exceptions=True)
            for end in (writer, far_writer):
                end.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection, *, is_answer: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if is_answer:
                    await connection.flows.wait()
                elif len(connection.sent) < 4096:
                    connection.sent += data
                writer.write(data)
                await writer.drain()

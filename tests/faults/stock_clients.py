"""Stock JavaScript clients (socket.io-client without an SDK of ours), run by the Node that Playwright carries."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from tests.faults.record import Record
from tests.processes import token_of
from twin_sio.clock import iso, new_id, now


def node() -> Path:
    """The Node binary of the installed Playwright."""
    spec = importlib.util.find_spec("playwright")
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        for name in ("node", "node.exe"):
            if (found := Path(place) / "driver" / name).is_file():
                return found
    raise FileNotFoundError("playwright's node is missing: install the test extra")


class StockClient:
    """One of them. `record` is what it was sent; `happened` its connects, disconnects and refusals, with reasons."""

    def __init__(self, clients: StockClients, user: str) -> None:
        self._clients = clients
        self.id = new_id()[:8]
        self.user = user
        self.record = Record(f"{user}/js-{self.id}")
        self.happened: list[tuple[str, Any]] = []

    def send(self, text: str, message_id: str | None = None) -> str:
        """A user message; its id."""
        message_id = message_id or new_id()
        self.emit("user_message", {"text": text}, message_id)
        return message_id

    def emit(self, name: str, payload: dict[str, Any], message_id: str | None = None) -> None:
        metadata = {"message_id": message_id or new_id(), "timestamp": iso(now())}
        envelope = {"type": name, "payload": payload, "metadata": metadata}
        self._clients.tell({"emit": self.id, "name": name, "envelope": envelope})

    def drop(self) -> None:
        """Lose the connection; the library makes it again."""
        self._clients.tell({"drop": self.id})

    def close(self) -> None:
        self._clients.tell({"close": self.id})


def stock_client() -> Path | None:
    """The browser's socket.io-client, as a pinned wheel carries it; nothing of that wheel is imported."""
    found = importlib.util.find_spec("nicegui")
    places = (found.submodule_search_locations or []) if found is not None else []
    return next((path for place in places if (path := Path(place) / "static" / "socket.io.min.js").is_file()), None)


class StockClients:
    """A Node process with any number of clients of one address."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: dict[str, StockClient] = {}
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        library = stock_client()
        if library is None:
            raise FileNotFoundError("socket.io.min.js is missing: run `make setup-test`")
        self._process = await asyncio.create_subprocess_exec(
            node(),
            Path(__file__).with_name("stock_clients.js"),
            library,
            self._url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1024 * 1024,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def open(self, user: str, **auth: Any) -> StockClient:
        """One more client, connected."""
        client = StockClient(self, user)
        self._clients[client.id] = client
        given = {"token": token_of(user), "session_id": f"js-{client.id}", **auth}
        self.tell({"open": client.id, "auth": given})
        await self.until(lambda: client.record.connected_at)
        return client

    def tell(self, command: dict[str, Any]) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(orjson.dumps(command) + b"\n")

    async def until(self, holds: Callable[[], Any], timeout: float = 20.0) -> Any:
        """The first true result of `holds`, asked again after whatever happens to any of the clients."""
        async with asyncio.timeout(timeout):
            while not (found := holds()):
                self._changed.clear()
                await self._changed.wait()
        return found

    async def _read(self) -> None:
        stdout = self._process.stdout
        while stdout is not None and (line := await stdout.readline()):
            client_id, kind, data = orjson.loads(line)
            client = self._clients[client_id]
            if kind == "in":
                client.record.take(data)
            else:
                client.happened.append((kind, data))
            self._changed.set()

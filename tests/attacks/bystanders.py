"""What other users see while somebody attacks: `python -m tests.attacks.bystanders URL`, a process of its own.

Prints `ready` once five users are connected, measures until SIGTERM, then prints one line of JSON, the fields of
`Seen`. It comes from an address of its own, 127.0.0.9.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

from tests.faults.figures import percentile
from tests.processes import token_of

ADDRESS = "127.0.0.9"
USERS = 5
TIMEOUT_S = 15.0
_HEARTBEAT_EVERY_S = 0.1
_MESSAGE_EVERY_S = 2.0
_CONNECT_EVERY_S = 2.0


@dataclass
class Seen:
    """Times in ms, from sending to the acknowledgement; `codes`: errors by code; `cut`: connections that ended."""

    heartbeats: list[float] = field(default_factory=list)
    messages: list[float] = field(default_factory=list)
    connects: list[float] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    cut: int = 0
    unanswered: int = 0

    @property
    def times(self) -> Sequence[float]:
        """Heartbeats and messages together."""
        return [*self.heartbeats, *self.messages]

    def __str__(self) -> str:
        times = self.times
        if not times:  # it ended before anybody had asked
            return "–"
        shown = " / ".join(f"{percentile(times, share):.0f}" for share in (0.5, 0.95, 1.0))
        return f"{shown} ms"


class Bystander:
    """One user with one connection: heartbeats, messages, and the time each takes to be acknowledged."""

    def __init__(self, url: str, user: str, seen: Seen, codes: Counter[str]) -> None:
        self._url = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        self._user = user
        self._seen = seen
        self._codes = codes
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next = 0
        self.ready = asyncio.Event()

    async def connect(self, http: aiohttp.ClientSession, session: str) -> aiohttp.ClientWebSocketResponse:
        """Open a connection and wait for `session_ready`; a refusal is counted and raised as `ConnectionError`."""
        async with asyncio.timeout(TIMEOUT_S):
            ws = await http.ws_connect(self._url, max_msg_size=0)
            await ws.send_str("40" + json.dumps({"token": token_of(self._user), "session_id": session}))
            while True:
                message = await ws.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    self._codes["closed"] += 1
                    raise ConnectionError
                if message.data.startswith("44"):
                    self._codes[json.loads(message.data[2:])["data"]["code"]] += 1
                    await ws.close()
                    raise ConnectionError
                if message.data.startswith('42["session_ready"'):
                    return ws

    async def run(self, http: aiohttp.ClientSession) -> None:
        """Measure until cancelled; connects again where the connection ends."""
        while True:
            try:
                ws = await self.connect(http, f"s-{self._user}")
            except (aiohttp.ClientError, OSError, TimeoutError):
                self._seen.cut += 1
                await asyncio.sleep(0.5)
                continue
            self.ready.set()
            beating = asyncio.create_task(self._repeat(ws, "heartbeat", self._seen.heartbeats, _HEARTBEAT_EVERY_S))
            sending = asyncio.create_task(self._repeat(ws, "user_message", self._seen.messages, _MESSAGE_EVERY_S))
            try:
                await self._read(ws)
                self._seen.cut += 1
            finally:
                beating.cancel()
                sending.cancel()
                await asyncio.gather(beating, sending, return_exceptions=True)
                await ws.close()

    async def _repeat(self, ws: aiohttp.ClientWebSocketResponse, name: str, times: list[float], every_s: float) -> None:
        while True:
            payload = {"text": f"hello from {self._user}"} if name == "user_message" else {}
            self._next += 1
            ack = self._next
            envelope = {"payload": payload, "metadata": {"message_id": f"m-{self._user}-{ack}"}}
            answered = self._waiting[ack] = asyncio.get_running_loop().create_future()
            began = time.monotonic()
            await ws.send_str(f"42{ack}" + json.dumps([name, envelope]))
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    reply = await answered
            except TimeoutError:
                self._seen.unanswered += 1
            else:
                times.append((time.monotonic() - began) * 1000)
                if reply["type"] == "error":
                    self._codes[reply["payload"]["code"]] += 1
            await asyncio.sleep(every_s)

    async def _read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            if message.data == "2":
                await ws.send_str("3")
            elif message.data.startswith("43"):
                ack, _, rest = message.data[2:].partition("[")
                waiting = self._waiting.pop(int(ack), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(json.loads("[" + rest)[0])


async def _newcomers(url: str, mark: str, http: aiohttp.ClientSession, seen: Seen, codes: Counter[str]) -> None:
    number = 0
    while True:
        number += 1
        began = time.monotonic()
        try:
            ws = await Bystander(url, f"newcomer-{mark}-{number}", seen, codes).connect(http, f"n-{number}")
        except (aiohttp.ClientError, OSError, TimeoutError):
            seen.unanswered += 1
        else:
            seen.connects.append((time.monotonic() - began) * 1000)
            await ws.close()
        await asyncio.sleep(_CONNECT_EVERY_S)


async def main(url: str) -> None:
    seen, codes, mark = Seen(), Counter[str](), str(time.monotonic_ns())
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    connector = aiohttp.TCPConnector(local_addr=(ADDRESS, 0), limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        users = [Bystander(url, f"bystander-{mark}-{number}", seen, codes) for number in range(USERS)]
        tasks = [asyncio.create_task(user.run(http)) for user in users]
        await asyncio.gather(*(user.ready.wait() for user in users))
        tasks.append(asyncio.create_task(_newcomers(url, mark, http, seen, codes)))
        print("ready", flush=True)
        await ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    seen.codes = dict(codes)
    print(json.dumps(asdict(seen)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

"""One kind of attack in a process of its own: `python -m tests.attacks.attacker NUMBER SECONDS ADDRESS PLACES`.

Prints `ready` once what the attack needs is there, attacks from SIGUSR1 on, and prints what it did as its last line.
`PLACES` is the JSON of `Places`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.attacks.site import kinds, lower_priority, prepared, under_attack
from tests.faults.cluster import Cluster
from tests.processes import Process
from tests.waiting import eventually

_GRACE_S = 60.0  # for an attack to end after its time


@dataclass(frozen=True)
class Places:
    """Where the parts of a running service are, for another process."""

    folder: str
    mongodb_port: int
    model_port: int
    server_ports: tuple[int, ...]

    @classmethod
    def of(cls, running: Cluster) -> Places:
        ports = tuple(server.port for server in running.servers)
        return cls(str(running.folder), running.mongod.port, running.model.port, ports)


class Attacker:
    """An attack that another process carries out, from an address of its own."""

    def __init__(self, running: Cluster, number: int, address: int, seconds: float) -> None:
        self._number = number
        self._seconds = seconds
        places = json.dumps(asdict(Places.of(running)))
        arguments = (str(number), str(seconds), str(address), places)
        self._process = Process("tests.attacks.attacker", running.folder, None, *arguments)

    async def start(self) -> None:
        """Start it and wait until it is ready to attack."""
        self._process.start()
        await eventually(lambda: "ready" in self._process.printed(), _GRACE_S)

    async def attack(self) -> str:
        """Let it attack; what it did. Raises `RuntimeError` if it ended otherwise."""
        os.kill(self._process.pid, signal.SIGUSR1)
        await eventually(lambda: not self._process.alive, self._seconds + _GRACE_S)
        last = self._process.printed().splitlines()[-1]
        if not last.startswith("did "):
            raise RuntimeError(f"attack {self._number}: {last}")
        return last.removeprefix("did ")

    async def stop(self) -> None:
        await asyncio.to_thread(self._process.stop, 1.0)


async def main(number: int, seconds: float, address: int, places: Places) -> None:
    go = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go.set)
    kind = kinds()[number]
    async with AsyncExitStack() as stack:
        running = Cluster(Path(places.folder), stack)
        await running.attach(places.mongodb_port, places.model_port, places.server_ports)
        site = await stack.enter_async_context(under_attack(running, address, seconds))
        await prepared(site, kind)
        print("ready", flush=True)
        await go.wait()
        print("did", await kind.attack(site, time.monotonic() + seconds), flush=True)


if __name__ == "__main__":
    lower_priority()
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), Places(**json.loads(sys.argv[4]))))

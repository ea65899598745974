"""What it costs to forget connections: ours against the library's own manager, in one run.

python -m bench.disconnects [N]        N connections, 20,000 unless given; the library gets a tenth of them
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import socketio
from socketio.base_manager import BaseManager

from twin_sio.clock import new_id, now
from twin_sio.delivery import Delivery
from twin_sio.domain import Event
from twin_sio.transport.room_manager import user_room

NAMESPACE = "/"


async def _nothing(user_id: str, after: int, limit: int) -> Sequence[Event]:  # noqa: ARG001
    return []


async def _no_heads(user_ids: Sequence[str]) -> Mapping[str, int]:  # noqa: ARG001
    return {}


class _Engine:
    @staticmethod
    def generate_id() -> str:
        return new_id()


class _Server:
    """As much of a server as a manager asks of it here: fresh ids."""

    eio = _Engine()

    class packet_class:  # noqa: N801 - the library's name
        json = None


class Connected:
    """A manager with connections of as many users, each in the room of its user."""

    def __init__(self, manager: Any, count: int) -> None:
        self.manager = manager
        manager.set_server(_Server())
        self.sids = []
        for index in range(count):
            sid = BaseManager.pre_connect(manager, f"eio-{index}", NAMESPACE)
            BaseManager.connect(manager, sid, NAMESPACE)
            manager.basic_enter_room(sid, NAMESPACE, user_room(f"user-{index}"))
            self.sids.append(sid)

    @classmethod
    def ours(cls, count: int) -> Connected:
        delivery = Delivery("redis://127.0.0.1:1", clock=now, new_id=new_id, read=_nothing, heads=_no_heads)
        return cls(delivery.rooms, count)

    @classmethod
    def stock(cls, count: int) -> Connected:
        return cls(socketio.AsyncManager(), count)

    async def leave_all(self) -> float:
        """Everybody leaves; the CPU seconds it took."""
        began = time.process_time()
        for sid in self.sids:
            self.manager.pre_disconnect(sid, NAMESPACE)
            await self.manager.disconnect(sid, NAMESPACE, ignore_queue=True)
        return time.process_time() - began

    def left_behind(self) -> dict[str, Any]:
        """Tables that still hold something."""
        tables = ("rooms", "eio_to_sid", "callbacks", "pending_connect", "pending_disconnect", "_rooms_of")
        return {name: found for name in tables if (found := getattr(self.manager, name, None))}


def main() -> int:
    """Print one line each."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    ours = asyncio.run(Connected.ours(count).leave_all())
    few = max(1, count // 10)
    stock = asyncio.run(Connected.stock(few).leave_all())
    each, theirs = ours / count * 1e6, stock / few * 1e6
    print(f"ours   {count:6d} disconnects  {ours:6.2f} s CPU  {each:8.1f} us each")
    print(f"stock  {few:6d} disconnects  {stock:6.2f} s CPU  {theirs:8.1f} us each, and growing with their number")
    return 0


if __name__ == "__main__":
    sys.exit(main())

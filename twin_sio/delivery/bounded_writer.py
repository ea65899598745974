"""Writing to the connections of this instance, within bounds: a client that does not read costs memory here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from twin_sio.transport import ConnectionRegistry
from twin_sio.transport.frames import EncodedFrame

log = structlog.get_logger("delivery")

_HARD_OF_USER = 4
"""All connections of a user together may hold this many times the hard bound of one."""
_CHECK_EVERY_S = 0.5
_READ_WAIT_S = 0.005


class BoundedWriter:
    """Writes frames, drops what is ephemeral above the soft bound, and cuts connections above the hard one."""

    def __init__(
        self,
        connections: ConnectionRegistry,
        user_of: Callable[[str], str | None],
        *,
        soft_bytes: int,
        hard_bytes: int,
        stuck_s: float,
    ) -> None:
        """`user_of` names the user of a connection; None: not authenticated, or gone."""
        self.connections = connections
        self._user_of = user_of
        # Above it, in bytes buffered for one connection, chunks and ephemeral events are skipped.
        self.soft_bytes = soft_bytes
        # Above it the connection is cut; its client resumes from the log.
        self.hard_bytes = hard_bytes
        # Cut also where nothing that is queued could be written for so long.
        self._stuck_s = stuck_s
        self.aborts = 0
        """Connections cut, since the start."""

    def write(self, sid: str, frame: EncodedFrame, *, unless_over: int | None = None) -> int:
        """Write to one connection of this instance; the bytes now buffered. Nothing is written above `unless_over`."""
        buffered = self.connections.write(sid, frame, unless_over=unless_over)
        if buffered > self.hard_bytes:
            self.cut(sid)
        return buffered

    def write_ephemeral(self, sid: str, frame: EncodedFrame) -> None:
        """Write what may be skipped."""
        self.write(sid, frame, unless_over=self.soft_bytes)

    def cut(self, sid: str) -> None:
        """Close the connection now; what is buffered for it is dropped."""
        self.aborts += 1
        log.info("slow_consumer_cut", connection=sid)
        self.connections.abort(sid)

    async def until_read(self, sid: str) -> None:
        """Wait until the client has read most of it, so that a long resume is not taken for a slow consumer."""
        while self.connections.buffered_bytes(sid) > self.soft_bytes // 2:  # noqa: ASYNC110 - the library's queue
            await asyncio.sleep(_READ_WAIT_S)

    async def watch(self) -> None:
        """Cut connections that are stalled, or over their user's bound, until cancelled."""
        while True:
            await asyncio.sleep(min(_CHECK_EVERY_S, self._stuck_s / 4))
            for sid in self.connections.stalled(self._stuck_s):
                self.cut(sid)
            for sid in self._over_user_bound(self.connections.backlog()):
                self.cut(sid)

    def _over_user_bound(self, backlog: Mapping[str, int]) -> list[str]:
        """The connections to cut so that no user holds more memory than a few connections may: those that hold most."""
        buffered_by_user: dict[str, int] = {}
        over = []
        for sid in sorted(backlog, key=lambda connection: backlog[connection]):
            user = self._user_of(sid) or sid
            buffered_by_user[user] = buffered_by_user.get(user, 0) + backlog[sid]
            if buffered_by_user[user] > _HARD_OF_USER * self.hard_bytes:
                over.append(sid)
        return over

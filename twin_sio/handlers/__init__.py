"""What the service does with each wire event. A handler method is named for its event and returns its reply.

May import services, the ports of agent and store, and the protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from twin_sio.clock import Clock, NewId
from twin_sio.domain import Event
from twin_sio.protocol import Outgoing


@dataclass(frozen=True, slots=True)
class Reply:
    """What the sender of an event gets. The gateway sends it; a handler never does."""

    outgoing: Outgoing
    """To the session that sent the event, and in the acknowledgement. With a `seq` it is sent in that event's place in
    the order of the log, at once otherwise."""
    publish: Event | None = None
    """The event that was stored: published to the user's other sessions. The sender gets `outgoing` in its place."""
    then: Callable[[], Awaitable[None]] | None = None
    """Runs after the reply was sent and before the connection's next event is handled."""


@dataclass(frozen=True, slots=True)
class Receipts:
    """Makes `message_received`, the one reply to whatever was stored."""

    clock: Clock
    new_id: NewId

    def of(
        self,
        session_id: str | None,
        message_id: str | None,
        status: str,
        *,
        conversation_id: str | None = None,
        seq: int | None = None,
        **more: object,
    ) -> Outgoing:
        """To what the session sent under `message_id` (None: under none); `seq`: of what is stored of it in the log."""
        payload = {"message_id": message_id or self.new_id(), "status": status, **more}
        return Outgoing(
            "message_received",
            payload,
            self.new_id(),
            self.clock(),
            session_id,
            message_id,
            conversation_id,
            seq,
        )

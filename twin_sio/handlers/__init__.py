"""What the service does with each wire event. A handler method is named for its event and returns its reply.

May import services, the ports of agent and store, and the protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

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

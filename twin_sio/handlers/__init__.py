"""What the service does with each wire event. A handler method is named for its event and returns its reply.

May import services, the ports of agent and store, and the protocol.
"""

from __future__ import annotations

from dataclasses import dataclass

from twin_sio.protocol import Outgoing


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client is told first. `told`: delivery has seen to it already, in its turn."""

    outgoing: Outgoing
    already_sent: bool = False

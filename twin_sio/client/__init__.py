"""A client of the protocol: one user's session, kept alive. For the command line, tests, benchmarks and your own.

    async with TwinClient("http://127.0.0.1:8000", token) as twin:
        answer = await twin.ask("What did I want to cook tonight?")
        print(answer.text)

What is sent is sent until the server has stored it: over reconnects, to whichever instance, each message once in
effect. What comes is applied in order and once (see `state`). Reconnecting is done here, with exponential
backoff and full jitter; `close()` ends every task that was started.

`state` is the pure core, `link` one connection, `session` what holds them together.
"""

from twin_sio.client.changes import (
    AuthExpiring,
    ChunkApplied,
    ContextChanged,
    DevicesChanged,
    Draining,
    Failed,
    Message,
    MessageChanged,
    ProfileChanged,
    ReadUpTo,
    Ready,
    Resumed,
    Settled,
    StateChange,
    StreamedAnswer,
    Thinking,
    Typing,
    WantsHistory,
    WantsResume,
)
from twin_sio.client.client import Backoff, TwinClient
from twin_sio.client.connection import (
    ClientError,
    HandshakeRefused,
    RequestFailed,
    ResponseTimeout,
    SessionClosed,
    Unreachable,
)
from twin_sio.client.state import ClientState
from twin_sio.client.subscription import Change, Changes, Disconnected, Ended, Reconnecting

__all__ = [
    "AuthExpiring",
    "Backoff",
    "Change",
    "Changes",
    "ChunkApplied",
    "ClientError",
    "ClientState",
    "ContextChanged",
    "DevicesChanged",
    "Disconnected",
    "Draining",
    "Ended",
    "Failed",
    "HandshakeRefused",
    "Message",
    "MessageChanged",
    "ProfileChanged",
    "ReadUpTo",
    "Ready",
    "Reconnecting",
    "RequestFailed",
    "ResponseTimeout",
    "Resumed",
    "SessionClosed",
    "Settled",
    "StateChange",
    "StreamedAnswer",
    "Thinking",
    "TwinClient",
    "Typing",
    "Unreachable",
    "WantsHistory",
    "WantsResume",
]

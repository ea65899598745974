"""A client of the protocol: one user's session, kept alive. For the command line, tests, benchmarks and your own.

    async with TwinClient("http://127.0.0.1:8000", token) as twin:
        answer = await twin.ask("What did I want to cook tonight?")
        print(answer.text)

A message is sent until the server has stored it: over reconnects, to any instance, each message once in effect. Events
are applied in order and once (see `state`). The client reconnects with exponential backoff and full jitter; `close()`
ends every task that was started.

`client` is the public API, `session` what it works on, `state` the pure core (`generations`: how chunks are joined,
`progress`: what else is done for answers that are not there yet), `requests` sends until there is a reply, `host_tools`
runs what the app offers, `supervisor` keeps the session connected, `connection` is one connection, `envelopes` what is
written and read. May import `protocol` and what is below; nothing of the server.
"""

from twin_sio.client.changes import (
    ApprovalRequested,
    ApprovalResolved,
    AuthExpiring,
    ChunkApplied,
    ContextChanged,
    DevicesChanged,
    Draining,
    Failed,
    Message,
    MessageChanged,
    PendingApproval,
    ProfileChanged,
    ReadUpTo,
    Ready,
    ReasoningApplied,
    Resumed,
    Settled,
    StateChange,
    StepChanged,
    StreamedAnswer,
    Thinking,
    ToolCalled,
    Typing,
    WantsHistory,
    WantsResume,
)
from twin_sio.client.client import TwinClient
from twin_sio.client.connection import (
    ClientError,
    HandshakeRefused,
    RequestFailed,
    ResponseTimeout,
    SessionClosed,
    TokenFailed,
    Unreachable,
)
from twin_sio.client.host_tools import RunTool
from twin_sio.client.session import Hook
from twin_sio.client.state import ClientState
from twin_sio.client.subscription import Change, Changes, Disconnected, Ended, Reconnecting
from twin_sio.client.supervisor import Backoff

__all__ = [
    "ApprovalRequested",
    "ApprovalResolved",
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
    "Hook",
    "Message",
    "MessageChanged",
    "PendingApproval",
    "ProfileChanged",
    "ReadUpTo",
    "Ready",
    "ReasoningApplied",
    "Reconnecting",
    "RequestFailed",
    "ResponseTimeout",
    "Resumed",
    "RunTool",
    "SessionClosed",
    "Settled",
    "StateChange",
    "StepChanged",
    "StreamedAnswer",
    "Thinking",
    "TokenFailed",
    "ToolCalled",
    "TwinClient",
    "Typing",
    "Unreachable",
    "WantsHistory",
    "WantsResume",
]

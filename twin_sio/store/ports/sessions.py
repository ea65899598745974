"""Live sessions, host context, tickets and revocations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twin_sio.domain import (
    Caller,
    Device,
    Identity,
    Json,
)


class Contexts(Protocol):
    """What the host app says around the conversation, per session; forgotten after a time."""

    async def get(self, user_id: str, session_id: str) -> Json:
        """The session's context; empty where there is none."""
        ...

    async def put(self, user_id: str, session_id: str, context: Json, epoch: int = 0) -> datetime:
        """Replace the session's context; its time starts anew. Returns when it will be forgotten. Of many sessions
        of a user the newest 50 have one."""
        ...

    async def newest(self, user_id: str) -> Json | None:
        """The context written last by any of the user's sessions."""
        ...


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that was seen alive on some instance."""

    session_id: str
    connection_id: str
    device: Device
    at: datetime


class Revocations(Protocol):
    """Tokens that count no longer before they end."""

    async def revoke_user(self, user_id: str, at: datetime, for_s: int) -> None:
        """Every token of the user that was issued up to `at` counts no longer, for `for_s` seconds."""
        ...

    async def revoke_token(self, token_id: str, for_s: int) -> None:
        """The token with this `jti` counts no longer, for `for_s` seconds."""
        ...

    async def revoked(self, identities: Sequence[Identity]) -> Sequence[bool]:
        """Which of them count no longer. Whatever Redis has forgotten: all are good only while no store answers."""
        ...


class Tickets(Protocol):
    """What stands for a token once, within seconds: for clients that can send neither headers nor a first message."""

    async def issue(self, identity: Identity) -> str:
        """A fresh ticket, good for `TICKET_S` seconds. Raises `StorageUnavailable`."""
        ...

    async def redeem(self, ticket: str) -> Identity | None:
        """Whom it was issued to, the first time it is shown in time; None otherwise. Raises `StorageUnavailable`."""
        ...


TICKET_S = 30


class Presence(Protocol):
    """Which sessions are live. It expires by itself and may be lost; nothing durable relies on it."""

    async def seen(self, caller: Caller) -> None:
        """The session is alive now."""
        ...

    async def reserve(self, caller: Caller, most: int) -> bool:
        """Count the session in, unless `most` others of the user's are live: one step over all instances. What is not
        known counts as room."""
        ...

    async def joined(self, caller: Caller) -> Sequence[LiveSession]:
        """`seen`, then `sessions`, in one trip."""
        ...

    async def gone(self, caller: Caller) -> None:
        """The session has left, unless a newer connection of the same session is there."""
        ...

    async def erase(self, user_id: str) -> int:
        """Forget all sessions of the user; how many keys that were."""
        ...

    async def sessions(self, user_id: str) -> Sequence[LiveSession]:
        """The user's live sessions on all instances, as far as is known."""
        ...

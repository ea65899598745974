"""Live sessions, host context, tickets and revocations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twin_sio.domain import (
    Caller,
    Device,
    Identity,
    Json,
)

TICKET_S = 30
"""A ticket is good for so many seconds."""


class Contexts(Protocol):
    """What the host app says around the conversation, for each session; it expires."""

    async def get(self, user_id: str, session_id: str) -> Json:
        """The session's context; empty where there is none."""
        ...

    async def put(self, user_id: str, session_id: str, context: Json, epoch: int = 0) -> datetime:
        """Replace the session's context and start its time again. Returns when it expires. Of a user's sessions the
        newest 50 have one."""
        ...

    async def newest(self, user_id: str) -> Json | None:
        """The context written last by any of the user's sessions."""
        ...


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that was alive on some instance at `at`."""

    session_id: str
    connection_id: str
    device: Device
    at: datetime


class Revocations(Protocol):
    """Tokens that are no longer valid although they have not expired."""

    async def revoke_user(self, user_id: str, at: datetime, for_s: int) -> None:
        """Revoke every token of the user that was issued up to `at`, for `for_s` seconds."""
        ...

    async def revoke_token(self, token_id: str, for_s: int) -> None:
        """Revoke the token with this `jti`, for `for_s` seconds."""
        ...

    async def revoked(self, identities: Sequence[Identity]) -> Sequence[bool]:
        """For each of them, whether it is revoked. Never raises: while no store answers, none is."""
        ...


class RevocationRecords(Protocol):
    """The durable list of revocations, by a name that does not reveal the user or the token."""

    async def put(self, name: str, upto: float, for_s: int) -> None:
        """Store that tokens issued up to `upto` are revoked, for `for_s` seconds; an earlier record only grows."""
        ...

    async def find(self, names: Sequence[str]) -> Mapping[str, float]:
        """`upto` of those that are stored under these names."""
        ...

    def current(self) -> AsyncIterator[tuple[str, float, datetime]]:
        """Name, `upto` and the end of every revocation that has not ended."""
        ...


class Tickets(Protocol):
    """A ticket replaces a token once, within seconds: for clients that can send neither headers nor a first message."""

    async def issue(self, identity: Identity) -> str:
        """A fresh ticket, good for `TICKET_S` seconds. Raises `StorageUnavailable`."""
        ...

    async def redeem(self, ticket: str) -> Identity | None:
        """The identity that the ticket was issued to, the first time and in time; None otherwise. Raises
        `StorageUnavailable`."""
        ...


class Presence(Protocol):
    """Which sessions are live. Entries expire and may be lost; nothing durable relies on them."""

    async def seen(self, caller: Caller) -> None:
        """The session is alive now."""
        ...

    async def reserve(self, caller: Caller, most: int) -> bool:
        """Add the session, unless `most` others of the user's are live; atomic over all instances. True also while
        nothing is known."""
        ...

    async def joined(self, caller: Caller) -> Sequence[LiveSession]:
        """`seen`, then `sessions`, in one round trip."""
        ...

    async def gone(self, caller: Caller) -> None:
        """The session has left, unless a newer connection of the same session is there."""
        ...

    async def erase(self, user_id: str) -> int:
        """Remove all sessions of the user; how many keys that were."""
        ...

    async def sessions(self, user_id: str) -> Sequence[LiveSession]:
        """The user's live sessions on all instances, as far as is known."""
        ...

"""Tickets in Redis: good once, for seconds. Raises `StorageUnavailable` while Redis is away."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from typing import Any

import orjson
from cryptography.fernet import Fernet
from redis.asyncio import Redis

from twin_sio.domain import Identity
from twin_sio.errors import StorageUnavailable
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS
from twin_sio.store.ports import TICKET_S

_TICKET_MAX = 128  # characters of what was sent that are hashed: a ticket has fewer


class RedisTickets:
    """`Tickets`: a key for each, named by the ticket's hash, its value encrypted with the ticket: a reader of Redis can
    neither use it nor see whose it is."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def issue(self, identity: Identity) -> str:
        ticket = secrets.token_urlsafe(32)
        try:
            await self._redis.set(
                _key(ticket), _sealed_by(ticket).encrypt(orjson.dumps(_claims(identity))), ex=TICKET_S
            )
        except REDIS_ERRORS:
            raise StorageUnavailable from None
        return ticket

    async def redeem(self, ticket: str) -> Identity | None:
        try:
            # Read and removed in one step: of two that show the same ticket one gets in.
            found = await self._redis.getdel(_key(ticket[:_TICKET_MAX]))
        except REDIS_ERRORS:
            raise StorageUnavailable from None
        return _identity(orjson.loads(_sealed_by(ticket).decrypt(found))) if found is not None else None


def _key(ticket: str) -> str:
    return f"{HASH_TAG}:sealed_ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"


def _sealed_by(ticket: str) -> Fernet:
    return Fernet(f"{ticket}=")  # 32 bytes in URL-safe base64, with the sign that pads them


def _claims(identity: Identity) -> dict[str, Any]:
    issued = identity.issued_at
    return {
        "user_id": identity.user_id,
        "scopes": sorted(identity.scopes),
        "expires_at": identity.expires_at.timestamp(),
        "issued_at": issued.timestamp() if issued is not None else None,
        "token_id": identity.token_id,
        "persona": identity.persona,
    }


def _identity(claims: dict[str, Any]) -> Identity:
    issued = claims["issued_at"]
    return Identity(
        claims["user_id"],
        frozenset(claims["scopes"]),
        datetime.fromtimestamp(claims["expires_at"], UTC),
        datetime.fromtimestamp(issued, UTC) if issued is not None else None,
        claims["token_id"],
        claims.get("persona", ""),  # of an instance of an earlier version there is none
    )

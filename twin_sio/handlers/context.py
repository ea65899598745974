"""The host app's context around the conversation: data for the prompt, never a trait by itself."""

from __future__ import annotations

from datetime import datetime

import orjson

from twin_sio.clock import Clock, NewId, iso
from twin_sio.domain import Caller, Json
from twin_sio.errors import TooLarge
from twin_sio.handlers import Receipts, Reply
from twin_sio.protocol import ContextUpdate, Incoming, Outgoing, merge_patch
from twin_sio.services.limits import Limits
from twin_sio.services.ports import Delivery
from twin_sio.store.ports import Contexts

CONTEXT_MAX_BYTES = 16 * 1024


class HostContext:
    """One context per session; the newest of a user's is the one the twin sees."""

    def __init__(self, contexts: Contexts, delivery: Delivery, limits: Limits, clock: Clock, new_id: NewId) -> None:
        self._limits = limits
        self._contexts = contexts
        self._delivery = delivery
        self._clock = clock
        self._new_id = new_id
        self._receipts = Receipts(clock, new_id)

    async def context_update(self, caller: Caller, sent: Incoming[ContextUpdate]) -> Reply:
        """Merge (RFC 7386) or replace the session's context, and show the other devices what was sent.

        The receipt has `expires_at`; merging nothing extends it.
        """
        await self._limits.write(caller.user_id)
        put = self._put if sent.payload.mode == "replace" else self.merge
        expires_at = await put(caller, sent.payload.context)  # first: other devices get no context that was refused
        self._delivery.to_others(caller, self._relayed(caller, sent))
        return Reply(self._receipts.of(caller.session_id, sent.message_id, "accepted", expires_at=iso(expires_at)))

    async def merge(self, caller: Caller, patch: Json) -> datetime:
        """Merge into the session's context; returns when it ends. Raises `TooLarge` where it would be over 16 KiB."""
        return await self._put(caller, merge_patch(await self._contexts.get(caller.user_id, caller.session_id), patch))

    async def _put(self, caller: Caller, context: Json) -> datetime:
        if len(orjson.dumps(context)) > CONTEXT_MAX_BYTES:
            raise TooLarge(f"A context has at most {CONTEXT_MAX_BYTES} bytes.", field="payload.context")
        return await self._contexts.put(caller.user_id, caller.session_id, context, caller.epoch)

    def _relayed(self, caller: Caller, sent: Incoming[ContextUpdate]) -> Outgoing:
        payload = sent.payload.model_dump()
        return Outgoing(
            "context_update",
            payload,
            sent.message_id or self._new_id(),
            self._clock(),
            caller.session_id,
            conversation_id=sent.conversation_id,
        )

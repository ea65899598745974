"""Typing, reading, heartbeats and resuming, between the devices of a user."""

from __future__ import annotations

import asyncio

from twin_sio.clock import Clock, NewId, iso
from twin_sio.domain import Caller, NewEvent
from twin_sio.errors import NotFound
from twin_sio.handlers import Reply
from twin_sio.protocol import Heartbeat, Incoming, Outgoing, ReadReceipt, Resume, TypingIndicator
from twin_sio.services.limits import Limits
from twin_sio.services.ports import Delivery
from twin_sio.store.ports import Log, Presence


class PresenceHandlers:
    """Relays what is ephemeral, stores how far was read."""

    def __init__(
        self, messages: Log, presence: Presence, delivery: Delivery, limits: Limits, clock: Clock, new_id: NewId
    ) -> None:
        self._limits = limits
        self._messages = messages
        self._presence = presence
        self._delivery = delivery
        self._clock = clock
        self._new_id = new_id

    async def typing_indicator(self, caller: Caller, sent: Incoming[TypingIndicator]) -> None:
        """Relayed to the other devices; may be lost."""
        payload = {"is_typing": sent.payload.is_typing}
        outgoing = Outgoing(
            "typing_indicator",
            payload,
            self._new_id(),
            self._clock(),
            caller.session_id,
            conversation_id=sent.conversation_id,
        )
        self._delivery.to_others(caller, outgoing)

    async def read_receipt(self, caller: Caller, sent: Incoming[ReadReceipt]) -> None:
        """Everything up to and with this message is read, on every device. A durable event without an answer: the
        sender sees it come back with its seq, so that its own count stays whole. Where it was read before, nothing."""
        read = await self._messages.get(caller.user_id, sent.payload.message_id)
        if read is None or read.type not in ("user_message", "twin_message"):
            raise NotFound("There is no message of yours with this id.")
        if await self._messages.read_up_to(caller.user_id, read.conversation_id) >= read.seq:
            return  # before the limit of writes: clients repeat receipts, and a repeat writes nothing
        await self._limits.write(caller.user_id)
        draft = NewEvent(
            caller.user_id,
            "read_receipt",
            f"twin-read-{read.seq}",  # the same for every device, so that one event tells of it
            read.conversation_id,
            self._clock(),
            {"message_id": read.message_id},
            caller.session_id,
            epoch=caller.epoch,
        )
        stored = await self._messages.append(draft)
        # The mark is last: where it is missing the receipt is repeated, and the devices are told all the same.
        await self._messages.mark_read(caller.user_id, read.conversation_id, read.seq, caller.epoch)
        self._delivery.publish(stored.event)

    async def heartbeat(self, caller: Caller, sent: Incoming[Heartbeat]) -> Reply:
        """The server's time and the newest seq: a client that is behind sends `resume`."""
        _, head = await asyncio.gather(self._presence.seen(caller), self._messages.head(caller.user_id))
        at = self._clock()
        payload = {"server_time": iso(at), "head_seq": head}
        return Reply(Outgoing("heartbeat_ack", payload, self._new_id(), at, caller.session_id, sent.message_id))

    async def resume(self, caller: Caller, sent: Incoming[Resume]) -> Reply | None:
        """Send what was missed, then `resumed`."""
        resumed = await self._delivery.resume(caller, sent.payload.last_seq)
        return Reply(resumed) if resumed is not None else None

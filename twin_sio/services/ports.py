"""What handlers and services need of the layers around them; `delivery.Delivery` and `jobs.Queue` implement it."""

from __future__ import annotations

from typing import Protocol

from twin_sio.delivery.messages import ControlMessage
from twin_sio.domain import Caller, Event, Generation
from twin_sio.protocol import Outgoing


class Delivery(Protocol):
    """Sends to the sessions of a user, on every instance. Sending never waits and never raises."""

    def publish(self, event: Event) -> None:
        """Send a stored event to every session, in the order of the log."""
        ...

    def to_user(self, user_id: str, outgoing: Outgoing) -> None:
        """Send something ephemeral to every session."""
        ...

    def to_others(self, caller: Caller, outgoing: Outgoing) -> None:
        """Send something ephemeral to every session but the caller's."""
        ...

    def to_session_anywhere(self, user_id: str, session_id: str, outgoing: Outgoing) -> None:
        """Send something ephemeral to one session, on whichever instance it is."""
        ...

    def to_session_in_order(self, caller: Caller, outgoing: Outgoing) -> None:
        """Send the caller alone something with the seq of a stored event: in that event's place where the caller was
        not sent so much yet, at once where it was. A client would take any other order for a gap."""
        ...

    def begin_generation(self, user_id: str, generation: Generation) -> None:
        """An attempt at an answer begins; it replaces what earlier attempts have sent."""
        ...

    def chunk(self, user_id: str, generation: Generation, text: str, *, is_last: bool = False) -> None:
        """Send the next chunk of it to every session; one that connects later gets all chunks so far as one."""
        ...

    def end_generation(self, generation: Generation) -> None:
        """No more chunks will come."""
        ...

    async def partial(self, user_id: str, generation_id: str) -> str:
        """The text that an attempt of any instance has sent so far, as far as Redis has it."""
        ...

    def drop_generation(self, user_id: str, generation: Generation) -> None:
        """This attempt at an answer has failed: delete it from Redis."""
        ...

    async def erase(self, user_id: str) -> int:
        """Delete the running answers to the user from Redis; returns the number of keys."""
        ...

    async def resume(self, caller: Caller, last_seq: int) -> Outgoing | None:
        """Send the caller what came after `last_seq`; returns `resumed`, which is to be sent next."""
        ...

    def broadcast(self, message: ControlMessage) -> None:
        """Send a message to all instances, this one included; it may be lost."""
        ...


class Jobs(Protocol):
    """Queues background jobs. A job may be lost: the sweep in `jobs` finds its work again."""

    async def learn(self, user_id: str, turn_id: str) -> None:
        """Learn from an answered exchange. Never raises."""
        ...

    async def correct(self, user_id: str, message_id: str) -> None:
        """Learn from the correction in this feedback. Never raises."""
        ...

    async def remember(self, user_id: str, turn_id: str) -> None:
        """Bring the memory of the turn's conversation up to date. Never raises; the next turn makes up for it."""
        ...

    async def erase(self, user_id: str) -> int:
        """Remove the user's jobs from the queue; returns their number. Never raises: a job that is left finds
        nothing of its user."""
        ...

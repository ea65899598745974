"""What services ask of the layers around them; `delivery.Delivery` and `jobs.Queue` fulfil it."""

from __future__ import annotations

from typing import Protocol

from twin_sio.delivery.messages import ControlMessage
from twin_sio.domain import Caller, Event, Generation
from twin_sio.protocol import Outgoing


class Delivery(Protocol):
    """Reaches the sessions of a user, on every instance. Sending never waits and never raises."""

    def publish(self, event: Event) -> None:
        """A stored event, to every session in the order of the log."""
        ...

    def to_user(self, user_id: str, outgoing: Outgoing) -> None:
        """Something ephemeral, to all."""
        ...

    def to_others(self, caller: Caller, outgoing: Outgoing) -> None:
        """Something ephemeral, to all but the caller."""
        ...

    def to_session(self, caller: Caller, outgoing: Outgoing) -> None:
        """To the caller alone."""
        ...

    def to_session_in_order(self, caller: Caller, outgoing: Outgoing) -> None:
        """To the caller alone, with the seq of something stored: in that event's place where the caller has not come
        so far yet, at once where it has. Otherwise it would look like a hole."""
        ...

    def begin_generation(self, user_id: str, generation: Generation) -> None:
        """An attempt at an answer begins; it replaces what earlier attempts have shown."""
        ...

    def chunk(self, user_id: str, generation: Generation, text: str, *, is_last: bool = False) -> None:
        """The next piece of it, to all; whoever joins later gets all pieces so far as one."""
        ...

    def end_generation(self, generation: Generation) -> None:
        """No more pieces will come."""
        ...

    async def partial(self, user_id: str, generation_id: str) -> str:
        """What an attempt of any instance has shown so far, as far as that is remembered."""
        ...

    def drop_generation(self, user_id: str, generation: Generation) -> None:
        """This attempt at an answer came to nothing: nothing of it is to be remembered."""
        ...

    async def erase(self, user_id: str) -> int:
        """Forget what is being said to the user; how many things that were."""
        ...

    async def resume(self, caller: Caller, last_seq: int) -> Outgoing | None:
        """Send the caller what came after `last_seq`; returns `resumed`, which is to be sent next."""
        ...

    def broadcast(self, message: ControlMessage) -> None:
        """Send a message to all instances, this one included; it may be lost."""
        ...


class Jobs(Protocol):
    """Work for later. May lose what it is given: the sweep in `jobs` finds it again."""

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
        """Take the user's jobs out of the queue; how many there were. Never raises: without their user they find
        nothing."""
        ...

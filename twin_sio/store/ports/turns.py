"""The answers that are owed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from twin_sio.domain import Outcome, Turn


class Turns(Protocol):
    """The answers that are owed. A lease per conversation keeps them one at a time and in order."""

    async def ensure(self, turn: Turn) -> Turn:
        """Store the turn unless its `(user_id, turn_id)` exists; the stored one either way."""
        ...

    async def get(self, user_id: str, turn_id: str) -> Turn | None:
        """The turn of this request."""
        ...

    async def pending_counts(self, user_id: str, limit: int) -> Mapping[str, int]:
        """How many answers are owed in each of the user's conversations; counts no more than `limit` in all."""
        ...

    async def answering(self, user_id: str) -> int:
        """In how many of the user's conversations somebody is answering: the leases that are held now."""
        ...

    async def acquire(self, user_id: str, conversation_id: str, owner: str, lease_s: float, epoch: int = 0) -> bool:
        """Take the conversation's lease if it is free or expired; times are the database's own."""
        ...

    async def renew(self, user_id: str, conversation_id: str, owner: str, lease_s: float) -> bool:
        """Prolong a lease that is still held; false: it is lost."""
        ...

    async def release(self, user_id: str, conversation_id: str, owner: str) -> None:
        """Give the lease back if it is still held."""
        ...

    async def next(self, user_id: str, conversation_id: str) -> Turn | None:
        """The oldest turn of the conversation that is not finished."""
        ...

    async def begin(self, turn: Turn, generation_id: str) -> Turn | None:
        """Make it running under a fresh generation, one attempt more; None where it has moved on meanwhile. A crash of
        the store may take it back: then the generation cannot be settled. One that was running counts as `lost`."""
        ...

    async def hand_over(self, turn: Turn) -> None:
        """Make a running turn wait again, for another instance to begin: this one goes away, and was not lost."""
        ...

    async def checkpoint(self, turn: Turn, partial: str) -> Turn | None:
        """Keep what was generated so far; the turn as stored, or None where another generation has taken over."""
        ...

    async def settle(self, turn: Turn, outcome: Outcome) -> bool:
        """Decide the answer, once: false where another generation was first. The one point of no return."""
        ...

    async def outcome(self, turn: Turn) -> Outcome | None:
        """The answer that was decided for this turn, if it was."""
        ...

    async def close(self, turn: Turn, status: str) -> bool:
        """The decided answer stands in the log: the turn is over. False where it was erased meanwhile."""
        ...

    async def request_stop(self, user_id: str, message_id: str) -> Turn | None:
        """Ask the running or waiting answer to this message to end; None where there is none."""
        ...

    async def abandoned(self, older_than_s: float, limit: int) -> Sequence[tuple[str, str]]:
        """`(user_id, conversation_id)` whose lease has expired, or that wait unowned for longer than given."""
        ...

    async def unlearned(self, older_than_s: float, limit: int) -> Sequence[tuple[str, str]]:
        """`(user_id, turn_id)` of answered turns that no job has learned from after this time, the newest first: see
        `Log.to_correct`."""
        ...

    async def to_learn(self, turn: Turn, limit: int) -> Sequence[Turn]:
        """`turn` and the answered ones after it in its conversation that no job has learned from, at most `limit`, in
        their order; none where one has learned from `turn`, or it has no answer yet."""
        ...

    async def learned(self, user_id: str, turn_id: str) -> None:
        """The exchange has been learned from."""
        ...

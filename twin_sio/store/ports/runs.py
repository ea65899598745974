"""What answers in several steps leave between their attempts, and what is decided and asked meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twin_sio.domain import Caller, Decision, HostTool, Json, SavedRun, Turn


class Runs(Protocol):
    """The saved runs of turns. What is written about a running turn asks for its generation: an attempt that another
    has taken over from writes nothing."""

    async def load(self, turn: Turn) -> SavedRun:
        """All that is kept for the turn's next attempt, but for the texts of the messages that it took in: those are
        empty here."""
        ...

    async def save(self, turn: Turn, state: Json) -> bool:
        """Keep the agent's state in place of the one before; false: another attempt has taken over."""
        ...

    async def suspend(self, turn: Turn, awaiting: Sequence[str], due_s: float, partial: str) -> Turn | None:
        """Have the turn wait for these decisions, for so long at most; its attempts are counted anew. It waits for no
        lease, and is `queued` where all are decided already. None: another attempt has taken over, or it was
        stopped."""
        ...

    async def waiting_for(self, user_id: str, approval_id: str) -> Turn | None:
        """The suspended turn that waits for this decision."""
        ...

    async def suspended(self, user_id: str, conversation_id: str) -> Turn | None:
        """The turn of the conversation that waits for decisions."""
        ...

    async def decide(self, turn: Turn, approval_id: str, decision: Decision) -> Decision:
        """Decide, once: the decision that counts, which may be an earlier one."""
        ...

    async def decided(self, turn: Turn, approval_id: str) -> Turn | None:
        """The decision stands in the log: the turn waits for one less, and is `queued` once it waits for none."""
        ...

    async def lease_call(self, turn: Turn, call_id: str, session_id: str) -> str:
        """Give a host tool's call to a session, once: the session that has it."""
        ...

    async def record_result(self, caller: Caller, call_id: str, result: Json) -> tuple[Turn | None, bool]:
        """Keep the result of a host tool's call that the caller's session has, once. The call's turn (None: there is no
        such call of this session), and whether this was the first result."""
        ...

    async def result(self, user_id: str, call_id: str) -> Json | None:
        """The result of a host tool's call, if it has come."""
        ...

    async def waiting_to_steer(self, user_id: str, conversation_id: str) -> str | None:
        """The oldest message that waits to steer the conversation's answer."""
        ...

    async def absorb(self, turn: Turn) -> Sequence[str]:
        """Have the answer take in the messages that wait to steer it: their turns are over, and are learnt from. The
        ids of all that it has taken in, in their order."""
        ...

    async def interrupt(self, user_id: str, conversation_id: str, by: str) -> Turn | None:
        """Ask the running or suspended answer of the conversation to end for the message `by`; None: there is none."""
        ...


class HostTools(Protocol):
    """The tools that users' apps offer, by session, for as long as its connection lives and a day at most."""

    async def put(self, caller: Caller, tools: Sequence[HostTool]) -> None:
        """All that the session offers from now on."""
        ...

    async def remove(self, caller: Caller) -> None:
        """The connection has ended; what a later one of the same session offers stays."""
        ...

    async def all(self, user_id: str) -> Sequence[HostTool]:
        """What the user's sessions offer, the last offered first."""
        ...

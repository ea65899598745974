"""Tools that apps offer, their results, and approvals of calls."""

from __future__ import annotations

import structlog

from twin_sio.clock import Clock, NewId
from twin_sio.domain import Caller, HostTool
from twin_sio.errors import Forbidden, InvalidMessage, NotFound, StorageUnavailable, TooLarge
from twin_sio.handlers import Receipts, Reply
from twin_sio.protocol import Approval, HostTools, Incoming, ToolResult
from twin_sio.services.approvals import ApprovalService
from twin_sio.services.limits import Limits
from twin_sio.services.turns import TurnService
from twin_sio.store.ports import HostTools as OfferedTools
from twin_sio.store.ports import Runs

log = structlog.get_logger("tools")

OFFERED_MAX_BYTES = 32 * 1024
"""Of all that a session offers: every prompt carries it."""


class ToolHandlers:
    """What a session does for the twin's tools. `offered` is None where apps may offer none."""

    def __init__(
        self,
        *,
        offered: OfferedTools | None,
        runs: Runs,
        approvals: ApprovalService,
        turns: TurnService,
        limits: Limits,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._offered = offered
        self._runs = runs
        self._approvals = approvals
        self._turns = turns
        self._limits = limits
        self._receipts = Receipts(clock, new_id)
        self._offering: set[str] = set()  # ids of the connections that offer something

    async def host_tools(self, caller: Caller, sent: Incoming[HostTools]) -> Reply:
        """From now on the session offers these tools, and no others."""
        if self._offered is None:
            raise Forbidden("This service takes no tools from apps (TWIN_HOST_TOOLS).")
        await self._limits.write(caller.user_id)
        tools = [
            HostTool(tool.name, tool.description, tool.parameters, tool.needs_approval, caller.session_id)
            for tool in sent.payload.tools
        ]
        if len({tool.name for tool in tools}) < len(tools):
            raise InvalidMessage("Two tools have one name.", field="payload.tools")
        if len(sent.payload.model_dump_json()) > OFFERED_MAX_BYTES:
            raise TooLarge(f"A session's tools have at most {OFFERED_MAX_BYTES} bytes.", field="payload.tools")
        self._offering.add(caller.connection_id)
        await self._offered.put(caller, tools)
        return self._receipt(caller, sent, "accepted")

    async def left(self, caller: Caller) -> None:
        """The connection has ended: what it offered goes. Never raises: what is left is of a session that is not
        live."""
        if self._offered is None or caller.connection_id not in self._offering:
            return
        self._offering.discard(caller.connection_id)
        try:
            await self._offered.remove(caller)
        except StorageUnavailable:
            log.warning("host_tools_left", session=caller.session_id)

    async def tool_result(self, caller: Caller, sent: Incoming[ToolResult]) -> Reply:
        """What came of a call that this session was given. The first counts."""
        result = {"error": sent.payload.error} if sent.payload.error is not None else {"output": sent.payload.output}
        turn, is_first = await self._runs.record_result(caller, sent.payload.call_id, result)
        if turn is None:
            raise NotFound("There is no call of this session with this id.")
        self._turns.changed(turn)
        return self._receipt(caller, sent, "accepted" if is_first else "duplicate")

    async def approval(self, caller: Caller, sent: Incoming[Approval]) -> Reply:
        """The user's decision on a call. It counts once, whichever device it comes from; the same again is a repeat."""
        turn, is_first = await self._approvals.decide(caller, sent.payload)
        if turn is not None and turn.state == "queued":
            self._turns.schedule(turn.user_id, turn.conversation_id)
        return self._receipt(caller, sent, "accepted" if is_first else "duplicate")

    def _receipt(
        self, caller: Caller, sent: Incoming[HostTools] | Incoming[ToolResult] | Incoming[Approval], status: str
    ) -> Reply:
        receipt = self._receipts.of(caller.session_id, sent.message_id, status, conversation_id=sent.conversation_id)
        return Reply(receipt)

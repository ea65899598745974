"""What is done for answers that are not there yet: steps, reasoning, and the approvals that they wait for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from twin_sio.client.changes import (
    ApprovalRequested,
    ApprovalResolved,
    PendingApproval,
    ReasoningApplied,
    StateChange,
    StepChanged,
    ToolCalled,
)
from twin_sio.client.envelopes import Head, pending_approval
from twin_sio.domain import DEFAULT_CONVERSATION, Json

_REMEMBERED = 256


@dataclass(slots=True)
class StreamedReasoning:
    """What the model thinks for an answer that is being made. A device that joins late has its end only."""

    generation_id: str
    text: str = ""
    next_index: int = 0


@dataclass(slots=True)
class Progress:
    """Of all running answers, by the message that is answered. Steps and reasoning go when the answer comes, which
    has them whole."""

    approvals: dict[str, PendingApproval] = field(default_factory=dict)  # by approval id, the oldest first
    steps: dict[str, dict[str, Json]] = field(default_factory=dict)  # by message, then by step id, in their order
    reasoning: dict[str, StreamedReasoning] = field(default_factory=dict)  # by message
    # Approvals that are over, and generations: what comes later of them is old.
    _resolved: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _ended: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def waiting(self, conversation_id: str = DEFAULT_CONVERSATION) -> list[PendingApproval]:
        """The approvals that this conversation waits for, the oldest first."""
        return [one for one in self.approvals.values() if one.conversation_id == conversation_id]

    def approval_requested(self, head: Head) -> list[StateChange]:
        """An answer waits for an approval."""
        return self._wait_for(pending_approval(head.payload, head.conversation_id, head.in_response_to))

    def history(self, approvals: Iterable[Json], conversation_id: str) -> list[StateChange]:
        """Those that a page of the history has: a device without a past knows of no other."""
        changes: list[StateChange] = []
        for fields in approvals:
            changes += self._wait_for(pending_approval(fields, conversation_id, fields.get("in_response_to")))
        return changes

    def _wait_for(self, approval: PendingApproval) -> list[StateChange]:
        if approval.approval_id in self.approvals or approval.approval_id in self._resolved:
            return []
        self.approvals[approval.approval_id] = approval
        return [ApprovalRequested(approval)]

    def decided(self, decision: Json, conversation_id: str) -> list[StateChange]:
        """An approval was decided, on whatever device, or is over. Of an own decision the receipt may come, and the
        event as well: it is said once."""
        approval_id = decision["approval_id"]
        if approval_id in self._resolved:
            return []
        self._resolved.append(approval_id)
        known = self.approvals.pop(approval_id, None)
        where = known.conversation_id if known is not None else conversation_id
        return [ApprovalResolved(approval_id, where, decision["decision"], known, decision.get("comment"))]

    def activity(self, head: Head) -> list[StateChange]:
        """A step began or changed."""
        if head.in_response_to is None:
            return []
        self.steps.setdefault(head.in_response_to, {})[head.payload["step_id"]] = head.payload
        return [StepChanged(head.conversation_id, head.in_response_to, head.payload)]

    def reasoning_chunk(self, head: Head) -> list[StateChange]:
        """The next piece; a new generation begins anew."""
        generation_id = head.payload["generation_id"]
        index = head.payload["chunk_index"]
        text = head.payload["text"]
        if head.in_response_to is None or generation_id in self._ended:
            return []
        known = self.reasoning.get(head.in_response_to)
        replaced = known is not None and known.generation_id != generation_id
        if known is None or replaced:
            if known is not None:
                self._ended.append(known.generation_id)
            known = self.reasoning[head.in_response_to] = StreamedReasoning(generation_id)
        if index < known.next_index:
            return []
        known.text += text
        known.next_index = index + 1
        return [ReasoningApplied(generation_id, head.in_response_to, head.conversation_id, text, replaced)]

    def answered(self, generation_id: str | None, in_response_to: str | None) -> None:
        """The answer is there."""
        if generation_id is not None:
            self._ended.append(generation_id)
        if in_response_to is not None:
            self.steps.pop(in_response_to, None)
            self.reasoning.pop(in_response_to, None)


def tool_called(head: Head) -> ToolCalled:
    """The call of a tool that this session offers."""
    payload = head.payload
    return ToolCalled(
        payload["call_id"], payload["name"], payload["arguments"], payload["timeout_ms"], head.conversation_id
    )

"""Steps of an answer, and what it waits for, in words for a person."""

from __future__ import annotations

import orjson

from twin_sio.client import ApprovalResolved, PendingApproval
from twin_sio.domain import Json

_OVER = frozenset({"done", "failed", "unknown"})
_DECIDED = {
    "approve": "approved",
    "reject": "rejected",
    "edit": "approved with other arguments",
    "expired": "not decided in time",
    "cancelled": "no longer needed",
}


def is_over(step: Json) -> bool:
    """Whether nothing more will come of it."""
    return step["state"] in _OVER


def step_line(step: Json) -> str:
    """A step in a line: how it stands, and what came of it."""
    summary = " ".join((step.get("summary") or "").split())
    return f"  [{step['state']}] {step['title']}" + (f": {summary}" if summary else "")


def running_line(step: Json) -> str:
    """The same for the status line, while it runs."""
    summary = " ".join((step.get("summary") or "").split())
    return f"{step['title']}: {summary}…" if summary else f"{step['title']}…"


def approval_lines(approval: PendingApproval) -> list[str]:
    """What is to be decided, and how."""
    arguments = orjson.dumps(approval.arguments).decode()
    return [
        f"The twin asks: {approval.title}",
        f"  {approval.tool} {arguments}",
        f"  /approve, /reject [why], or /edit with other arguments as JSON; its id is {approval.approval_id}",
    ]


def decision_line(resolved: ApprovalResolved) -> str:
    """How it was decided."""
    title = resolved.approval.title if resolved.approval is not None else resolved.approval_id
    outcome = _DECIDED.get(resolved.decision, resolved.decision)
    return f"{title}: {outcome}" + (f" ({resolved.comment})" if resolved.comment else "")

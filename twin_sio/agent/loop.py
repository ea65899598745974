"""An answer in several steps: the model's calls of tools, what came of them, and what is saved in between.

A call is saved before it is made and its result before the model sees it. So an attempt after a killed one makes no
call a second time, but for tools that may be repeated; of the others it tells the model that nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from twin_sio.agent import Activity, AgentRequest, Delta, Suspended
from twin_sio.agent.chunk_buffer import paragraphs
from twin_sio.agent.model import RequestedCall
from twin_sio.agent.tools import Tool, ToolContext
from twin_sio.agent.tools.calls import UNKNOWN, CallRefused, Result, checked, ended_state, run, threadsafe
from twin_sio.agent.tools.schemas import with_schemas
from twin_sio.domain import ApprovalRequest, Decision, Json, Step, StepState, approval_of

STEPS_MAX: Final = 12  # times that the model is asked; then it is told to answer without tools
STEPS_OVER: Final = 2  # times that it may call tools all the same
LOOP_S: Final = 600.0
"""How long an attempt may take in all its steps, without the time in which it waits for an approval."""

_NO_MORE: Final = "No more tools can be called for this answer: answer now with what you have."
_AWAY: Final = "It was allowed, and what offers this tool is not there now. It was not made."
_NOT_ALLOWED: Final[Mapping[str, str]] = {
    "reject": "The person did not allow this call. It was not made.",
    "expired": "Nobody allowed this call in time. It was not made.",
    "cancelled": "This call was cancelled. It was not made.",
}
Write = Callable[[Activity | Suspended], None]


@dataclass(slots=True)
class _Call:
    """A call that the model asked for. `wire_id` is what the model's API knows it by: nine letters and digits, since
    some take no others."""

    call_id: str
    wire_id: str
    name: str
    arguments: str
    begun: bool = False
    settled: bool = False


@dataclass(slots=True)
class Loop:
    """The state of an answer in steps; all of it can be saved. `said` is the text of the steps so far, `messages` what
    stands in the prompt after the user's message, `steered` the ids of the messages that were taken in."""

    said: list[str] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)
    steered: list[str] = field(default_factory=list)
    asked: int = 0
    usage: dict[str, int] = field(default_factory=dict)

    @classmethod
    def restored(cls, state: Json | None) -> Loop:
        """As it was saved; a new one where nothing was."""
        if not state:
            return cls()
        steps = {one["step_id"]: Step(**one) for one in state["steps"]}
        calls = [_Call(**one) for one in state["calls"]]
        plain = {name: state[name] for name in ("said", "messages", "steered", "asked", "usage")}
        return cls(**plain, calls=calls, steps=steps)

    def state(self) -> Json:
        """What is saved of it."""
        return {**asdict(self), "steps": [asdict(step) for step in self.steps.values()]}

    @property
    def text(self) -> str:
        """What was said in all steps so far."""
        return paragraphs(self.said)

    @property
    def is_open(self) -> bool:
        """Whether calls wait to be made."""
        return any(not call.settled for call in self.calls)

    def show_again(self, write: Callable[[Delta | Activity], None]) -> None:
        """Show what earlier attempts have said and done."""
        if self.text:
            write(Delta(self.text))
        for step in self.steps.values():
            write(Activity(step))

    def take_in(self, steering: Sequence[tuple[str, str]]) -> None:
        """Put the user's messages of meanwhile behind what was said so far, each once."""
        for message_id, text in steering:
            if message_id not in self.steered:
                self.steered.append(message_id)
                self.messages.append({"role": "user", "content": text})

    def add_answer(self, ask: AgentRequest, text: str, calls: Sequence[RequestedCall], reasoning: str = "") -> None:
        """The model has answered a step, with calls. What goes back with them does, or the endpoint takes none."""
        named = []
        for nth, call in enumerate(calls):
            digest = ask.digest(self.asked, nth)
            named.append(_Call(f"call-{digest}", digest[:9], call.name, call.arguments))
        self.calls = named
        message: dict[str, Any] = {"role": "assistant", "content": text, "tool_calls": []}
        for one, call in zip(named, calls, strict=True):
            function = {"name": one.name, "arguments": one.arguments}
            asked: dict[str, Any] = {"id": one.wire_id, "type": "function", "function": function}
            message["tool_calls"].append(asked | ({"extra_content": call.extra} if call.extra else {}))
        self.messages.append(message | ({"reasoning_content": reasoning} if reasoning else {}))

    def count_usage(self, usage: Json | None) -> None:
        """Add what the endpoint reported of a step."""
        for name, value in (usage or {}).items():
            if isinstance(value, int) and not isinstance(value, bool):
                self.usage[name] = self.usage.get(name, 0) + value

    # -- calling -----------------------------------------------------------------------------------------------------

    async def act(self, ask: AgentRequest, tools: Mapping[str, Tool], write: Write) -> bool:
        """Make the calls that can be made; false where others wait for an approval. Raises `StorageUnavailable`."""
        ready: list[tuple[_Call, Tool, Json]] = []
        waiting: list[ApprovalRequest] = []
        for call in self.calls:
            if call.settled:
                continue
            if self.asked > STEPS_MAX:
                self._settle(call, Result(_NO_MORE, is_done=False, summary="not called: too many steps"), write)
                continue
            try:
                made = self._allowed(ask, call, tools, write)
            except CallRefused as refused:
                self._settle(call, Result(str(refused), is_done=False, summary="not called"), write)
                continue
            if isinstance(made, ApprovalRequest):
                waiting.append(made)
            elif made is not None:
                ready.append((call, *made))
        if ready:
            for call, _, _ in ready:
                call.begun = True
            await ask.run.save(self.state())
            results = await asyncio.gather(*(self._run(ask, *one, write) for one in ready))
            for (call, _, _), result in zip(ready, results, strict=True):
                self._settle(call, result, write)
        for request in waiting:
            self._show(request.call_id, request.tool, request.title, "waiting", write)
        await ask.run.save(with_schemas(self.state(), tools, [request.tool for request in waiting]))
        if waiting:
            write(Suspended(tuple(waiting)))
        return not waiting

    def _allowed(
        self, ask: AgentRequest, call: _Call, tools: Mapping[str, Tool], write: Write
    ) -> ApprovalRequest | tuple[Tool, Json] | None:
        """What the call is made with; or the approval that it takes; None: it is settled. Raises `CallRefused`."""
        known = tools.get(call.name)  # of an app that is away there is none
        if call.begun and (known is None or not known.is_repeatable):
            self._settle(call, Result(UNKNOWN, is_done=False, summary="nobody knows whether it was done"), write)
            return None
        decision = ask.run.saved.decisions.get(approval_of(call.call_id))
        if decision is not None and decision.decision in _NOT_ALLOWED:
            self._settle(call, _not_allowed(decision), write)
            return None
        if decision is not None and known is None:
            raise CallRefused(_AWAY)
        tool, arguments = checked(tools, call.name, call.arguments)
        if not tool.needs_approval:
            return tool, arguments
        if decision is None:
            return ApprovalRequest(call.call_id, tool.name, tool.title or tool.name, arguments)
        if decision.decision == "edit":
            return checked(tools, call.name, decision.arguments or {})
        return tool, arguments

    async def _run(self, ask: AgentRequest, call: _Call, tool: Tool, arguments: Json, write: Write) -> Result:
        title = tool.title or tool.name
        self._show(call.call_id, tool.name, title, "started", write)

        def progress(text: str) -> None:
            if not call.settled:
                self._show(call.call_id, tool.name, title, "progress", write, text)

        context = ToolContext(ask.user_id, ask.conversation_id, call.call_id, threadsafe(progress))
        return await run(tool, arguments, context)

    def _settle(self, call: _Call, result: Result, write: Write) -> None:
        """The call has its result, in its place behind the model's message."""
        call.settled = True
        self.messages.append({"role": "tool", "tool_call_id": call.wire_id, "content": result.text})
        state = ended_state(result.text, is_done=result.is_done)
        known = self.steps.get(call.call_id)
        title = known.title if known is not None else call.name.replace("_", " ")
        summary = result.summary or (known.summary if known is not None else None)
        self._show(call.call_id, call.name, title, state, write, summary)

    def _show(
        self, step_id: str, name: str, title: str, state: StepState, write: Write, summary: str | None = None
    ) -> None:
        step = self.steps[step_id] = Step(step_id, "tool", name[:64], title[:100], state, summary)
        write(Activity(step))


def _not_allowed(decision: Decision) -> Result:
    said = f" They say: {decision.comment}" if decision.comment else ""
    return Result(_NOT_ALLOWED[decision.decision] + said, is_done=False, summary="not allowed")

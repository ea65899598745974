"""Any compiled LangGraph graph over `MessagesState` as the twin, as it is.

The graph gets what is known of the user as a system message, the conversation, and the user's message; what its models
say is streamed, its nodes and tools are the answer's steps, and `interrupt()` asks the user. Its checkpoints are saved
by the run: an attempt after a killed one goes on behind the last step, and calls no tool a second time.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import structlog
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ToolMessage,
    convert_to_messages,
)
from langgraph.graph.state import CompiledStateGraph, StateGraph
from langgraph.types import Command, Interrupt

from twin_sio.agent import (
    Activity,
    Agent,
    AgentRequest,
    AnswerPart,
    Delta,
    Done,
    Reasoning,
    Stage,
    Suspended,
)
from twin_sio.agent.chunk_buffer import paragraphs, separator
from twin_sio.agent.langchain_model import text_of
from twin_sio.agent.model.answer import thought_of
from twin_sio.agent.prompt_loading import load_prompt
from twin_sio.agent.prompts import characters
from twin_sio.agent.run_saver import RunSaver
from twin_sio.agent.tools.calls import UNKNOWN, ended_state, plain
from twin_sio.config import ConfigError
from twin_sio.domain import ApprovalRequest, Decision, Step
from twin_sio.errors import InvalidMessage, ModelNoAnswer
from twin_sio.protocol import check_storable

if TYPE_CHECKING:
    from twin_sio.agent.factory import AgentServices

log = structlog.get_logger("agent")

_SHOWN_CHARACTERS: Final = 4_000
_MODES: Final = ["messages", "updates", "tasks"]


class GraphTakesNoMessages(ConfigError):
    """The graph's state, or its input, has no `messages`."""

    def __init__(self) -> None:
        super().__init__(
            "The graph of TWIN_GRAPH, or of TWIN_AGENT, takes no `messages`: its state and its input must have them, "
            "as LangGraph's MessagesState has."
        )


class AgentSaidNothing(Exception):
    """The graph came to its end without a message of the assistant, whether or not it asked a model."""


def _takes_messages(builder: StateGraph[Any, Any, Any, Any]) -> bool:
    return "messages" in builder.channels and "messages" in builder.schemas[builder.input_schema]


class LangGraphAgent(Agent):
    """Answers with somebody's graph. The graph may have a checkpointer of its own, which is not used."""

    def __init__(self, graph: Any, services: AgentServices) -> None:
        """Raises `GraphTakesNoMessages`."""
        if isinstance(graph, CompiledStateGraph) and not _takes_messages(graph.builder):
            raise GraphTakesNoMessages
        self._graph = graph
        self._services = services

    async def answer(self, ask: AgentRequest) -> AsyncGenerator[AnswerPart, None]:
        """See the port. The pieces of one message come as its model sends them."""
        yield Stage("recalling")
        prompt = await load_prompt(self._services.memory, ask, self._services.personas.text(ask.persona))
        built, used = prompt(self._services.budget_tokens)
        yield Stage("thinking")
        saver = RunSaver(ask.run)
        graph = self._graph.copy({"checkpointer": saver})
        config: Any = {"configurable": {"thread_id": ask.turn_id or ask.message_id}}
        given: Any = {"messages": convert_to_messages([dict(one) for one in built])}
        if saver.is_restored:
            given = _resumed(ask, saver.interrupts)
            if (given is None or saver.was_resumed) and await _settle_lost_calls(graph, config):
                given = None
            elif given is not None:
                await saver.resume()
        relay = _Relay(ask, self._services.model.name, characters(built))
        if saver.is_restored:
            for part in relay.restore(_since_asked((await _messages(graph, config))[0])):
                yield part
        async with aclosing(graph.astream(given, config, stream_mode=_MODES, durability="sync")) as events:
            async for mode, event in events:
                for part in relay.take(mode, event):
                    yield part
        if relay.requests:
            yield Suspended(tuple(relay.requests))
            return
        if not relay.said:  # no model streamed one
            added = _since_asked((await _messages(graph, config))[0])
            if not any(isinstance(one, AIMessage) for one in added):
                log.warning("agent_said_nothing", meaning="the graph added no AIMessage to `messages` before its end")
                raise AgentSaidNothing
            text = _text_of_all(added)
            if not text:
                raise ModelNoAnswer
            yield Delta(text)
        yield Done(relay.model, used, relay.usage or None)


class _Relay:
    """What a graph's events are for the user."""

    def __init__(self, ask: AgentRequest, model: str, prompt: int) -> None:
        self._ask = ask
        self.model = model
        self.said = ""
        self.requests: list[ApprovalRequest] = []
        self.usage: dict[str, int] = {}
        self._speaking: str | None = None  # the id of the message whose pieces come
        self._prompt = prompt  # its characters
        self._asked: str | None = None  # the id of the message that the model was asked for last
        ask.run.count_asked(prompt)

    def restore(self, messages: Sequence[BaseMessage]) -> list[AnswerPart]:
        """What earlier attempts have said and done, by the messages of the last checkpoint: what was shown of it may
        have been lost with them."""
        self.said = _text_of_all(messages)
        found: list[AnswerPart] = [Delta(self.said)] if self.said else []
        return [*found, *(part for message in messages for part in self._calls(message))]

    def take(self, mode: str, event: Any) -> Sequence[AnswerPart]:
        if mode == "messages":
            return self._message(event[0])
        if mode == "tasks":
            return self._task(event)
        found: list[AnswerPart] = []
        for node, update in event.items():
            if node == "__interrupt__":
                self.requests += [request for one in update for request in requests_of(self._ask, one)]
                continue
            said = update.get("messages", ()) if isinstance(update, Mapping) else ()
            for message in said if isinstance(said, list | tuple) else [said]:
                self._count(message)
                found += self._calls(message)
        return found

    def _message(self, message: BaseMessage) -> list[AnswerPart]:
        if not isinstance(message, AIMessage | AIMessageChunk):
            return []
        found: list[AnswerPart] = []
        if message.id != self._asked:
            if self._asked is not None:  # the first was counted before it came
                self._ask.run.count_asked(self._prompt + len(self.said))
            self._asked = message.id
        if thought := thought_of(message.additional_kwargs):
            found.append(Reasoning(thought))
        if text := text_of(message):
            if message.id != self._speaking:
                text = separator(self.said) + text
            self._speaking = message.id
            self.said += text
            found.append(Delta(text))
        return found

    def _count(self, message: object) -> None:
        for name, count in (message.usage_metadata or {}).items() if isinstance(message, AIMessage) else ():
            if isinstance(count, int):
                self.usage[name] = self.usage.get(name, 0) + count

    def _calls(self, message: object) -> list[AnswerPart]:
        """A whole message that a node has added: its calls of tools begin, or one has ended."""
        if isinstance(message, AIMessage):
            return [Activity(_step(str(call["id"]), "tool", call["name"], "started")) for call in message.tool_calls]
        if isinstance(message, ToolMessage):
            state = ended_state(text_of(message), is_done=message.status != "error")
            return [Activity(_step(str(message.tool_call_id), "tool", message.name or "tool", state))]
        return []

    def _task(self, event: Mapping[str, Any]) -> list[AnswerPart]:
        if event.get("interrupts"):
            return [Activity(_step(event["id"], "node", event["name"], "waiting"))]
        state = "failed" if event.get("error") else "done" if "result" in event else "started"
        return [Activity(_step(event["id"], "node", event["name"], state))]


def _step(step_id: str, kind: Any, name: str, state: Any) -> Step:
    return Step(step_id[:100], kind, plain(name[:64]), plain(name).replace("_", " ")[:100], state)


# -- interrupts ------------------------------------------------------------------------------------------------------


def _actions(value: object) -> list[Mapping[str, Any]]:
    """What an interrupt asks for: several actions, as LangChain's middleware has them, or one."""
    if isinstance(value, Mapping) and isinstance(value.get("action_requests"), list):
        return [one for one in value["action_requests"] if isinstance(one, Mapping)]
    return [value if isinstance(value, Mapping) else {"args": {"value": value}}]


def requests_of(ask: AgentRequest, interrupt: Interrupt) -> list[ApprovalRequest]:
    """What the user is asked for an interrupt."""
    found = []
    for nth, action in enumerate(_actions(interrupt.value)):
        arguments = action.get("args", action.get("arguments"))
        if not isinstance(arguments, Mapping):
            arguments = {"value": interrupt.value} if not isinstance(interrupt.value, Mapping) else interrupt.value
        arguments = _storable(arguments)
        name = plain(str(action.get("name") or action.get("action") or action.get("tool") or "interrupt")[:64])
        title = plain(str(action.get("description") or action.get("title") or name.replace("_", " "))[:200])
        call_id = f"call-{ask.digest(interrupt.id, nth)}"
        found.append(ApprovalRequest(call_id, name, title, arguments))
    return found


def _storable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A graph's arguments as a client can be sent them: whatever is no JSON as a text."""
    found: dict[str, Any] = json.loads(json.dumps(dict(arguments), default=str))
    try:
        check_storable(found, "arguments")
    except InvalidMessage:
        return {"text": plain(json.dumps(found))[:_SHOWN_CHARACTERS]}
    return found


def _resumed(ask: AgentRequest, interrupts: Sequence[Interrupt]) -> Any:
    """What the graph goes on with: the decisions on the interrupts that it stands at; None where it stands at none."""
    answers: dict[str, Any] = {}
    for one in interrupts:
        decisions = [ask.run.saved.decisions.get(request.approval_id) for request in requests_of(ask, one)]
        if not all(decisions):
            return None
        made = [decision for decision in decisions if decision is not None]
        answers[one.id] = _answer(one.value, made)
    return Command(resume=answers) if answers else None


def _answer(value: object, decisions: Sequence[Decision]) -> object:
    if isinstance(value, Mapping) and isinstance(value.get("action_requests"), list):
        pairs = zip(_actions(value), decisions, strict=True)
        return {"decisions": [_middleware_decision(action, decision) for action, decision in pairs]}
    decision = decisions[0]
    found: dict[str, Any] = {"decision": decision.decision}
    if decision.arguments is not None:
        found["arguments"] = dict(decision.arguments)
    if decision.comment is not None:
        found["comment"] = decision.comment
    return found


def _middleware_decision(action: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    if decision.decision == "edit":
        edited = {"name": action.get("name"), "args": dict(decision.arguments or {})}
        return {"type": "edit", "edited_action": edited}
    if decision.decision == "approve":
        return {"type": "approve"}
    return {"type": "reject", "message": decision.comment or "The person did not allow this."}


# -- after a killed attempt ------------------------------------------------------------------------------------------


async def _settle_lost_calls(graph: Any, config: Any) -> bool:
    """Calls of tools that the killed attempt may have made are not made again: their result is that nobody knows.
    Whether there were any."""
    messages, after = await _messages(graph, config)
    last = messages[-1] if messages else None
    if not (isinstance(last, AIMessage) and last.tool_calls and after):
        return False
    lost = [
        ToolMessage(UNKNOWN, tool_call_id=str(call["id"]), name=call["name"], status="error")
        for call in last.tool_calls
    ]
    await graph.aupdate_state(config, {"messages": lost}, as_node=after[0])
    return True


def _since_asked(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """The messages behind the last one of the user."""
    asked = max((n for n, message in enumerate(messages) if message.type == "human"), default=-1)
    return messages[asked + 1 :]


def _text_of_all(messages: Sequence[BaseMessage]) -> str:
    """What the graph's models have said in these messages."""
    return paragraphs(text_of(message) for message in messages if message.type == "ai")


async def _messages(graph: Any, config: Any) -> tuple[Sequence[BaseMessage], Sequence[str]]:
    """The messages of the last checkpoint, and the nodes that come next."""
    state = await graph.aget_state(config)
    return (state.values.get("messages", []) if isinstance(state.values, Mapping) else []), state.next

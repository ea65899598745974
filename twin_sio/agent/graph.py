"""The twin as a LangGraph graph: recall -> respond, and act -> respond for as long as the model calls tools.

What a killed attempt leaves is saved by the run (`agent.loop`), so the graph has no checkpointer. Tokens are gathered
before they reach the graph's writer: each item costs on its way through the graph, and a stream of items is cheaper
than a stream of tokens. `stream_mode="custom"` is the only mode that adds next to nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Literal, Protocol, TypedDict, cast

import langsmith
from langgraph.graph import END, START, StateGraph
from langgraph.types import StreamWriter

from twin_sio.agent import (
    Agent,
    AgentRequest,
    AnswerPart,
    Delta,
    Done,
    Memory,
    Reasoning,
    Stage,
    prompts,
)
from twin_sio.agent.chunk_buffer import ChunkBuffer, paragraphs
from twin_sio.agent.loop import LOOP_S, STEPS_MAX, STEPS_OVER, Loop
from twin_sio.agent.model import Finished, Thought, tokens
from twin_sio.agent.prompt_loading import Prompt, load_prompt
from twin_sio.agent.tools import Tool, tool_of_host
from twin_sio.clock import monotonic
from twin_sio.domain import Json
from twin_sio.errors import ModelContextTooLong, ModelNoAnswer, ServiceError
from twin_sio.observability.tracing import span

SHARES: Final = (1, 2, 8)  # of the prompt's budget, tried in turn where the prompt is too long for the model

langsmith.configure(enabled=False)  # whatever the environment says: what users say is sent to the model alone


class ChatModel(Protocol):
    """What the twin needs of a model: `agent.model.OpenAIModel` is one, and `agent.langchain_model` makes one of any
    chat model of LangChain."""

    @property
    def name(self) -> str: ...

    def stream(
        self, messages: Sequence[prompts.PromptMessage], tools: Sequence[Json] = ()
    ) -> AsyncGenerator[str | Thought | Finished, None]:
        """The answer's tokens, what the model thinks, and one `Finished`; see `OpenAIModel.stream`."""
        ...


_NO_TOOLS: Final[Mapping[str, Tool]] = {}


class _PlainState(TypedDict, total=False):
    ask: AgentRequest
    prompt: Prompt


class _State(_PlainState, total=False):
    """Of an answer that may have tools: each field costs every answer, so the plain one has fewer."""

    tools: Mapping[str, Tool]
    loop: Loop  # missing: there are no tools
    until: float  # monotonic
    goes_on: bool


class TwinAgent(Agent):
    """Answers as the user's twin, from their profile, the conversation so far and the host's context, with `tools`.

    `tools` are asked for at each answer, as servers of tools come and go; with `takes_host_tools` what the user's apps
    offer comes to them. `persona` gives the text of a persona by its name.
    """

    def __init__(
        self,
        memory: Memory,
        model: ChatModel,
        *,
        budget_tokens: int,
        chunk_interval_ms: int,
        tools: Callable[[], Sequence[Tool]] | None = None,
        takes_host_tools: bool = False,
        persona: Callable[[str], str] = lambda _: prompts.PERSONA,
    ) -> None:
        self._memory = memory
        self._model = model
        self._budget_tokens = budget_tokens
        self._interval_s = chunk_interval_ms / 1000
        self._tools = tools
        self._takes_host_tools = takes_host_tools
        self._persona = persona
        is_plain = tools is None and not takes_host_tools
        graph: StateGraph[Any] = StateGraph(_PlainState if is_plain else _State)
        graph.add_node("recall", self._recall)
        graph.add_node("respond", self._respond)
        graph.add_edge(START, "recall")
        if is_plain:
            graph.add_edge("recall", "respond")
            graph.add_edge("respond", END)
        else:
            graph.add_node("act", self._act)
            graph.add_conditional_edges("recall", _open_calls)
            graph.add_conditional_edges("respond", _next)
            graph.add_conditional_edges("act", _next_of_act)
        self._graph: Any = graph.compile()
        if not is_plain:
            self._graph = self._graph.with_config(recursion_limit=2 * (STEPS_MAX + STEPS_OVER) + 10)

    async def answer(self, ask: AgentRequest) -> AsyncGenerator[AnswerPart, None]:
        """See the port. Read it under `contextlib.aclosing`: only closing ends the model's call at once."""
        async with aclosing(self._graph.astream({"ask": ask}, stream_mode="custom")) as parts:
            async for part in parts:
                if isinstance(part, ServiceError):
                    raise part
                yield cast(AnswerPart, part)

    # -- nodes -------------------------------------------------------------------------------------------------------

    async def _recall(self, state: _State, writer: StreamWriter) -> _State:
        writer(Stage("recalling"))
        ask = state["ask"]
        with span("recall"):
            found: _State = {"prompt": await load_prompt(self._memory, ask, self._persona(ask.persona))}
        tools = await self._tools_for(ask)
        # What was begun with tools goes on without: an app that is away does not undo what was said and allowed.
        if not tools and not ask.run.saved.state:
            return found
        ask.run.begin_loop()
        loop = Loop.restored(ask.run.saved.state)
        loop.show_again(writer)
        return {**found, "tools": tools, "loop": loop, "until": monotonic() + LOOP_S}

    async def _tools_for(self, ask: AgentRequest) -> Mapping[str, Tool]:
        """What can be called for this answer, by name; an app's tool stands behind one of ours of the same name."""
        offered = [tool_of_host(ask, one) for one in await ask.run.host_tools()] if self._takes_host_tools else []
        own = self._tools() if self._tools is not None else ()
        return {tool.name: tool for tool in (*offered, *own)} if offered or own else _NO_TOOLS

    async def _respond(self, state: _State, writer: StreamWriter) -> _State:
        writer(Stage("thinking"))
        loop = state.get("loop")
        if loop is not None:
            loop.take_in(await state["ask"].run.steering())
        before = loop.text if loop is not None else ""
        gathered = ChunkBuffer(lambda text: writer(Delta(text)), self._interval_s, before)
        thoughts = ChunkBuffer(lambda text: writer(Reasoning(text)), self._interval_s)
        goes_on = False
        try:
            for share in SHARES:
                try:
                    goes_on = await self._stream(state, self._budget_tokens // share, gathered, thoughts, writer)
                    break
                except ModelContextTooLong:
                    if gathered.begun or share == SHARES[-1]:
                        raise
        except ServiceError as failure:
            # As an item: its place behind the deltas must not hang on when the graph lets an exception out.
            gathered.flush()
            writer(failure)
        finally:
            gathered.drop()
            thoughts.drop()
        return {"goes_on": goes_on} if loop is not None else {}

    async def _stream(
        self, state: _State, budget: int, gathered: ChunkBuffer, thoughts: ChunkBuffer, writer: StreamWriter
    ) -> bool:
        """Stream one answer of the model; whether it calls tools."""
        loop = state.get("loop")
        messages, used = state["prompt"](budget)
        offered: Sequence[Json] = ()
        if loop is not None:
            messages = [*messages, *loop.messages]
            offered = [tool.offered() for tool in state["tools"].values()]
        state["ask"].run.count_asked(prompts.characters(messages) + sum(len(str(tool)) for tool in offered))
        goes_on = False
        with span("model answer") as call:
            async with aclosing(self._model.stream(messages, offered)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        if not gathered.begun:
                            thoughts.flush()
                        gathered.add(piece)
                    elif isinstance(piece, Thought):
                        thoughts.add(piece.text)
                    else:
                        thoughts.flush()
                        gathered.flush()
                        call.set(**tokens(piece.usage))
                        # Read on to the end: only then is its connection good for another answer.
                        goes_on = self._finished(state, piece, used, gathered.text, writer)
        return goes_on

    def _finished(self, state: _State, piece: Finished, used: tuple[str, ...], text: str, writer: StreamWriter) -> bool:
        """The model's answer has ended; whether it goes on with tools."""
        loop, usage = state.get("loop"), piece.usage
        text = text[piece.not_said :]
        cut = None if piece.reason == "stop" else piece.reason
        if loop is not None:
            loop.asked += 1
            loop.count_usage(usage)
            usage = loop.usage or None
            if piece.calls and loop.asked <= STEPS_MAX + STEPS_OVER and monotonic() < state["until"]:
                loop.said.append(text)
                loop.add_answer(state["ask"], text, piece.calls, piece.reasoning)
                return True
            cut = "length" if piece.calls else cut
        if not text and not (loop is not None and loop.text):
            raise ModelNoAnswer  # calls of tools that there are not
        earlier = loop.said if loop is not None else ()
        whole = paragraphs([*earlier, text]) if earlier or piece.not_said else None
        writer(Done(self._model.name, used, usage, cut, whole))
        return False

    async def _act(self, state: _State, writer: StreamWriter) -> _State:
        try:
            goes_on = await state["loop"].act(state["ask"], state["tools"], writer)
        except ServiceError as failure:
            writer(failure)
            goes_on = False
        return {"goes_on": goes_on}


def _open_calls(state: _State) -> Literal["act", "respond"]:
    loop = state.get("loop")
    return "act" if loop is not None and loop.is_open else "respond"


def _next(state: _State) -> str:
    return "act" if state.get("goes_on") else END


def _next_of_act(state: _State) -> str:
    return "respond" if state["goes_on"] else END

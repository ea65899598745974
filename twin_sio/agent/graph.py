"""The twin as a LangGraph graph: recall -> respond. The messages are its state, so it has no checkpointer.

Tokens are gathered before they reach the graph's writer: each item costs on its way through the graph, and a stream
of items is cheaper than a stream of tokens. `stream_mode="custom"` is the only mode that adds next to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol, TypedDict, cast

import langsmith
from langgraph.graph import END, START, StateGraph
from langgraph.types import StreamWriter

from twin_sio.agent import Agent, AgentRequest, Delta, Done, Memory, Stage, Step, prompts
from twin_sio.agent.model import Finished, tokens
from twin_sio.errors import ModelContextTooLong, ServiceError
from twin_sio.observability.tracing import span

SHARES: Final = (1, 2, 8)  # of the prompt's budget, tried in turn where the prompt is too long for the model
HISTORY_LINES: Final = 60  # what is fetched at most; the token budget decides what is used

langsmith.configure(enabled=False)  # whatever the environment says: what users say is sent to the model alone


class ChatModel(Protocol):
    """What the twin needs of a model."""

    @property
    def name(self) -> str: ...

    def stream(self, messages: Sequence[prompts.PromptMessage]) -> AsyncGenerator[str | Finished, None]: ...


# By a budget in tokens: the messages, and the ids of the traits in them.
_Prompt = Callable[[int], tuple[list[prompts.PromptMessage], tuple[str, ...]]]


class _State(TypedDict, total=False):
    ask: AgentRequest
    prompt: _Prompt


class TwinAgent(Agent):
    """Answers as the user's twin, from their profile, the conversation so far and the host's context."""

    def __init__(self, memory: Memory, model: ChatModel, *, budget_tokens: int, chunk_interval_ms: int) -> None:
        self._memory = memory
        self._model = model
        self._budget_tokens = budget_tokens
        self._interval_s = chunk_interval_ms / 1000
        graph = StateGraph(_State)
        graph.add_node("recall", self._recall)
        graph.add_node("respond", self._respond)
        graph.add_edge(START, "recall")
        graph.add_edge("recall", "respond")
        graph.add_edge("respond", END)
        self._graph: Any = graph.compile()

    async def answer(self, ask: AgentRequest) -> AsyncGenerator[Step, None]:
        """See the port. Read it under `contextlib.aclosing`: only closing ends the model's call at once."""
        async with aclosing(self._graph.astream({"ask": ask}, stream_mode="custom")) as steps:
            async for step in steps:
                if isinstance(step, ServiceError):
                    raise step
                yield cast(Step, step)

    async def _recall(self, state: _State, writer: StreamWriter) -> _State:
        writer(Stage("recalling"))
        ask = state["ask"]
        with span("recall"):
            history, known, context, past = await asyncio.gather(
                self._memory.history(ask, HISTORY_LINES),
                self._memory.known(ask.user_id),
                self._memory.context(ask.user_id),
                self._memory.past(ask),
            )
        return {
            "prompt": lambda budget: prompts.build(ask.text, history, known, context, budget_tokens=budget, past=past)
        }

    async def _respond(self, state: _State, writer: StreamWriter) -> _State:
        writer(Stage("thinking"))
        gathered = _ChunkBuffer(lambda text: writer(Delta(text)), self._interval_s)
        try:
            for share in SHARES:
                try:
                    await self._stream(state["prompt"], self._budget_tokens // share, gathered, writer)
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
        return {}

    async def _stream(self, prompt: _Prompt, budget: int, gathered: _ChunkBuffer, writer: StreamWriter) -> None:
        messages, used = prompt(budget)
        with span("model answer") as call:
            async with aclosing(self._model.stream(messages)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        gathered.add(piece)
                        continue
                    gathered.flush()
                    call.set(**tokens(piece.usage))
                    cut = None if piece.reason == "stop" else piece.reason
                    writer(Done(self._model.name, used, piece.usage, cut))


class _ChunkBuffer:
    """Hands the first piece on at once, and what comes after it at most once per interval."""

    def __init__(self, send: Callable[[str], None], interval_s: float) -> None:
        self._send = send
        self._interval_s = interval_s
        self._pieces: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self.begun = False

    def add(self, text: str) -> None:
        self._pieces.append(text)
        if not self.begun or not self._interval_s:
            self.begun = True
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self.flush)

    def flush(self) -> None:
        """Hand on what is held."""
        text = "".join(self._pieces)
        self.drop()
        if text:
            self._send(text)

    def drop(self) -> None:
        """Forget what is held, and the timer."""
        self._pieces.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

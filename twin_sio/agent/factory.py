"""Make the twin yours: what a factory is given, and what agents are made of.

`TWIN_AGENT=package.module:function` names a `Factory`. Our own agent is made by one, `twin`, from public names alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool

from twin_sio.agent import Agent, Memory
from twin_sio.agent.graph import ChatModel, TwinAgent
from twin_sio.agent.langchain_model import EndpointChatModel, LangChainModel
from twin_sio.agent.langgraph_agent import LangGraphAgent
from twin_sio.agent.personas import Personas
from twin_sio.agent.tools import Tool, tool_of

__all__ = ["Agent", "AgentServices", "Factory", "Tool", "tool_of", "twin"]


@dataclass(frozen=True, slots=True)
class AgentServices:
    """What an agent may use. `tools` gives those of the MCP servers as they are now; `None`: none are set.
    `takes_host_tools`: apps may offer tools. Times in ms, budgets in tokens, as in the settings."""

    memory: Memory
    model: ChatModel
    personas: Personas
    tools: Callable[[], Sequence[Tool]] | None
    takes_host_tools: bool
    budget_tokens: int
    chunk_interval_ms: int

    def chat_model(self) -> BaseChatModel:
        """The service's model for LangChain and LangGraph, with its retries, timeouts and dialects."""
        return EndpointChatModel(endpoint=self.model)

    def graph_agent(self, graph: Any) -> Agent:
        """An agent of a compiled LangGraph graph over `MessagesState`: it is given what is known of the user as a
        system message, the conversation so far, and the user's message; its messages are streamed. Raises `ConfigError`
        for a graph without `messages`."""
        return LangGraphAgent(graph, self)


Factory = Callable[[AgentServices], Agent]


def twin(
    services: AgentServices,
    *,
    tools: Sequence[Tool | BaseTool | Callable[..., Any]] = (),
    model: BaseChatModel | None = None,
) -> Agent:
    """Our own agent; with more tools, or with any chat model of LangChain in place of the endpoint's."""
    own = [tool if isinstance(tool, Tool) else tool_of(tool) for tool in tools]
    others = services.tools
    every = (lambda: [*own, *(others() if others is not None else ())]) if own or others is not None else None
    return TwinAgent(
        services.memory,
        LangChainModel(model) if model is not None else services.model,
        budget_tokens=services.budget_tokens,
        chunk_interval_ms=services.chunk_interval_ms,
        tools=every,
        takes_host_tools=services.takes_host_tools,
        persona=services.personas.text,
    )

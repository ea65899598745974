"""Makes the agent that the settings name: of our own factory, of another, or of a LangGraph graph."""

from __future__ import annotations

import importlib
import sys
from contextlib import AsyncExitStack
from typing import Any

from twin_sio.agent import Agent, Memory
from twin_sio.agent.factory import AgentServices, twin
from twin_sio.agent.graph import ChatModel
from twin_sio.agent.personas import Personas
from twin_sio.config import ConfigError, Settings


async def build_agent(settings: Settings, memory: Memory, model: ChatModel, stack: AsyncExitStack) -> Agent:
    """The agent; `stack` closes what it is connected to. Raises `ConfigError` for what cannot be loaded."""
    chosen = settings.agent
    if chosen.factory and chosen.graph:
        raise ConfigError("TWIN_AGENT and TWIN_GRAPH are both set: unset one of them.")
    tools = None
    if chosen.mcp_servers:
        try:
            from twin_sio.agent.tools.mcp import McpTools  # an optional extra
        except ImportError:
            raise ConfigError("TWIN_MCP_SERVERS needs the extra `mcp`: pip install 'twin-sio[mcp]'.") from None
        servers = McpTools(chosen.mcp_servers)
        stack.push_async_callback(servers.close)
        await servers.start()
        tools = servers.tools
    services = AgentServices(
        memory=memory,
        model=model,
        personas=Personas.of(chosen),
        tools=tools,
        takes_host_tools=chosen.host_tools,
        budget_tokens=settings.model.prompt_budget_tokens,
        chunk_interval_ms=settings.tuning.chunk_interval_ms,
    )
    if chosen.graph:
        graph = loaded(chosen.graph, "TWIN_GRAPH")
        if not hasattr(graph, "astream") or not hasattr(graph, "copy"):
            raise ConfigError(f"TWIN_GRAPH: {chosen.graph} is no compiled LangGraph graph (call .compile()).")
        return services.graph_agent(graph)
    if not chosen.factory:
        return twin(services)
    factory = loaded(chosen.factory, "TWIN_AGENT")
    if not callable(factory):
        raise ConfigError(f"TWIN_AGENT: {chosen.factory} is no function.")
    try:
        agent = factory(services)
    except Exception as error:
        raise ConfigError(f"TWIN_AGENT: {chosen.factory} has failed ({type(error).__name__}).") from error
    if not hasattr(agent, "answer"):
        raise ConfigError(f"TWIN_AGENT: {chosen.factory} gave no agent (an object with `answer`).")
    made: Agent = agent
    return made


def loaded(place: str, variable: str) -> Any:
    """What stands at `package.module:name`; modules of the current folder are found, too."""
    module, _, name = place.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise ConfigError(f"{variable}: the module {missing} is not found; it must be on PYTHONPATH.") from error
    except Exception as error:
        raise ConfigError(f"{variable}: {module} cannot be imported ({type(error).__name__}).") from error
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ConfigError(f"{variable}: {module} has no {name}.") from None
    return found

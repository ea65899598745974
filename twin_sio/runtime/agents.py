"""Makes the agent that the settings name: of our own factory, of another, or of a LangGraph graph."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from twin_sio.agent import Agent, Memory
from twin_sio.agent.factory import AgentServices, twin
from twin_sio.agent.graph import ChatModel
from twin_sio.agent.personas import Personas
from twin_sio.agent.tools import Tool
from twin_sio.config import ConfigError, Settings
from twin_sio.runtime.user_code import failure_in, place_in


async def build_agent(settings: Settings, memory: Memory, model: ChatModel, stack: AsyncExitStack) -> Agent:
    """The agent; `stack` closes what it is connected to. Raises `ConfigError` for what cannot be loaded."""
    _check_choice(settings)
    tools = None
    if settings.agent.mcp_servers:
        try:
            from twin_sio.agent.tools.mcp import McpTools  # an optional extra
        except ImportError:
            raise ConfigError("TWIN_MCP_SERVERS needs the extra `mcp`: pip install 'twin-sio[mcp]'.") from None
        servers = McpTools(settings.agent.mcp_servers)
        stack.push_async_callback(servers.close)
        await servers.start()
        tools = servers.tools
    return made_agent(settings, memory, model, tools)


def made_agent(
    settings: Settings, memory: Memory, model: ChatModel, tools: Callable[[], Sequence[Tool]] | None
) -> Agent:
    """The agent over these parts, which are not used yet. Raises `ConfigError` for what cannot be loaded."""
    chosen = settings.agent
    _check_choice(settings)
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
    return _of_factory(chosen.factory, services) if chosen.factory else twin(services)


def _check_choice(settings: Settings) -> None:
    if settings.agent.factory and settings.agent.graph:
        raise ConfigError("TWIN_AGENT and TWIN_GRAPH are both set: unset one of them.")


def _of_factory(place: str, services: AgentServices) -> Agent:
    factory = loaded(place, "TWIN_AGENT")
    if not callable(factory):
        raise ConfigError(f"TWIN_AGENT: {place} is no function.")
    try:
        agent = factory(services)
    except ConfigError:  # it says what to do
        raise
    except (Exception, SystemExit) as error:
        failure = failure_in(_module_of(place), error)
        raise ConfigError(f"TWIN_AGENT: {place} has failed ({failure}).") from error
    if inspect.iscoroutine(agent):
        agent.close()
        raise ConfigError(f"TWIN_AGENT: {place} is an async function: make it a plain `def` that returns the agent.")
    if not hasattr(agent, "answer"):
        raise ConfigError(f"TWIN_AGENT: {place} gave no agent (an object with `answer`).")
    made: Agent = agent
    return made


def loaded(place: str, variable: str) -> Any:
    """What stands at `package.module:name`; modules of the current folder are found, too."""
    module, name = _module_of(place), place.partition(":")[2]
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{variable}: {_not_imported(module, error)}") from error
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ConfigError(f"{variable}: {module} has no {name}.") from None
    return found


def _module_of(place: str) -> str:
    return place.partition(":")[0]


def _not_imported(module: str, error: BaseException) -> str:
    at = place_in(module, error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        if not at:
            return f"the module {error.name} is not found; it must be on PYTHONPATH."
        return f"{module} cannot be imported: the module {error.name}, which {at} imports, is not installed."
    return f"{module} cannot be imported ({failure_in(module, error)})."

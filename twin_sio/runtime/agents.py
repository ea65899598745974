"""Makes the agent that the settings name: of our own factory, of another, or of a LangGraph graph."""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import twin_sio
from twin_sio.agent import Agent, Memory
from twin_sio.agent.factory import AgentServices, twin
from twin_sio.agent.graph import ChatModel
from twin_sio.agent.personas import Personas
from twin_sio.agent.tools import Tool
from twin_sio.config import ConfigError, Settings

_LIBRARIES = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_LIBRARIES.append(Path(twin_sio.__file__).resolve().parent)


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
        failure = _failure_in(_module_of(place), error)
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
    at = _place_in(module, error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        if not at:
            return f"the module {error.name} is not found; it must be on PYTHONPATH."
        return f"{module} cannot be imported: the module {error.name}, which {at} imports, is not installed."
    return f"{module} cannot be imported ({_failure_in(module, error)})."


# -- where in the user's own code something has failed; never what it said, which may quote a secret ------------------


def _failure_in(module: str, error: BaseException) -> str:
    """The kind of the failure, and the place in the user's code that it has come from, if any."""
    place = _place_in(module, error)
    return type(error).__name__ + (f" at {place}" if place else "")


def _place_in(module: str, error: BaseException) -> str:
    """`file:line`: the innermost line of the package of `module`, or of what is no library; empty where there is
    none."""
    if isinstance(error, SyntaxError) and error.lineno and Path(error.filename or "").is_file():
        return f"{_shown(error.filename or '')}:{error.lineno}"
    package = module.partition(".")[0]
    lines = [at for at in traceback.walk_tb(error.__traceback__) if _is_own(package, at[0])]
    return f"{_shown(lines[-1][0].f_code.co_filename)}:{lines[-1][1]}" if lines else ""


def _is_own(package: str, frame: FrameType) -> bool:
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package:
        return True
    file = Path(frame.f_code.co_filename)
    return file.is_file() and not any(file.resolve().is_relative_to(library) for library in _LIBRARIES)


def _shown(file: str) -> str:
    path = Path(file).resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)

"""What the twin can do beside talking: tools, and how they are called.

`Tool` is one tool, made by `tool_of` from a plain typed function or a LangChain tool, by `tool_of_host` from what the
user's apps offer; `calls` runs what a model asks for, `schemas` checks its arguments, `mcp` connects to MCP servers.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.tools import BaseTool, StructuredTool

from twin_sio.agent import AgentRequest
from twin_sio.domain import HostTool, Json

_TIMEOUT_S: Final = 30.0
_HOST_TIMEOUT_S: Final = 60.0
# Of tools that are no coroutines: one that hangs takes a thread from other tools, and from nothing else.
_THREADS: Final = 32


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Of the call that is being made. `call_id` is the same however often the call is made: the key by which what
    has an effect is known to be a repeat. `progress` shows the user a line."""

    user_id: str
    conversation_id: str
    call_id: str
    progress: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool. `parameters` is the JSON schema of its arguments, `title` what people see.

    One that `needs_approval` is called after its user has allowed the call. One that `is_repeatable` is called again
    where an instance died during a call; of any other nobody then knows whether it was done, and it is said so.
    `is_checked`: the arguments are held against `parameters` before the call.
    """

    name: str
    description: str
    parameters: Json
    run: Callable[[Json], Awaitable[object]]
    title: str = ""
    needs_approval: bool = False
    is_repeatable: bool = False
    is_checked: bool = True
    timeout_s: float = _TIMEOUT_S

    def offered(self) -> Json:
        """As the model's API has it."""
        about = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": about}


_current: ContextVar[ToolContext] = ContextVar("twin_tool")
_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="tool")


def tool_context() -> ToolContext:
    """The context of the call that is being made. Raises `LookupError` outside of one."""
    return _current.get()


def set_tool_context(context: ToolContext) -> None:
    """From now on, in this task, `tool_context` gives this one."""
    _current.set(context)


def tool_of(
    tool: BaseTool | Callable[..., Any],
    *,
    title: str = "",
    needs_approval: bool = False,
    is_repeatable: bool = False,
    timeout_s: float = _TIMEOUT_S,
) -> Tool:
    """A tool of the twin from a LangChain tool, or from a typed function with a docstring. What is no coroutine runs in
    a thread. Raises `ValueError` for a function without a docstring."""
    made = tool if isinstance(tool, BaseTool) else _structured(tool)
    parameters = made.tool_call_schema if isinstance(made.tool_call_schema, dict) else None
    return Tool(
        made.name,
        made.description,
        parameters if parameters is not None else made.tool_call_schema.model_json_schema(),  # type: ignore[union-attr]
        _runner(made),
        title or made.name.replace("_", " "),
        needs_approval,
        is_repeatable,
        timeout_s=timeout_s,
    )


def _structured(function: Callable[..., Any]) -> BaseTool:
    if inspect.iscoroutinefunction(function):
        return StructuredTool.from_function(coroutine=function)
    return StructuredTool.from_function(function)


def _runner(tool: BaseTool) -> Callable[[Json], Awaitable[object]]:
    is_coroutine = (
        tool.coroutine is not None if isinstance(tool, StructuredTool) else type(tool)._arun is not BaseTool._arun
    )

    async def run(arguments: Json) -> object:
        if is_coroutine:
            return await tool.ainvoke(dict(arguments))
        copied = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(_pool, lambda: copied.run(tool.invoke, dict(arguments)))

    return run


class HostError(Exception):
    """The app says that its tool has failed; the text is the app's own, for the model."""


def tool_of_host(ask: AgentRequest, offered: HostTool) -> Tool:
    """A tool that an app offers: it runs on the user's device. Calling it again under the same call's id asks for its
    result, and has no second effect."""

    async def run(arguments: Json) -> object:
        result = await ask.run.call_host(tool_context().call_id, offered, arguments, _HOST_TIMEOUT_S)
        if error := result.get("error"):
            raise HostError(error)
        return result.get("output")

    return Tool(
        offered.name,
        offered.description,
        offered.parameters or {"type": "object", "properties": {}},
        run,
        offered.name.replace("_", " "),
        offered.needs_approval,
        is_repeatable=True,
        # The app checks: a schema that anybody may send can be made to take for ever.
        is_checked=False,
        timeout_s=_HOST_TIMEOUT_S + 1.0,
    )

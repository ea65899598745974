"""Tools that the user's apps offer: they run on the user's device.

An app checks the arguments of its own tools: a schema that anybody may send can be made to take for ever.
"""

from __future__ import annotations

from typing import Final

from twin_sio.agent import AgentRequest
from twin_sio.agent.tools import Tool, tool_context
from twin_sio.domain import HostTool, Json

HOST_TIMEOUT_S: Final = 60.0


class HostError(Exception):
    """The app says that its tool has failed; the text is the app's own, for the model."""


def tool_of_host(ask: AgentRequest, offered: HostTool) -> Tool:
    """The tool. Calling it again under the same call's id asks for its result, and has no second effect."""

    async def run(arguments: Json) -> object:
        result = await ask.run.call_host(tool_context().call_id, offered, arguments, HOST_TIMEOUT_S)
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
        is_checked=False,
        timeout_s=HOST_TIMEOUT_S + 1.0,
    )

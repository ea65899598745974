"""The agent of the tests in a browser: our own, with a tool that is called at once and one that waits for its user."""

from __future__ import annotations

from typing import Any

from twin_sio.agent.factory import AgentServices, tool_of, twin
from twin_sio.agent.tools import tool_context


def find_flights(city: str) -> str:
    """Finds flights."""
    tool_context().progress(f"3 flights to {city}")
    return f"3 flights to {city}"


def send_mail(to: str, text: str, copies: int = 1, urgent: bool = False, tags: list[str] | None = None) -> str:
    """Sends a mail."""
    return f"Sent to {to}: {text} ({copies}, {urgent}, {tags})"


def agent(services: AgentServices) -> Any:
    """Named by TWIN_AGENT."""
    return twin(
        services,
        tools=[
            tool_of(find_flights, title="Find flights"),
            tool_of(send_mail, title="Send the mail", needs_approval=True),
        ],
    )

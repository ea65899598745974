"""The agent of the fault tests: tools that leave a line in a file for each time that they were called."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from twin_sio.agent.factory import AgentServices, tool_of, twin

CALLED = "FAULTS_CALLED"
"""The variable that names the file."""
SLOW_S = 0.7


def called(what: str) -> None:
    """Note a call: one write of a line, whichever process does it."""
    with Path(os.environ[CALLED]).open("a") as file:
        file.write(f"{what}\n")


async def pay(what: str) -> str:
    """Pays; it takes a while, and must never be done twice."""
    called(what)
    await asyncio.sleep(SLOW_S)
    return f"Paid: {what}"


async def order(what: str) -> str:
    """Orders, once the user has allowed it."""
    called(what)
    return f"Ordered: {what}"


def agent(services: AgentServices) -> Any:
    return twin(services, tools=[tool_of(pay), tool_of(order, needs_approval=True)])

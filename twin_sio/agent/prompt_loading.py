"""Loads what a prompt is made of from the memory, all at once; both agents begin so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from twin_sio.agent import AgentRequest, Memory, prompts
from twin_sio.clock import now

_HISTORY_LINES: Final = 60  # what is fetched at most; the token budget decides what is used

Prompt = Callable[[int], tuple[list[prompts.PromptMessage], tuple[str, ...]]]
"""By a budget in tokens: the messages, and the ids of the traits in them."""


async def load_prompt(memory: Memory, ask: AgentRequest, persona: str) -> Prompt:
    """The prompt for a message. Raises `StorageUnavailable`."""
    history, known, context, past = await asyncio.gather(
        memory.history(ask, _HISTORY_LINES), memory.known(ask.user_id), memory.context(ask.user_id), memory.past(ask)
    )
    return lambda budget: prompts.build(
        ask.text, history, known, context, budget_tokens=budget, today=now().date(), past=past, persona=persona
    )

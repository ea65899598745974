"""The Python page of docs/clients: its samples run as they stand, against the real service."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

from tests.conftest import token_of
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually

PAGE = Path(__file__).parent.parent / "docs" / "clients" / "python.md"
SAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def defined_by(sample: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(sample, str(PAGE), "exec"), names)
    return names


async def test_the_sample_of_our_client_runs(url: str, user: str, model: ScriptedModel) -> None:
    async def fresh_token() -> str:
        return token_of(user)

    texts, last_seq = await defined_by(SAMPLES[0])["talk"](url, fresh_token)
    assert texts == [model.answer_to("What did I want to cook tonight?"), model.answer_to("And tomorrow?")]
    assert last_seq == 4


async def test_the_librarys_sample_survives_a_lost_connection(url: str, user: str, model: ScriptedModel) -> None:
    """The sample of the library alone loses nothing over a lost connection."""

    async def fresh_token() -> str:
        return token_of(user)

    twin = defined_by(SAMPLES[1])["Twin"](url, fresh_token, "bare")
    running = asyncio.create_task(twin.run())
    try:
        await eventually(lambda: twin.last_seq is not None)
        twin.say("before")
        await eventually(lambda: twin.last_seq == 2)
        await twin.socket.eio.ws.close()
        twin.say("while it is away")
        await eventually(lambda: twin.last_seq == 4)
        assert twin.outbox == {}
        answers = [payload["text"] for name, payload in twin.shown if name == "twin_message"]
        assert answers == [model.answer_to("before"), model.answer_to("while it is away")]
        refused = twin.say("x" * 9_000)
        await eventually(lambda: refused not in twin.outbox)
        assert twin.shown[-1][1]["code"] == "invalid_message"
    finally:
        await twin.socket.disconnect()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

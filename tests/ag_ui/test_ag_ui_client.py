"""The real AG-UI client of npm, in Node, against the service. `tools/js.sh` installs it and runs these."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import token_of, url_of
from tests.scripted_model import ScriptedModel
from tests.test_service_tools import Opened, booking, calls, made, opened, town, words

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not (HERE / "node_modules").exists(), reason="tools/js.sh installs the client")

__all__ = ["opened", "town"]  # fixtures of the tests of tools


async def client(url: str, token: str, *arguments: str) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """What the client has in the end, and the types of each run's events."""
    node = await asyncio.create_subprocess_exec(
        "node", str(HERE / "client.mjs"), url, token, *arguments, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await node.communicate()
    assert node.returncode == 0
    seen = json.loads(printed)
    return seen["messages"], seen["runs"]


async def test_the_client_has_the_answer(opened: Opened, model: ScriptedModel, user: str) -> None:
    said = words()
    model.script(contains=said, tokens=("One ", "answer", "."))
    (question, answer), (events,) = await client(url_of(await opened()), token_of(user), said)
    assert (question["content"], answer["role"], answer["content"]) == (said, "assistant", "One answer.")
    assert (events[0], events[-1]) == ("RUN_STARTED", "RUN_FINISHED")


async def test_the_client_has_calls_results_and_reasoning_in_their_place(
    opened: Opened, model: ScriptedModel, user: str, town: str
) -> None:
    said = words()
    first = {"reasoning": ("let me look",), "tokens": ("Let me look.",), "calls": calls("weather", city=town)}
    model.script(contains=said, streams=True, answered=0, **first)
    model.script(contains=said, streams=True, answered=1, tokens=("It rains.",))
    messages, _ = await client(url_of(await opened(agent__shows_reasoning=True)), token_of(user), said)
    assert [one["role"] for one in messages] == ["user", "reasoning", "assistant", "assistant", "tool", "assistant"]
    _, thought, before, call, result, after = messages
    assert [one["content"] for one in (thought, before, after)] == ["let me look", "Let me look.", "\n\nIt rains."]
    assert call["toolCalls"][0]["function"]["name"] == "weather"
    assert (result["toolCallId"], result["content"]) == (call["toolCalls"][0]["id"], f"looking at {town}")


@pytest.mark.parametrize(("decision", "booked"), [("approve", 1), ("reject", 0)])
async def test_the_client_decides_what_the_run_waits_for(
    opened: Opened, model: ScriptedModel, user: str, town: str, decision: str, booked: int
) -> None:
    said = words()
    booking(model, said, town)
    messages, runs = await client(url_of(await opened()), token_of(user), said, decision)
    assert [events[-1] for events in runs] == ["RUN_FINISHED", "RUN_FINISHED"]
    said_by_twin = [one["content"] for one in messages if one["role"] == "assistant" and one.get("content")]
    assert said_by_twin == ["I book.", "\n\nDone."]
    (call,) = [one for one in messages if one.get("toolCalls")]
    assert json.loads(call["toolCalls"][0]["function"]["arguments"]) == {"city": town, "nights": 2}
    assert [one["toolCallId"] for one in messages if one["role"] == "tool"] == [call["toolCalls"][0]["id"]]
    assert made(f"{town} 2") == booked


async def test_the_client_is_told_why_a_run_failed(opened: Opened, model: ScriptedModel, user: str) -> None:
    said = words()
    model.script(contains=said, status=401, error={"code": "invalid_api_key"})
    _, runs = await client(url_of(await opened()), token_of(user), said)
    assert "model_key_refused" in runs[0]
    _, refused = await client(url_of(await opened()), "no token", said)
    assert "auth_invalid" in str(refused)

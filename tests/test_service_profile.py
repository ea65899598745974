"""What the twin believes, as its user reviews it: the numbers with their reasons, over HTTP and in a terminal."""

from __future__ import annotations

from math import fsum
from typing import Any

import aiohttp

from tests.conftest import Connect, eventually, token_of
from tests.scripted_model import ScriptedModel
from tests.test_service_cli import a_terminal
from tests.test_service_learning import candidates, likes
from twin_sio.client import TwinClient


async def get(url: str, path: str, user: str, **token: Any) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token_of(user, **token)}"}
    async with aiohttp.ClientSession() as http, http.get(f"{url}{path}", headers=headers) as response:
        return response.status, await response.json()


async def taught(client: TwinClient, model: ScriptedModel, text: str, *found: dict) -> None:
    """Say something, and wait until the twin has learnt `found` from it."""
    version = (await client.profile())["version"]
    model.script(contains=text, json_answer=candidates(*found))
    await client.ask(text)
    await client.until(lambda state: (state.profile_version or 0) > version)


async def test_the_reasons_told_give_the_profiles_number(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    client = await connect()
    await taught(client, model, f"I live in Faro, {user}", likes("Faro", "I live in Faro", key="location.city"))
    again = candidates(likes("Faro", "Here in Faro", "inferred", "location.city"))
    model.script(contains=f"Here in Faro, {user}", json_answer=again)
    await client.ask(f"Here in Faro, {user}")
    await eventually(lambda: _reasons(client, 2))
    status, profile = await get(url, "/v1/profile", user)
    (trait,) = profile["traits"]
    assert (status, trait["value"], trait["status"]) == (200, "Faro", "applied")
    status, why = await get(url, f"/v1/profile/{trait['trait_id']}/why", user)
    sums = [
        fsum(one["effective"] for one in why["evidence"] if one["side"] == side) for side in ("supports", "opposes")
    ]
    assert sums == [why["supporting"], why["opposing"]]
    assert (1 + sums[0]) / (2 + sums[0] + sums[1]) == why["confidence"]
    assert (status, round(why["confidence"], 4), why["formula"]) == (200, trait["confidence"], "(1 + S) / (2 + S + C)")
    said, hinted = why["evidence"]
    assert (said["kind"], said["weight"], said["quote"]) == ("explicit", 8.0, "I live in Faro")
    assert (hinted["kind"], hinted["weight"], hinted["repeat"]) == ("inferred", 0.5, 0.25)
    assert said["message_id"] == client.state.transcript()[0].message_id
    assert said["session_id"] == client.session_id
    assert said["extractor"].startswith("model/scripted@")


async def _reasons(client: TwinClient, count: int) -> bool:
    (trait,) = (await client.profile())["traits"]
    return len((await client.why(trait["trait_id"]))["evidence"]) == count


async def test_the_profile_of_others_is_out_of_reach(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    client = await connect()
    await taught(client, model, f"I prefer ale, {user}", likes("ale", "I prefer ale", key="preferences.drink"))
    trait = (await client.profile())["traits"][0]["trait_id"]
    status, told = await get(url, f"/v1/profile/{trait}/why", f"{user}-other")
    assert (status, told["code"]) == (404, "not_found")
    assert (await get(url, "/v1/profile", f"{user}-other"))[1]["traits"] == []
    for path in ("/v1/profile", f"/v1/profile/{trait}/why"):
        status, told = await get(url, path, user, scope="twin:chat twin:data")
        assert (status, told["code"]) == (403, "forbidden")


async def test_a_terminal_tells_why_in_the_users_own_words(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    await taught(await connect(), model, f"I adore figs, {user}", likes("figs", "I adore figs", key="food.likes"))
    async with a_terminal(url, user, "laptop") as terminal:
        terminal.enter("/profile")
        await terminal.shows("food.likes")
        terminal.enter("/why")
        await terminal.shows("Which trait?")
        terminal.enter("/why food.likes")
        await terminal.shows("I adore figs")
        await terminal.shows("(1 + S) / (2 + S + C) = 0.9000, S = 8.00, C = 0.00")

"""What the twin believes, as its user reviews it: the numbers with their reasons, over HTTP and in a terminal."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from math import fsum
from typing import Any

import aiohttp
import pytest

from tests.conftest import Connect, settings_for, token_of, url_of
from tests.scripted_model import ScriptedModel
from tests.test_service_cli import a_terminal
from tests.test_service_learning import candidates, likes
from tests.waiting import eventually
from twin_sio.admin import statistics
from twin_sio.client import RequestFailed, TwinClient
from twin_sio.clock import now
from twin_sio.config import Settings
from twin_sio.domain import Evidence
from twin_sio.jobs.functions import correct, update_statistics
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service


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


async def test_the_reasons_give_the_profiles_number(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    client = await connect()
    await taught(client, model, f"I live in Faro, {user}", likes("Faro", "I live in Faro", key="location.city"))
    again = candidates(likes("Faro", "More Faro for me", "inferred", "location.city"))
    model.script(contains=f"More Faro for me, {user}", json_answer=again)
    await client.ask(f"More Faro for me, {user}")
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


async def _reasons(client: TwinClient, update_statistics: int) -> bool:
    (trait,) = (await client.profile())["traits"]
    return len((await client.why(trait["trait_id"]))["evidence"]) == update_statistics


async def test_the_profile_of_others_is_out_of_reach(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    client = await connect()
    await taught(client, model, f"I prefer ale, {user}", likes("ale", "I prefer ale", key="preferences.drink"))
    trait = (await client.profile())["traits"][0]["trait_id"]
    status, received = await get(url, f"/v1/profile/{trait}/why", f"{user}-other")
    assert (status, received["code"]) == (404, "not_found")
    assert (await get(url, "/v1/profile", f"{user}-other"))[1]["traits"] == []
    for path in ("/v1/profile", f"/v1/profile/{trait}/why"):
        status, received = await get(url, path, user, scope="twin:chat twin:data")
        assert (status, received["code"]) == (403, "forbidden")


async def test_a_terminal_tells_why_in_the_users_own_words(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    await taught(await connect(), model, f"I adore figs, {user}", likes("figs", "I adore figs", key="food.likes"))
    async with a_terminal(url, user, "laptop") as terminal:
        terminal.enter("/profile")
        await terminal.shows("interests.likes")
        terminal.enter("/why")
        await terminal.shows("Which trait?")
        terminal.enter("/why gardening")
        await terminal.shows("There is no such trait")
        terminal.enter("/why interests.likes")
        await terminal.shows("I adore figs")
        await terminal.shows("(1 + S) / (2 + S + C) = 0.9000, S = 8.00, C = 0.00")


# -- feedback


async def answered_from(client: TwinClient, model: ScriptedModel, user: str, *found: dict) -> tuple[str, list[Any]]:
    """Teach `found`, then ask: the id of an answer that used it, and the profile's traits."""
    text = f"{' and '.join(one['quote'] for one in found)}, {user}"
    await taught(client, model, text, *found)
    answer = await client.ask(f"What do you think of it, {user}?")
    traits = (await client.profile())["traits"]
    assert set(answer.used_traits) == {trait["trait_id"] for trait in traits}
    return answer.message_id, traits


async def sums(client: TwinClient) -> list[tuple[float, float]]:
    return [(round(one["supporting"], 3), round(one["opposing"], 3)) for one in (await client.profile())["traits"]]


async def test_a_rating_changes_the_used_traits(
    connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    """A rating changes the traits that the answer used and its receipt names them."""
    client = await connect()
    used, traits = await answered_from(client, model, user, likes("mate", "I like mate", key="food.likes"))
    await taught(client, model, f"I love chess, {user}", likes("chess", "I love chess", key="hobbies.games"))
    (changed,) = await client.feedback(used, "down")
    assert (changed["trait_id"], changed["reason"]) == (traits[0]["trait_id"], "down")
    assert changed["confidence"] == round(9 / 10.75, 4)
    assert sorted(await sums(client)) == [(8, 0), (8, 0.75)]


async def test_a_rating_can_be_replaced_and_withdrawn(
    connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    """The newest rating counts a repeat changes nothing and none takes it back."""
    client, tablet = await connect(), await connect()
    used, _ = await answered_from(client, model, user, likes("tea", "I like tea", key="food.likes"))
    assert len(await client.feedback(used, "up")) == 1
    assert await sums(client) == [(8.25, 0)]
    assert await tablet.feedback(used, "up") == []
    assert await sums(client) == [(8.25, 0)]
    for rating, expected in (("down", (8, 0.75)), ("none", (8, 0)), ("none", (8, 0)), ("up", (8.25, 0))):
        await tablet.feedback(used, rating)
        assert await sums(client) == [expected]


async def test_repeated_feedback_counts_once(connect: Connect, model: ScriptedModel, worker: None, user: str) -> None:
    """The same feedback twice gets the same receipt and counts once."""
    seen: list[dict[str, Any]] = []
    client = await connect(on_envelope=lambda way, envelope: seen.append(envelope) if way == "in" else None)
    used, _ = await answered_from(client, model, user, likes("rum", "I like rum", key="food.likes"))
    for _ in range(2):
        await client.submit("feedback", {"message_id": used, "rating": "down"}, message_id="once")
        await client.heartbeat()
    receipts = [one for one in seen if one["payload"].get("message_id") == "once"]
    assert [one["payload"]["status"] for one in receipts] == ["accepted", "duplicate"]
    assert receipts[0]["payload"]["traits"] == receipts[1]["payload"]["traits"] != []
    assert receipts[0]["metadata"]["seq"] == receipts[1]["metadata"]["seq"]
    assert await sums(client) == [(8, 0.75)]


async def test_bad_ratings_retire_a_trait(connect: Connect, model: ScriptedModel, worker: None, user: str) -> None:
    """Enough bad ratings take a trait out of use on every device."""
    client, tablet = await connect(), await connect()
    text = f"More ska for me tonight, {user}"
    await taught(client, model, text, likes("ska", "More ska for me tonight", "inferred", "music.likes"))
    (trait,) = (await client.profile())["traits"]
    assert trait["status"] == "tentative"
    answer = await client.ask(f"So, {user}?")
    assert list(answer.used_traits) == [trait["trait_id"]]
    version = tablet.state.profile_version or 0
    (changed,) = await client.feedback(answer.message_id, "down")
    assert changed["status"] == "unused"
    await tablet.until(lambda state: (state.profile_version or 0) > version)


async def test_a_correction_becomes_explicit_evidence_in_the_users_own_words(
    connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    client = await connect()
    used, _ = await answered_from(client, model, user, likes("Oslo", "I live in Oslo", key="location.city"))
    right = f"I live in Turku, {user}"
    true = likes("Turku", "I live in Turku", "inferred", "location.city")
    false = likes("Rome", "I live in Rome", key="location.country")
    model.script(contains=f'"{right}', json_answer=candidates(true, false))
    version = client.state.profile_version or 0
    await client.feedback(used, "down", comment="no", correction=right)
    await client.until(lambda state: (state.profile_version or 0) > version + 1)
    held = {trait["value"]: trait for trait in (await client.profile())["traits"]}
    assert {value: trait["status"] for value, trait in held.items()} == {"Oslo": "superseded", "Turku": "applied"}
    (piece,) = (await client.why(held["Turku"]["trait_id"]))["evidence"]
    assert (piece["kind"], piece["quote"]) == ("explicit", "I live in Turku")


async def test_a_lost_correction_job_is_found(
    instance: Service, connect: Connect, model: ScriptedModel, worker: None, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A correction whose job was lost is found again and learnt once."""
    client = await connect()
    answer = await client.ask(f"Where am I, {user}?")
    right = f"I live in Bergen, {user}"
    model.script(contains=f'"{right}', json_answer=candidates(likes("Bergen", "I live in Bergen", key="location.city")))
    deps = instance.services.job_deps()

    async def lost(*_: str) -> None:
        return None

    with monkeypatch.context() as away:
        away.setattr(deps.queue, "_enqueue", lost)
        await client.feedback(answer.message_id, "none", correction=right)
    ((_, feedback_id),) = [one for one in await deps.messages.to_correct(-1, 1000) if one[0] == user]
    assert await correct({"deps": deps}, user, feedback_id) == 1
    assert [one for one in await deps.messages.to_correct(-1, 1000) if one[0] == user] == []
    assert await correct({"deps": deps}, user, feedback_id) == 1
    assert await sums(client) == [(8, 0)]


# -- in use


def prompt_to(model: ScriptedModel, text: str) -> str:
    """The system text of the newest request to answer `text`."""
    return str(model.asked_to_answer(text)[0]["content"])


@pytest.mark.parametrize("receives", [True, False])
async def test_a_rejection_leaves_the_next_prompt(
    settings: Settings, connect: Connect, model: ScriptedModel, worker: None, user: str, receives: bool
) -> None:
    """Also on an instance that has the profile in memory and receives nothing, its Redis being away."""
    elsewhere = settings if receives else settings.changed(storage={"redis_url": "redis://127.0.0.1:9/0"})
    phone = await connect()
    async with service(elsewhere) as other, TwinClient(url_of(other), token_of(user)) as tablet:
        for city in ("Porto", "Faro"):
            said = f"I live in {city}, {user}"
            await taught(phone, model, said, likes(city, f"I live in {city}", key="location.city"))
            for text in (f"one {city} {user}", f"two {city} {user}"):
                await tablet.ask(text, conversation_id="elsewhere")
                assert city in prompt_to(model, text)
            assert other.services.profile_cache.hits > 0
            held = {one["value"]: one["trait_id"] for one in (await phone.profile())["traits"]}
            await phone.correct(held[city], "reject")
            answer = await tablet.ask(f"three {city} {user}", conversation_id="elsewhere")
            prompt = prompt_to(model, f"three {city} {user}").partition("## Host")[0]
            assert (f'"{city}"' in prompt, list(answer.used_traits)) == (False, [])


async def test_a_value_that_grows_once_it_is_normalised_is_refused(
    connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    """One letter may become eighteen, and values are compared all the time."""
    client = await connect()
    _, (trait,) = await answered_from(client, model, user, likes("tea", "I like tea", key="food.likes"))
    with pytest.raises(RequestFailed) as refused:
        await client.correct(trait["trait_id"], "edit", "\ufdfa" * 100)
    assert refused.value.code == "invalid_message"
    await client.correct(trait["trait_id"], "edit", "x" * 500)


async def test_what_the_user_confirmed_stands_first_in_the_next_prompt(
    connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    client = await connect()
    found = [likes("tea", "I like tea", key="food.likes"), likes("Bonn", "I moved to Bonn", "change", "location.city")]
    _, traits = await answered_from(client, model, user, *found)
    before = prompt_to(model, f"What do you think of it, {user}?")
    assert before.index("Bonn") < before.index("tea")
    await client.correct(next(one["trait_id"] for one in traits if one["value"] == "tea"), "confirm")
    await client.ask(f"And now, {user}?")
    after = prompt_to(model, f"And now, {user}?")
    assert after.index("tea") < after.index("Bonn")


async def test_profile_cache_hits_are_a_metric(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    """The hit rate of the profiles in memory is in the metrics."""
    client = await connect()
    await taught(client, model, f"I like ludo, {user}", likes("ludo", "I like ludo", key="hobbies.games"))
    await client.ask("first")
    before = await _metric(url, 'twin_profile_reads_total{cached="yes"}')
    await client.ask("second")
    assert await _metric(url, 'twin_profile_reads_total{cached="yes"}') == before + 1


async def _metric(url: str, name: str) -> float:
    await asyncio.sleep(0.06)  # they are rendered once in 50 ms, whoever asks
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return float(next(line for line in lines if line.startswith(name)).rpartition(" ")[2])


# -- statistics


async def test_statistics_tell_what_became_of_what_was_learnt(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    client = await connect()
    _, traits = await answered_from(client, model, user, likes("tea", "I like tea", key="food.likes"))
    await taught(
        client,
        model,
        f"More go for me tonight, {user}",
        likes("go", "More go for me tonight", "inferred", "hobbies.games"),
    )
    await client.correct(traits[0]["trait_id"], "reject")
    status, received = await get(url, "/v1/profile/statistics", user)
    assert status == 200
    assert received["traits"] == {"applied": 0, "tentative": 1, "unused": 0, "rejected": 1, "superseded": 0}
    assert [(one["kind"], one["held"], one["rejected"]) for one in received["sources"]] == [
        ("explicit", 0, 1),
        ("inferred", 1, 0),
    ]
    assert all(one["extractor"].startswith("model/scripted@") for one in received["sources"])
    assert (received["reject_rate"]["count"], received["reject_rate"]["of"]) == (1, 2)
    assert round(received["reject_rate"]["low"], 3) == 0.095
    assert received["time_to_apply_s"] == {"median": 0.0, "of": 1}
    share = received["answers_using_traits"]
    assert (share["count"], share["of"]) == (2, 3)  # all but the first
    await client.ask(f"And, {user}?")
    assert (await get(url, "/v1/profile/statistics", user))[1]["answers_using_traits"]["of"] == 4
    assert (await get(url, "/v1/profile/statistics", f"{user}-other"))[1]["reject_rate"]["rate"] is None
    assert (await get(url, "/v1/profile/statistics", user, scope="twin:chat"))[0] == 403


async def test_statistics_name_nobody(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str
) -> None:
    """The job counts everybody who changed and operators see the sum and nobody."""
    settings = settings_for(
        mongod.url, redis_server.url, model.base_url, storage__mongodb_database=f"counted_{user[-6:]}"
    )
    async with service(settings) as running:
        parts, ctx = running.services, {"deps": running.services.job_deps()}
        assert await update_statistics(ctx) == 0
        for n, kind in enumerate(("explicit", "explicit", "inferred")):
            await parts.profile_service.learn(f"{user}-{n}", [evidence_of(f"{user}-{n}", kind)])
        assert [await update_statistics(ctx), await update_statistics(ctx)] == [3, 0]
        name = 'twin_traits{extractor="test@1",kind="explicit",status="applied"}'
        assert await _metric(url_of(running), name) == 2.0
        await parts.profile_service.learn(f"{user}-0", [evidence_of(f"{user}-0", "rejected")])
        assert [await update_statistics(ctx), await update_statistics(ctx)] == [1, 0]
        assert await _metric(url_of(running), name) == 1.0
        assert round(await _metric(url_of(running), 'twin_trait_reject_rate{bound="rate"}'), 3) == 0.333
        assert await _metric(url_of(running), 'twin_traits_applied_within{le="60"}') == 2.0
        async with aiohttp.ClientSession() as http, http.get(f"{url_of(running)}/metrics") as response:
            assert user not in await response.text()
        await parts.profile_service.learn(f"{user}-2", [evidence_of(f"{user}-2", "explicit")])
        received = await statistics(settings)
        assert received["traits"] == {"applied": 2, "tentative": 0, "unused": 0, "rejected": 1, "superseded": 0}
        assert (received["reject_rate"]["count"], received["applied_within_s"]["inf"]) == (1, 3)
        bounds = ["0", "60", "3600", "86400", "604800", "2592000", "7776000", "inf"]
        assert list(received["applied_within_s"]) == bounds
        assert received["reject_rate"]["rate"] == 0.333333  # without the noise of floating point
        await parts.personal.erase(f"{user}-1")
        await parts.statistics.recompute_total()
        assert await _metric(url_of(running), 'twin_traits{extractor="test@1",kind="inferred",status="applied"}') == 1
        assert (await parts.statistics.total())["traits"] != []
        assert set(await parts.statistics.due(now() + timedelta(days=2), 10)) == {f"{user}-0", f"{user}-2"}


async def test_the_daily_job_updates_profiles(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str
) -> None:
    """The job brings a profile up to the date and tells the devices."""
    settings = settings_for(
        mongod.url, redis_server.url, model.base_url, storage__mongodb_database=f"dated_{user[-6:]}"
    )
    async with service(settings) as running, TwinClient(url_of(running), token_of(user)) as client:
        keeper = running.services.profile_service
        long_ago = now() - timedelta(days=150)
        keeper._clock = lambda: long_ago
        await keeper.learn(user, [evidence_of(user, "inferred", at=long_ago)])
        await client.until(lambda state: state.profile_version == 1)
        keeper._clock = now
        await update_statistics({"deps": running.services.job_deps()})
        await client.until(lambda state: state.profile_version == 2)
        assert (await running.services.profiles.get(user)).profile.traits[0].status == "unused"


def evidence_of(user: str, kind: Any, at: datetime | None = None) -> Evidence:
    sign = -1 if kind == "rejected" else 1
    return Evidence(user, "food.likes", "tea", sign, kind, at or now(), "s1", f"m-{kind}", "tea", "test@1")

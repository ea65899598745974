"""What is known of a life reaches the model, the page and the terminal as it is: dislikes, illnesses, ends, people."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.commands import command
from tests.conftest import Connect, settings_for, token_of, url_of
from tests.processes import environment
from tests.scripted_model import ScriptedModel
from tests.test_prompts import section
from tests.test_service_memory import prompt_of
from tests.test_service_profile import get
from tests.waiting import eventually
from twin_sio.admin import rebuild_profiles
from twin_sio.agent import prompts
from twin_sio.agent.profile_prompt import PEOPLE_HEADING, SAID_HEADING, TRAITS_HEADING
from twin_sio.agent.traits import trait_id
from twin_sio.cli.batch import print_profile
from twin_sio.cli.traits import line_of
from twin_sio.client import TwinClient
from twin_sio.clock import now
from twin_sio.config import Settings
from twin_sio.domain import Entity, Evidence, EvidenceKind
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service

LIKES, DISLIKES, CHILDREN, PETS, ROLE = (
    "interests.likes",
    "interests.dislikes",
    "family.children",
    "pets.has",
    "work.role",
)
MIA = Entity("person", "daughter", "Mia")


class Life:
    """Teaches an instance about one user, a day after the other, the first as many days ago as it has days."""

    def __init__(self, instance: Service, user: str) -> None:
        self.keeper = instance.services.profile_service
        self.user = user
        self.days = 0

    def said(
        self, key: str, value: str, kind: EvidenceKind = "explicit", *, of: Entity | None = None, version: int = 2
    ) -> Evidence:
        self.days += 1
        at: datetime = now() - timedelta(days=100 - self.days)
        polarity = -1 if version == 1 else 1
        return Evidence(
            self.user, key, value, polarity, kind, at, f"s{self.days}", f"m{self.days}", value, "test@1",  # type: ignore[arg-type]
            entity=of, version=version,
        )  # fmt: skip

    def denied(self, key: str, value: str) -> Evidence:
        return replace(self.said(key, value), polarity=-1)

    async def learn(self, *said: Evidence) -> None:
        await self.keeper.learn(self.user, said)


@pytest.fixture
def life(instance: Service, user: str) -> Life:
    return Life(instance, user)


async def prompt(client: TwinClient, model: ScriptedModel, user: str) -> tuple[str, tuple[str, ...]]:
    """The system text that the model got with the next message, and the traits that the answer names."""
    question = f"What do you say, {user}, at {now()}?"
    answer = await client.ask(question, conversation_id="elsewhere")
    return prompt_of(model, question), tuple(answer.used_traits)


async def listed(client: TwinClient) -> dict[str, dict[str, Any]]:
    """The traits by `key value`."""
    return {f"{trait['key']} {trait['value']}": trait for trait in (await client.profile())["traits"]}


async def test_the_model_hears_of_dislikes_allergies_and_what_was(
    connect: Connect, model: ScriptedModel, life: Life
) -> None:
    client = await connect()
    await life.learn(
        life.said(DISLIKES, "horror films"),
        life.said("health.allergy", "peanuts"),
        life.said("health.condition", "insomnia", "inferred"),
        life.said("possession.car", "volvo v60"),
        life.said("possessions.car", "the volvo", "ended"),
    )
    system, used = await prompt(client, model, life.user)
    assert '- interests.dislikes: "horror films"' in section(system, TRAITS_HEADING)
    assert '- health.allergy: "peanuts"' in section(system, SAID_HEADING)
    assert '"value": "volvo v60"' in section(system, prompts.FORMER_HEADING)[1]
    assert "insomnia" not in system
    traits = await listed(client)
    assert set(used) == {trait["trait_id"] for trait in traits.values()}
    await life.learn(life.said("health.allergy", "peanuts", "ended"))
    assert "peanuts" not in (await prompt(client, model, life.user))[0]


async def test_what_is_denied_is_told_so_to_model_and_user(connect: Connect, model: ScriptedModel, life: Life) -> None:
    client = await connect()
    since = replace(life.said("work.role", "nurse"), when="since 94")
    await life.learn(life.denied("habits.drinking", "alcohol"), since)
    told = section((await prompt(client, model, life.user))[0], TRAITS_HEADING)
    nurse = f"since 94, said {since.observed_at:%Y-%m}"
    assert told == [f'- work.role: "nurse" ("{nurse}")', '- habits.drinking: not "alcohol"']
    traits = await listed(client)
    assert (traits["habits.drinking alcohol"]["denied"], traits["work.role nurse"].get("denied")) == (True, None)
    assert traits["work.role nurse"]["when"] == nurse
    assert line_of(traits["habits.drinking alcohol"]) == "habits.drinking = not alcohol"


async def test_what_is_true_of_others_is_told_of_them(connect: Connect, model: ScriptedModel, life: Life) -> None:
    client = await connect()
    await life.learn(
        life.said(CHILDREN, "two kids"),
        life.said(CHILDREN, "daughter"),
        life.said(CHILDREN, "Mia", of=Entity("person", "", "Mia")),
        life.said(LIKES, "football", of=MIA),
        life.said(PETS, "cat"),
    )
    system, _ = await prompt(client, model, life.user)
    assert TRAITS_HEADING not in system
    assert set(section(system, PEOPLE_HEADING)[1:]) == {
        '- family.children: "Mia, daughter": interests.likes: "football"',
        '- family.children: "two kids"',
        '- pets.has: "cat"',
    }


async def test_somebody_can_be_put_right(connect: Connect, model: ScriptedModel, life: Life) -> None:
    """Confirmed, given another name, and rejected with all that is known of them."""
    client = await connect()
    await life.learn(life.said(CHILDREN, "daughter Mia"), life.said(LIKES, "football", of=MIA))
    traits = await listed(client)
    child = traits["family.children Mia"]
    assert child["entity"] == {"kind": "person", "relation": "daughter", "name": "Mia"}
    await client.correct(child["trait_id"], "confirm")
    assert (await listed(client))["family.children Mia"]["pinned"]
    why = await client.why(traits["interests.likes football"]["trait_id"])
    assert (why["entity"]["name"], why["evidence"][0]["quote"]) == ("Mia", "football")
    await client.correct(traits["interests.likes football"]["trait_id"], "edit", "handball")
    assert {name: trait["status"] for name, trait in (await listed(client)).items()} == {
        "family.children Mia": "applied",
        "interests.likes football": "rejected",
        "interests.likes handball": "applied",
    }
    await client.correct(child["trait_id"], "edit", "Mila")
    traits = await listed(client)
    assert traits["family.children Mila"]["entity"] == {"kind": "person", "relation": "daughter", "name": "Mila"}
    assert traits["family.children Mia"]["status"] == "rejected"
    system, _ = await prompt(client, model, life.user)
    assert section(system, PEOPLE_HEADING)[1:] == ['- family.children: "Mila, daughter"']


async def test_a_rejection_rejects_a_value_in_all_its_words(connect: Connect, model: ScriptedModel, life: Life) -> None:
    client = await connect()
    await life.learn(life.said(ROLE, "engineer"), life.said(ROLE, "data engineer"))
    (trait,) = (await client.profile())["traits"]
    assert (trait["value"], trait["trait_id"]) == ("data engineer", trait_id(life.user, ROLE, "engineer"))
    await client.correct(trait_id(life.user, ROLE, "data engineer"), "reject")  # as it was once called
    assert {one["status"] for one in (await client.profile())["traits"]} == {"rejected"}
    assert "engineer" not in (await prompt(client, model, life.user))[0]


async def test_an_edit_may_say_less(connect: Connect, life: Life) -> None:
    client = await connect()
    await life.learn(life.said(ROLE, "engineer"), life.said(ROLE, "data engineer"))
    await client.correct(trait_id(life.user, ROLE, "engineer"), "edit", "engineer")
    assert {name: trait["status"] for name, trait in (await listed(client)).items()} == {
        "work.role engineer": "applied",
        "work.role data engineer": "rejected",
    }


async def test_a_rating_finds_a_value_in_other_words(connect: Connect, model: ScriptedModel, life: Life) -> None:
    client = await connect()
    await life.learn(life.said(CHILDREN, "daughter"), life.said(LIKES, "chess", of=Entity("person", "daughter")))
    question = f"And, {life.user}?"
    answer = await client.ask(question)
    await life.learn(life.said(CHILDREN, "Mia", of=MIA))
    changed = await client.feedback(answer.message_id, "down")
    assert {one["value"] for one in changed} == {"Mia", "chess"}
    assert {one["reason"] for one in changed} == {"down"}


async def test_what_ends_is_told_with_its_reason(connect: Connect, life: Life) -> None:
    seen: list[Any] = []
    client = await connect(on_envelope=lambda way, envelope: seen.append(envelope) if way == "in" else None)
    await life.learn(life.said("vehicles.car", "volvo"))
    await life.learn(life.said("possession.car", "volvo", "ended"))
    await client.until(lambda state: (state.profile_version or 0) >= 2)
    (change,) = next(one for one in reversed(seen) if one["type"] == "profile_update")["payload"]["changes"]
    assert (change["value"], change["status"], change["reason"]) == ("volvo", "superseded", "ended")
    assert (await listed(client))["vehicles.car volvo"]["valid_to"].endswith("Z")


async def test_the_terminal_tells_whose_a_trait_is(url: str, connect: Connect, life: Life) -> None:
    client = await connect()
    await life.learn(
        life.said(CHILDREN, "Mia", of=MIA), life.said(LIKES, "football", of=MIA), life.said(LIKES, "chess", "ended")
    )
    out = io.StringIO()
    await print_profile(client, False, out)
    lines = out.getvalue().splitlines()
    assert any(line.startswith("family.children = Mia (daughter) [applied") for line in lines)
    assert any(line.startswith("interests.likes = football (of Mia, daughter) [applied") for line in lines)
    assert any(line.startswith(f"interests.likes = chess until {now():%Y}") for line in lines)
    status, profile = await get(url, "/v1/profile", life.user)
    assert (status, sum("entity" in trait for trait in profile["traits"])) == (200, 2)


# -- of an earlier version


@pytest.fixture
def own(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str) -> Settings:
    """Settings with a database of its own."""
    return settings_for(mongod.url, redis_server.url, model.base_url, storage__mongodb_database=f"lives_{user[-6:]}")


async def as_stored_before(running: Service, life: Life, *said: Evidence) -> None:
    """Evidence and profile as a version without entities and versions of evidence wrote them."""
    await life.learn(*said)
    db = running.services.db
    fields = {"piece.version": "", "piece.entity": "", "piece.when": ""}
    await db["evidence"].update_many({"user_id": life.user}, {"$unset": fields})
    traits = {"traits.$[].entity": "", "traits.$[].names": ""}
    await db["profiles"].update_one({"_id": life.user}, {"$unset": {"reading": "", **traits}})


async def test_profiles_of_before_are_read_anew_beside_the_service(own: Settings, user: str) -> None:
    async with service(own) as running, TwinClient(url_of(running), token_of(user)) as client:
        life = Life(running, user)
        said = [life.said(LIKES, "horror", version=1), life.said(CHILDREN, "two kids"), life.said(CHILDREN, "Mia")]
        await as_stored_before(running, life, *said)
        before = [doc async for doc in running.services.db["evidence"].find({"user_id": user}).sort("_id")]
        await running.services.db["profiles"].update_one({"_id": user}, {"$set": {"traits": []}})
        version = (await client.profile())["version"]
        migration = running.services.job_deps().migration
        assert await migration.step() == 1
        await client.until(lambda state: (state.profile_version or 0) > version)
        stored = (await running.services.profiles.get(user)).profile
        assert {f"{trait.key} {trait.value}" for trait in stored.traits} == {
            "interests.dislikes horror",
            "family.children two kids",
            "family.children Mia",
        }
        assert await migration.step() == 0
        assert [doc async for doc in running.services.db["evidence"].find({"user_id": user}).sort("_id")] == before


async def test_an_operator_can_make_profiles_anew(own: Settings, user: str) -> None:
    async with service(own) as running, TwinClient(url_of(running), token_of(user)) as client:
        life = Life(running, user)
        await life.learn(life.said(LIKES, "jazz"))
        await client.until(lambda state: state.profile_version == 1)
        db = running.services.db
        await db["profiles"].update_one({"_id": user}, {"$set": {"traits": []}})
        assert await rebuild_profiles(own, None) == 1
        await client.until(lambda state: state.profile_version == 2)
        assert await rebuild_profiles(own, user) == 1
        (trait,) = (await running.services.profiles.get(user)).profile.traits
        assert (trait.value, (await client.profile())["version"]) == ("jazz", 2)


async def test_making_profiles_anew_can_be_ended(
    own: Settings, mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str
) -> None:
    """By Ctrl-C, with what was done kept and a word instead of a trace."""
    async with service(own) as running:
        db = running.services.db
        for piece in range(20):
            numbers = range(1_000 * piece, 1_000 * (piece + 1))
            await db["profiles"].insert_many(
                [{"_id": f"{user}-{n}", "version": 1, "traits": [], "untold": [], "stamp": str(n)} for n in numbers]
            )
    env = environment(mongod.url, redis_server.url, model.base_url, TWIN_MONGODB_DATABASE=own.storage.mongodb_database)
    process = await command("twin_sio.admin", "profile-rebuild", env={**os.environ, **env})
    assert process.stderr is not None
    shown = await process.stderr.readuntil(b"of 20000")
    process.send_signal(signal.SIGINT)
    shown += await process.stderr.read()
    await eventually(lambda: process.returncode is not None)
    assert process.returncode == 130
    assert b"run it again" in shown
    assert b"Traceback" not in shown

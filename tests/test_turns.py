"""What a crash leaves behind at each step of an answer, and how it is made whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.conftest import Connect, eventually, settings_for, url_of
from tests.scripted_model import ScriptedModel
from tests.test_store import draft, turn
from twin_sio.clock import now
from twin_sio.domain import Outcome
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service
from twin_sio.store import mongo

DATABASE = "turn_tests"


@pytest.fixture(scope="module")
async def db(mongod: Mongod) -> AsyncIterator[mongo.Database]:
    client, database = mongo.connect(mongod.url, DATABASE, 5000)
    yield database
    client.close()


@pytest.fixture(scope="module")
async def quick(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel) -> AsyncIterator[Service]:
    """A server that takes over soon."""
    settings = settings_for(
        mongod.url, redis_server.url, model.base_url, storage__mongodb_database=DATABASE, tuning__turn_lease_s=1.0
    )
    async with service(settings) as running:
        yield running


async def test_a_turn_that_was_handed_over_three_times_is_stored_as_interrupted_with_what_there_is(
    quick: Service, db: mongo.Database, connect: Connect, model: ScriptedModel, user: str
) -> None:
    messages, turns = mongo.MongoLog(db), mongo.MongoTurns(db, now)
    text = f"doomed {user}"
    await messages.append(draft(user, "t1", text))
    begun = await turns.ensure(turn(user))
    for attempt in range(3):
        again = await turns.begin(begun, f"generation-{attempt}")
        assert again is not None
        if attempt < 2:
            await turns.hand_over(again)
        begun = replace(again, state="queued")
    await turns.checkpoint(begun, "as far as it came")
    client = await connect(url_of(quick), last_seq=0)
    answer = await client.answer("t1", timeout=20)
    assert (answer.status, answer.text) == ("interrupted", "as far as it came")
    assert not any(text in str(request) for request in model.requests)


async def test_a_turn_that_cost_two_instances_their_lease_fails_and_meets_no_third(
    quick: Service, db: mongo.Database, connect: Connect, model: ScriptedModel, user: str
) -> None:
    messages, turns = mongo.MongoLog(db), mongo.MongoTurns(db, now)
    text = f"poison {user}"
    await messages.append(draft(user, "t1", text))
    begun = await turns.ensure(turn(user))
    for attempt in range(3):  # the first began a turn that waited, two have found it running
        begun = await turns.begin(begun, f"generation-{attempt}") or begun
    assert begun.lost == 2
    client = await connect(url_of(quick), last_seq=0)
    answer = await client.answer("t1", timeout=20)
    assert (answer.status, answer.text) == ("failed", "")
    assert not any(text in str(request) for request in model.requests)
    assert (await client.ask("and the next?")).status == "complete"


async def test_an_answer_that_was_decided_is_told_and_not_made_again(
    quick: Service, db: mongo.Database, connect: Connect, model: ScriptedModel, user: str
) -> None:
    messages, turns = mongo.MongoLog(db), mongo.MongoTurns(db, now)
    text = f"decided {user}"
    await messages.append(draft(user, "t1", text))
    begun = await turns.begin(await turns.ensure(turn(user)), "g1")
    assert begun is not None
    await turns.settle(begun, Outcome("complete", "the decided text", "g1", "m"))
    client = await connect(url_of(quick), last_seq=0)
    answer = await client.answer("t1", timeout=20)
    assert (answer.status, answer.text) == ("complete", "the decided text")
    assert not any(text in str(request) for request in model.requests)


async def test_a_message_without_its_turn_is_answered_when_it_is_sent_again(
    quick: Service, db: mongo.Database, connect: Connect, model: ScriptedModel, user: str
) -> None:
    await mongo.MongoLog(db).append(draft(user, "m1", f"orphan {user}"))
    client = await connect(url_of(quick))
    await client.send(f"orphan {user}", message_id="m1")
    assert (await client.receipt("m1")).seq == 1
    assert (await client.answer("m1")).text == model.answer_to(f"orphan {user}")


async def test_a_turn_whose_message_was_erased_ends_and_the_next_is_answered(
    quick: Service, db: mongo.Database, connect: Connect, user: str
) -> None:
    turns = mongo.MongoTurns(db, now)
    await turns.ensure(turn(user, "gone", order=0.5))
    client = await connect(url_of(quick))
    assert (await client.ask("still here?")).status == "complete"
    await eventually(lambda: _ended(turns, user))


async def _ended(turns: mongo.MongoTurns, user: str) -> bool:
    gone = await turns.get(user, "gone")
    return gone is not None and gone.state == "failed"


@pytest.mark.parametrize("with_lease", [True, False], ids=["with its lease", "alone"])
async def test_an_answer_whose_begin_a_crash_of_the_store_has_taken_back_is_made_again_and_given_once(
    quick: Service, db: mongo.Database, connect: Connect, model: ScriptedModel, user: str, with_lease: bool
) -> None:
    text = f"taken back {user}"
    model.script(contains=text, tokens=("lost ", "in the crash"), hold_after=1, times=1)
    client = await connect(url_of(quick))
    message_id = await client.send(text)
    await client.until(lambda state: (g := state.generation_of(message_id)) and g.text == "lost ")
    turn_then = {"state": "queued", "generation_id": None, "attempts": 0}
    await db["turns"].update_one({"user_id": user}, {"$set": turn_then})
    if with_lease:
        await db["conversations"].update_one({"user_id": user}, {"$set": {"owner": None, "leased": False}})
    model.release(text)
    answer = await client.answer(message_id, timeout=20)
    assert (answer.status, answer.text) == ("complete", model.answer_to(text))
    assert await db["events"].count_documents({"user_id": user, "type": "twin_message"}) == 1
    assert model.peak_by_text[text] == 1

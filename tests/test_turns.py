"""What a crash leaves behind at each step of an answer, and how it is made whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import Connect, settings_for, token_of, url_of
from tests.scripted_model import ScriptedModel
from tests.test_store import draft, turn
from tests.waiting import eventually
from twin_sio.agent import AgentRequest, AnswerPart, Delta
from twin_sio.agent.graph import TwinAgent
from twin_sio.client import TwinClient
from twin_sio.clock import now
from twin_sio.domain import Outcome
from twin_sio.errors import StorageUnavailable
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


async def test_three_hand_overs_end_as_interrupted(
    quick: Service, db: mongo.Database, connect: Connect, model: ScriptedModel, user: str
) -> None:
    """A turn that was handed over three times is stored as interrupted with what there is."""
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


async def test_two_lost_leases_end_as_failed(
    quick: Service, db: mongo.Database, connect: Connect, model: ScriptedModel, user: str
) -> None:
    """A turn that cost two instances their lease fails and meets no third."""
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


@pytest.mark.parametrize(("times", "status"), [(1, "complete"), (2, "complete"), (3, "failed")])
async def test_an_answer_that_could_not_read_the_store_is_made_again(
    quick: Service, connect: Connect, model: ScriptedModel, user: str, monkeypatch: pytest.MonkeyPatch,
    times: int, status: str,
) -> None:  # fmt: skip
    """The store is away for a moment in the midst of an answer: another attempt goes on, of three in all."""
    whole, left = TwinAgent.answer, [True] * times

    async def answer(self: TwinAgent, request: AgentRequest) -> AsyncGenerator[AnswerPart, None]:
        async with aclosing(whole(self, request)) as parts:
            async for part in parts:
                yield part
                if isinstance(part, Delta) and user in request.text and left:
                    left.pop()
                    raise StorageUnavailable

    monkeypatch.setattr(TwinAgent, "answer", answer)
    client = await connect(url_of(quick))
    answered = await client.ask(f"hello {user}")
    assert (answered.status, left) == (status, [])
    if status == "complete":
        assert answered.text == model.answer_to(f"hello {user}")
    assert len([message for message in client.state.messages.values() if message.role == "twin"]) == 1


async def test_a_settled_answer_is_published_not_generated_again(
    quick: Service, db: mongo.Database, connect: Connect, model: ScriptedModel, user: str
) -> None:
    """An answer that was decided is published and not made again."""
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


async def test_a_repeat_makes_up_for_a_missing_turn(
    quick: Service, db: mongo.Database, connect: Connect, model: ScriptedModel, user: str
) -> None:
    """A message without its turn is answered when it is sent again."""
    await mongo.MongoLog(db).append(draft(user, "m1", f"orphan {user}"))
    client = await connect(url_of(quick))
    await client.send(f"orphan {user}", message_id="m1")
    assert (await client.receipt("m1")).seq == 1
    assert (await client.answer("m1")).text == model.answer_to(f"orphan {user}")


async def test_a_turn_of_an_erased_message_ends(
    quick: Service, db: mongo.Database, connect: Connect, user: str
) -> None:
    """A turn whose message was erased ends and the next is answered."""
    turns = mongo.MongoTurns(db, now)
    await turns.ensure(turn(user, "gone", order=0.5))
    client = await connect(url_of(quick))
    assert (await client.ask("still here?")).status == "complete"
    await eventually(lambda: _ended(turns, user))


async def _ended(turns: mongo.MongoTurns, user: str) -> bool:
    gone = await turns.get(user, "gone")
    return gone is not None and gone.state == "failed"


@pytest.mark.parametrize("with_lease", [True, False], ids=["with its lease", "alone"])
async def test_a_rolled_back_begin_is_generated_again_once(
    quick: Service, db: mongo.Database, connect: Connect, model: ScriptedModel, user: str, with_lease: bool
) -> None:
    """An answer whose begin a crash of the store has taken back is made again and given once."""
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


async def test_a_lease_that_ran_out_before_the_answer_is_none(
    quick: Service,
    db: mongo.Database,
    connect: Connect,
    model: ScriptedModel,
    user: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store is away between the lease and the answer, and another instance holds the conversation by then."""
    text, turns = f"held up {user}", mongo.MongoTurns(db, now)
    acquire, answering = mongo.MongoTurns.acquire, mongo.MongoTurns.answering
    asked: list[str] = []

    async def counted(self: mongo.MongoTurns, user_id: str, *rest: Any) -> bool:
        asked.extend([user_id] if user_id == user and self is not turns else [])
        return await acquire(self, user_id, *rest)

    async def held_up(self: mongo.MongoTurns, user_id: str) -> int:
        if len(asked) == 1 and user_id == user:
            await eventually(lambda: acquire(turns, user, "main", "another", 60.0))
        return await answering(self, user_id)

    monkeypatch.setattr(mongo.MongoTurns, "acquire", counted)
    monkeypatch.setattr(mongo.MongoTurns, "answering", held_up)
    client = await connect(url_of(quick))
    message_id = await client.send(text)
    await eventually(lambda: len(asked) > 1)
    assert not any(text in str(request) for request in model.requests)
    await turns.release(user, "main", "another")
    answer = await client.answer(message_id, timeout=20)
    assert (answer.status, answer.text) == ("complete", model.answer_to(text))
    assert model.peak_by_text[text] == 1


async def test_a_lease_lost_while_waiting_for_a_slot_begins_nothing(
    db: mongo.Database,
    mongod: Mongod,
    redis_server: RedisServer,
    model: ScriptedModel,
    user: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An instance makes one answer at once; another one takes over a conversation that waits here."""
    renew, refused = mongo.MongoTurns.renew, asyncio.Event()

    async def watched(self: mongo.MongoTurns, user_id: str, conversation_id: str, *rest: Any) -> bool:
        is_held = await renew(self, user_id, conversation_id, *rest)
        if (user_id, conversation_id, is_held) == (user, "aside", False):
            refused.set()
        return is_held

    monkeypatch.setattr(mongo.MongoTurns, "renew", watched)
    fields = {"storage__mongodb_database": DATABASE, "tuning__turn_lease_s": 1.0, "model__concurrency": 1}
    turns, first, second = mongo.MongoTurns(db, now), f"first {user}", f"second {user}"
    model.script(contains=first, tokens=("wait ", "for me"), hold_after=1, times=1)
    settings = settings_for(mongod.url, redis_server.url, model.base_url, **fields)
    async with service(settings) as one, TwinClient(url_of(one), token_of(user)) as client:
        busy = await client.send(first)
        await client.until(lambda state: (g := state.generation_of(busy)) and g.text)
        waits = await client.send(second, conversation_id="aside")
        aside = {"user_id": user, "conversation_id": "aside"}
        await eventually(lambda: db["conversations"].count_documents({**aside, "leased": True}))
        theirs = {"owner": "another", "leased": True, "lease_until": now() + timedelta(minutes=1)}
        await db["conversations"].update_one(aside, {"$set": theirs})
        await asyncio.wait_for(refused.wait(), 20)
        model.release(first)
        assert (await client.answer(busy, timeout=20)).text == "wait for me"
        await eventually(lambda: one.services.runner.running == 0)
        assert await db["turns"].count_documents({**aside, "attempts": 0}) == 1
        await turns.release(user, "aside", "another")
        assert (await client.answer(waits, timeout=20)).text == model.answer_to(second)

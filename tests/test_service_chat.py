"""A conversation with the twin over real sockets, as clients see it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import pytest

from tests.conftest import Connect, token_of
from tests.raw import RawSocket, the_one_that_stays
from tests.scripted_model import ScriptedModel
from tests.test_store import draft
from tests.waiting import eventually
from twin_sio.client import HandshakeRefused, RequestFailed, TwinClient
from twin_sio.config import Settings
from twin_sio.store import mongo


async def test_a_message_is_acknowledged_and_answered(connect: Connect, model: ScriptedModel) -> None:
    client = await connect()
    message_id = await client.send("Good morning")
    receipt = await client.receipt(message_id)
    answer = await client.answer(message_id)
    assert receipt.seq == 1
    assert answer.text == model.answer_to("Good morning")
    assert answer.status == "complete"


async def test_an_answer_streams_and_its_chunks_join_to_the_whole(connect: Connect, model: ScriptedModel) -> None:
    model.script(contains="stream-me", token_delay_s=0.03, count=12)
    seen: list[dict] = []
    client = await connect(on_envelope=lambda way, envelope: seen.append(envelope))
    answer = await client.ask("stream-me please")
    chunks = [one["payload"] for one in seen if one["type"] == "twin_message_chunk"]
    assert len(chunks) > 3
    assert [chunk["chunk_index"] for chunk in chunks] == list(range(len(chunks)))
    assert "".join(chunk["text"] for chunk in chunks) == answer.text
    assert [chunk["is_last_chunk"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    states = [one["payload"]["state"] for one in seen if one["type"] == "twin_thinking"]
    assert states == ["recalling", "thinking", "done"]


async def test_session_ready_comes_first_and_says_where_the_log_stands(connect: Connect, user: str) -> None:
    first = await connect()
    await first.ask("one")
    seen: list[dict] = []
    await connect(on_envelope=lambda way, envelope: seen.append(envelope))
    assert seen[0]["type"] == "session_ready"
    ready = seen[0]["payload"]
    assert ready["user_id"] == user
    assert ready["seq"] == 2
    assert {one["session_id"] for one in ready["sessions"]} >= {first.session_id}


async def test_all_devices_see_the_same_conversation_live(connect: Connect) -> None:
    phone, tablet = await connect(), await connect()
    for index in range(3):
        await phone.ask(f"from the phone {index}")
        await tablet.ask(f"from the tablet {index}")
    await asyncio.gather(*(one.until(lambda state: state.last_seq == 12) for one in (phone, tablet)))
    lines = [[(m.seq, m.role, m.text) for m in one.state.transcript()] for one in (phone, tablet)]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 12


async def test_messages_of_a_conversation_are_answered_in_their_order(connect: Connect, model: ScriptedModel) -> None:
    model.script(contains="slow-first", token_delay_s=0.02, count=20)
    client = await connect()
    ids = [await client.send(text) for text in ("slow-first", "second", "third")]
    answers = [await client.answer(one) for one in ids]
    assert [one.seq for one in answers] == sorted(one.seq for one in answers)


async def test_a_repeat_is_stored_once_and_answered_once(connect: Connect, model: ScriptedModel, user: str) -> None:
    text = f"once for {user}"
    one, two = await connect(), await connect()
    await asyncio.gather(*(client.send(text, message_id="same") for client in (one, two, one, two)))
    first, second = await one.receipt("same"), await two.receipt("same")
    await one.answer("same")
    history = await one.history()
    assert first.seq == second.seq
    assert [line["role"] for line in history["messages"]] == ["user", "twin"]
    assert sum(text in str(request["messages"][-1]) for request in model.requests) == 1


async def test_a_late_repeat_gets_the_answer_again(connect: Connect) -> None:
    """A repeat after the answer gets the same receipt and the answer again."""
    client = await connect()
    answer = await client.ask("say it once", message_id="again")
    seen: list[dict] = []
    other = await connect(on_envelope=lambda way, envelope: seen.append(envelope) if way == "in" else None)
    await other.send("say it once", message_id="again")
    await eventually(lambda: any(one["type"] == "twin_message" for one in seen))
    receipt = next(one for one in seen if one["type"] == "message_received")
    repeated = next(one for one in seen if one["type"] == "twin_message")
    assert receipt["payload"] == {"message_id": "again", "status": "duplicate"}
    assert receipt["metadata"]["seq"] == 1
    assert repeated["metadata"]["message_id"] == answer.message_id


async def test_the_same_id_with_another_text_is_refused(connect: Connect) -> None:
    client, other = await connect(), await connect()
    await client.ask("the first text", message_id="taken")
    await other.send("another text", message_id="taken")
    failure = await eventually(lambda: other.failure("taken"))
    assert failure.code == "invalid_message"


async def test_stop_ends_the_running_answer_from_another_device(connect: Connect, model: ScriptedModel) -> None:
    model.script(contains="talk-for-ever", token_delay_s=0.05, count=2000)
    phone, tablet = await connect(), await connect()
    message_id = await phone.send("talk-for-ever")
    await tablet.until(lambda state: (g := state.generation_of(message_id)) and g.text)
    await tablet.stop(message_id)
    answer = await phone.answer(message_id)
    assert answer.status == "stopped"
    assert answer.text


async def test_regenerate_gives_another_answer_and_keeps_the_older(connect: Connect) -> None:
    client = await connect()
    first = await client.ask("tell me again")
    second = await client.regenerate(first.in_response_to)
    history = await client.history()
    answers = [line for line in history["messages"] if line["role"] == "twin"]
    assert [line["message_id"] for line in answers] == [first.message_id, second.message_id]
    assert {line["in_response_to"] for line in answers} == {first.in_response_to}


async def test_the_id_of_a_regenerate_is_no_message_s(connect: Connect, url: str, user: str) -> None:
    """A message under it would be stored, and never be answered."""
    client = await connect()
    first = await client.ask("tell me again")
    async with RawSocket(url, token_of(user)) as raw:
        about = {"message_id": first.in_response_to}
        await raw.ask("regenerate", {"payload": about, "metadata": {"message_id": "r-1"}})
        told = await raw.ask("user_message", {"payload": {"text": "other"}, "metadata": {"message_id": "r-1"}})
    assert (told["payload"]["code"], told["payload"]["field"]) == ("invalid_message", "metadata.message_id")
    history = await client.history()
    assert [line["message_id"] for line in history["messages"] if line["role"] == "user"] == [first.in_response_to]


async def test_too_many_waiting_messages_are_refused_as_busy(connect: Connect, model: ScriptedModel) -> None:
    model.script(contains="block-the-queue", token_delay_s=0.05, count=2000)
    client = await connect()
    first = await client.send("block-the-queue")
    await client.receipt(first)
    ids = [await client.send(f"waiting {index}") for index in range(10)]
    refused = await eventually(lambda: [one for one in ids if client.failure(one)])
    assert {client.failure(one).code for one in refused} == {"busy"}
    await client.stop(first)
    await client.answer(first)


async def test_feedback_is_stored_relayed_and_shown_in_history(connect: Connect) -> None:
    phone, tablet = await connect(), await connect()
    answer = await phone.ask("rate this")
    await phone.feedback(answer.message_id, "down", comment="too short")
    await tablet.until(lambda state: state.last_seq == 3)
    line = (await tablet.history())["messages"][-1]
    assert line["feedback"]["rating"] == "down"
    assert line["feedback"]["comment"] == "too short"


async def test_feedback_on_nothing_is_not_found(connect: Connect) -> None:
    client = await connect()
    with pytest.raises(RequestFailed) as failure:
        await client.feedback("no-such-message", "up")
    assert failure.value.code == "not_found"


async def test_the_host_context_reaches_the_prompt_as_data(connect: Connect, model: ScriptedModel, user: str) -> None:
    client = await connect(context={"page": "/invoices", "filter": {"year": 2025, "open": True}})
    await client.update_context({"filter": {"open": None}, "selection": f"invoice of {user}"})
    await client.ask(f"what am I looking at? {user}")
    prompt = str(model.asked_to_answer(f"what am I looking at? {user}"))
    assert "/invoices" in prompt
    assert "2025" in prompt
    assert '"open"' not in prompt


async def test_a_context_may_have_any_names(connect: Connect, model: ScriptedModel, user: str) -> None:
    client = await connect()
    await client.update_context({"$set": {"a.b": 1, "": user}, "a.b": {"$x": [1.5, None, {"y": True}]}})
    await client.ask(f"odd names {user}")
    prompt = str(model.asked_to_answer(f"odd names {user}"))
    assert f'"":"{user}"' in prompt.replace('": "', '":"')


async def test_a_message_that_waits_is_shown_as_queued(connect: Connect, model: ScriptedModel, user: str) -> None:
    model.script(contains=f"slow {user}", token_delay_s=0.02, count=20)
    seen: list[dict] = []
    client = await connect(on_envelope=lambda way, envelope: seen.append(envelope))
    await client.receipt(await client.send(f"slow {user}"))
    waiting = await client.send(f"next {user}")
    await client.answer(waiting)
    states = [
        one["payload"]["state"]
        for one in seen
        if one["type"] == "twin_thinking" and one["metadata"]["in_response_to"] == waiting
    ]
    assert states == ["queued", "recalling", "thinking", "done"]


async def test_a_context_update_reaches_the_other_devices(connect: Connect) -> None:
    seen: list[dict] = []
    phone = await connect()
    await connect(on_envelope=lambda way, envelope: seen.append(envelope))
    await phone.update_context({"page": "/home"})
    await eventually(lambda: [one for one in seen if one["type"] == "context_update"])


async def test_typing_and_presence_reach_the_other_devices_only(connect: Connect) -> None:
    seen: dict[str, list[str]] = {"phone": [], "tablet": []}
    phone = await connect(on_envelope=lambda way, e: seen["phone"].append(e["type"]) if way == "in" else None)
    tablet = await connect(on_envelope=lambda way, e: seen["tablet"].append(e["type"]) if way == "in" else None)
    await eventually(lambda: "presence" in seen["phone"])
    await phone.typing(True)
    await eventually(lambda: "typing_indicator" in seen["tablet"])
    assert "typing_indicator" not in seen["phone"]
    await tablet.close()
    await eventually(lambda: seen["phone"].count("presence") == 2)


async def test_reading_up_to_a_message_counts_down_the_unread(connect: Connect) -> None:
    client = await connect()
    await client.ask("first")
    answer = await client.ask("second")
    before = (await client.conversations())[0]
    await client.read(answer.message_id)
    after = await eventually(lambda: _read(client))
    assert (before["unread"], after["unread"]) == (2, 0)
    assert before["title"] == "first"


async def _read(client: TwinClient) -> dict | None:
    listed = (await client.conversations())[0]
    return listed if listed["unread"] == 0 else None


async def test_history_pages_are_stable_and_meet(connect: Connect) -> None:
    client = await connect()
    for index in range(4):
        await client.ask(f"line {index}")
    newest = await client.history(limit=3)
    older = await client.history(limit=3, before=newest["messages"][0]["message_id"])
    oldest = await client.history(limit=3, before=older["messages"][0]["message_id"])
    lines = [*oldest["messages"], *older["messages"], *newest["messages"]]
    assert [line["seq"] for line in lines] == list(range(1, 9))
    assert (newest["has_more"], oldest["has_more"]) == (True, False)
    forward = await client.history(limit=3, after=lines[0]["message_id"])
    assert [line["seq"] for line in forward["messages"]] == [2, 3, 4]


async def test_the_prompt_holds_the_conversation_so_far(connect: Connect, model: ScriptedModel, user: str) -> None:
    client = await connect()
    answer = await client.ask(f"remember {user}")
    asked = f"what did I say to {user}?"
    await client.ask(asked)
    prompts = [[one["content"] for one in request["messages"]] for request in model.requests]
    prompt = next(prompt for prompt in prompts if prompt[-1] == asked)
    assert f"remember {user}" in prompt
    assert answer.text in prompt


async def test_a_heartbeat_tells_the_head_of_the_log(connect: Connect) -> None:
    client = await connect()
    await client.ask("one")
    assert await client.heartbeat() == 2


async def test_a_refresh_keeps_the_user(connect: Connect, user: str) -> None:
    """A fresh token of the same user is taken and of another refused."""
    client = await connect()
    await client.refresh(token_of(user, ttl_s=7200))
    with pytest.raises(RequestFailed) as failure:
        await client.refresh(token_of("somebody-else"))
    assert failure.value.code == "forbidden"


async def test_a_dropped_device_resumes_without_a_gap_or_a_repeat(connect: Connect) -> None:
    phone, tablet = await connect(), await connect()
    await phone.ask("before")
    await tablet.until(lambda state: state.last_seq == 2)
    await tablet.drop()
    for index in range(3):
        await phone.ask(f"while away {index}")
    await tablet.until(lambda state: state.last_seq == 8)
    assert [m.seq for m in tablet.state.transcript()] == list(range(1, 9))


async def test_a_new_device_gets_a_merged_chunk(connect: Connect, model: ScriptedModel) -> None:
    """A new device in the middle of an answer gets it merged."""
    model.script(contains="long-one", token_delay_s=0.03, count=60)
    phone = await connect()
    message_id = await phone.send("long-one")
    await phone.until(lambda state: (g := state.generation_of(message_id)) and len(g.text) > 60)
    seen: list[dict] = []
    tablet = await connect(on_envelope=lambda way, envelope: seen.append(envelope))
    answer = await tablet.answer(message_id)
    chunks = [one["payload"] for one in seen if one["type"] == "twin_message_chunk"]
    assert chunks[0]["first_chunk_index"] == 0
    assert "".join(chunk["text"] for chunk in chunks) == answer.text


async def test_the_same_session_id_again_replaces_the_earlier_connection(connect: Connect, user: str, url: str) -> None:
    first = await connect(session_id="my-phone")
    second = await connect(session_id="my-phone")
    await eventually(lambda: not first.is_connected)
    assert second.is_connected


async def test_one_session_twice_keeps_one_connection(url: str, user: str) -> None:
    """Of two connections of one session that come at once one stays."""
    for turn in range(30):
        pair = [RawSocket(url, token_of(f"{user}-{turn}"), session_id="same") for _ in range(2)]
        async with the_one_that_stays(pair) as stays:
            assert (await stays.ask("heartbeat", {}))["type"] == "heartbeat_ack"
            assert not stays.leave


async def test_a_session_is_refused_with_a_code(url: str, user: str) -> None:
    cases = {
        "auth_missing": TwinClient(url, ""),
        "auth_invalid": TwinClient(url, "not.a.token"),
        "auth_expired": TwinClient(url, token_of(user, ttl_s=-60)),
        "auth_user_mismatch": TwinClient(url, token_of(user), user_id="somebody-else"),
        "session_invalid": TwinClient(url, token_of(user), session_id="not an id"),
        "auth_forbidden": TwinClient(url, token_of(user, scope="nothing:much")),
    }
    for code, client in cases.items():
        with pytest.raises(HandshakeRefused) as refused:
            await client.connect()
        assert refused.value.code == code
        await client.close()


async def test_a_repeat_while_catching_up_makes_no_gap(url: str, user: str, settings: Settings) -> None:
    """A repeat from a device that is still catching up makes no hole."""
    client, db = mongo.connect(settings.storage.mongodb_url, settings.storage.mongodb_database, 5000)
    said = [draft(user, f"m-{index}") for index in range(1, 3001)]
    await db["events"].insert_many([{**asdict(one), "seq": seq} for seq, one in enumerate(said, 1)])
    client.close()
    async with RawSocket(url, token_of(user), last_seq=0) as back:
        await back.ask("user_message", {"payload": {"text": "hi"}, "metadata": {"message_id": "m-3000"}})
        assert not back.of("resumed")  # it was asked for in the middle
        await back.until(lambda: back.of("resumed"))
        seqs = [one["metadata"]["seq"] for one in back.events if "seq" in one["metadata"]]
        assert seqs[:3000] == list(range(1, 3001))
        receipts = back.of("message_received")
        assert [one["payload"] for one in receipts] == [{"message_id": "m-3000", "status": "duplicate"}]


async def test_resume_reads_the_log(url: str, user: str, settings: Settings) -> None:
    """Who asks to resume gets what the log has also where the instance received nothing of it."""
    async with RawSocket(url, token_of(user)) as asks, RawSocket(url, token_of(user)) as listens:
        client, db = mongo.connect(settings.storage.mongodb_url, settings.storage.mongodb_database, 5000)
        said = [draft(user, f"m-{index}") for index in range(1, 301)]
        await db["events"].insert_many([{**asdict(one), "seq": seq} for seq, one in enumerate(said, 1)])
        client.close()
        await asks.emit("resume", {"payload": {"last_seq": 0}})
        for one in (asks, listens):
            await one.until(lambda one=one: len(one.of("user_message")) == 300)
            assert [event["metadata"]["seq"] for event in one.of("user_message")] == list(range(1, 301))
        await asks.until(lambda: asks.of("resumed"))
        assert asks.of("resumed")[0]["payload"] == {"through_seq": 300, "complete": True}


@pytest.mark.parametrize("last_seq", [300, None])
async def test_a_client_ahead_of_its_instance_gets_nothing_twice(
    url: str, user: str, settings: Settings, last_seq: int | None
) -> None:
    """A client that has seen more than the instance gets nothing twice, and nothing is missing."""
    async with RawSocket(url, token_of(user)) as listens:
        client, db = mongo.connect(settings.storage.mongodb_url, settings.storage.mongodb_database, 5000)
        said = [draft(user, f"m-{index}") for index in range(1, 301)]
        await db["events"].insert_many([{**asdict(one), "seq": seq} for seq, one in enumerate(said, 1)])
        client.close()
        async with RawSocket(url, token_of(user), last_seq=last_seq) as comes:
            assert comes.of("session_ready")[0]["payload"]["seq"] == 300
            await listens.until(lambda: len(listens.of("user_message")) == 300)
            await comes.ask("user_message", {"payload": {"text": "hi"}, "metadata": {"message_id": "m-301"}})
            assert comes.of("message_received")[0]["metadata"]["seq"] == 301
            assert not comes.of("user_message")
            resumed = [one["payload"] for one in comes.of("resumed")]
            assert resumed == ([{"through_seq": 300, "complete": True}] if last_seq else [])

"""When MongoDB or the model fails: a coded error, nothing acknowledged that was not stored, and life afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Connect, settings_for, token_of, url_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.client import HandshakeRefused
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, start_mongod
from twin_sio.runtime.serve import Service, service


@pytest.fixture(scope="module")
async def own_mongod(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mongod]:
    engine = start_mongod(tmp_path_factory.mktemp("own-mongod"))
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
async def fragile(own_mongod: Mongod, redis_server: RedisServer, model: ScriptedModel) -> AsyncIterator[Service]:
    """A server whose MongoDB is killed, and which does not wait long for it or for the model."""
    settings = settings_for(
        own_mongod.url,
        redis_server.url,
        model.base_url,
        storage__mongodb_timeout_ms=700,
        model__first_token_s=2.0,
        tuning__model_stall_s=0.5,
        tuning__turn_lease_s=2.0,
    )
    async with service(settings) as running:
        yield running


async def test_without_mongodb_nothing_is_acknowledged_and_back_again_all_works(
    fragile: Service, own_mongod: Mongod, connect: Connect, user: str
) -> None:
    async with RawSocket(url_of(fragile), token_of(user)) as raw:
        own_mongod.kill()
        message = {"payload": {"text": "are you there?"}, "metadata": {"message_id": "m-1"}}
        answer = await raw.ask("user_message", message)
        assert answer["payload"]["code"] == "storage_unavailable"
        assert answer["payload"]["retryable"] is True
        assert raw.of("message_received") == []
        with pytest.raises(HandshakeRefused) as refused:
            await connect(url_of(fragile))
        assert (refused.value.code, refused.value.retryable) == ("unavailable", True)
        own_mongod.restart()
        receipt = await eventually(lambda: _accepted(raw, message), timeout=20)
        assert receipt["payload"]["status"] == "accepted"
        await raw.until(lambda: raw.of("twin_message"))


async def test_resume_without_mongodb_fails_and_recovers(fragile: Service, own_mongod: Mongod, user: str) -> None:
    """A resume without MongoDB fails with a code and may go on and is served once it is back."""
    async with RawSocket(url_of(fragile), token_of(user)) as raw:
        said = {"payload": {"text": "are you there?"}, "metadata": {"message_id": "m-1"}}
        await raw.ask("user_message", said)
        await raw.until(lambda: raw.of("twin_message"))
        own_mongod.kill()
        for name, envelope in (("resume", {"payload": {"last_seq": 0}}), ("user_message", said)):
            answer = await raw.ask(name, envelope)
            assert answer["payload"]["code"] == "storage_unavailable"
        assert not raw.of("resumed")
        own_mongod.restart()
        await raw.until(lambda: raw.of("resumed"), timeout=20)
        assert raw.of("resumed")[0]["payload"] == {"through_seq": 2, "complete": True}
        assert [one["metadata"]["seq"] for one in raw.of("twin_message")] == [2, 2]  # live, and once more as asked


async def _accepted(raw: RawSocket, message: dict) -> dict | None:
    answer = await raw.ask("user_message", message)
    return answer if answer["type"] == "message_received" else None


@pytest.mark.parametrize(
    ("word", "script", "code"),
    [
        ("refusing", {"status": 500}, "model_unavailable"),
        ("unauthorized", {"status": 401}, "model_key_refused"),
        ("hanging", {"hang": True}, "model_timeout"),
        ("stalling", {"hang_after": 3}, "model_timeout"),
        ("cutting", {"cut_after": 3}, "model_unavailable"),
        ("rubbish", {"rubbish_after": 2}, "model_unavailable"),
        ("nothing", {"empty_choices": True}, "model_unavailable"),
    ],
)
async def test_a_failing_model_spoils_no_later_message(
    word: str, script: dict, code: str, fragile: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    """A failing model is a coded error and the next message works."""
    seen: list[dict] = []
    text = f"{word} {user}"
    model.script(contains=text, **script)
    client = await connect(url_of(fragile), on_envelope=lambda way, envelope: seen.append(envelope))
    answer = await client.ask(text)
    errors = [one["payload"] for one in seen if one["type"] == "error"]
    assert [one["code"] for one in errors] == [code]
    assert answer.status == "failed"
    chunks = [one["payload"]["text"] for one in seen if one["type"] == "twin_message_chunk"]
    assert "".join(chunks) == answer.text
    assert bool(answer.text) == (word in ("stalling", "cutting", "rubbish"))
    after = await client.ask("and now?")
    assert after.status == "complete"
    history = await client.history()
    assert [line["text"] for line in history["messages"] if line["role"] == "user"] == [text, "and now?"]


async def test_no_error_text_holds_the_key_or_the_endpoint(
    fragile: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    seen: list[str] = []
    model.script(contains=user, status=500)
    client = await connect(url_of(fragile), on_envelope=lambda way, envelope: seen.append(str(envelope)))
    await client.ask(f"fail for {user}")
    received = [one for one in seen if "'error'" in one]
    assert received
    assert not any("scripted" in one or "127.0.0.1" in one for one in received)

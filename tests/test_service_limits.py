"""How much may be asked for: over all instances, with a true time to wait, and never of a repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import settings_for, token_of, url_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.clock import monotonic, new_id
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, start_redis
from twin_sio.runtime.serve import Service, service
from twin_sio.services import limits
from twin_sio.services.limits import CONNECTS_AT, MESSAGES_AT, SHED_AT
from twin_sio.store.ports import Quota
from twin_sio.transport.client_address import TrustedProxies

Make = Callable[..., Any]


@pytest.fixture
async def instances(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel
) -> AsyncIterator[Callable[..., Any]]:
    """`await instances(n, **settings)` gives so many servers with these settings."""
    async with AsyncExitStack() as stack:

        async def make(count: int = 1, **more: Any) -> list[Service]:
            settings = settings_for(mongod.url, redis_server.url, model.base_url, **more)
            return [await stack.enter_async_context(service(settings)) for _ in range(count)]

        yield make


async def say(raw: RawSocket, text: str = "hi", conversation: str = "main", message_id: str = "") -> dict[str, Any]:
    metadata = {"message_id": message_id or new_id(), "conversation_id": conversation}
    return await raw.ask("user_message", {"payload": {"text": text}, "metadata": metadata})


async def refusal(service_: Service, user: str, **more: Any) -> dict[str, Any] | None:
    async with RawSocket(url_of(service_), token_of(user), **more) as raw:
        return raw.refusal["data"] if raw.refusal is not None else None


# -- messages --------------------------------------------------------------------------------------------------------


async def test_messages_are_counted_over_all_instances(instances: Make, user: str) -> None:
    """Messages are counted over all instances and a repeat is not."""
    one, two = await instances(2, limits__messages_per_minute=3)
    async with RawSocket(url_of(one), token_of(user)) as here, RawSocket(url_of(two), token_of(user)) as there:
        answers = [await say(raw, message_id=f"m-{n}") for n, raw in enumerate([here, there, here, there])]
        assert [answer["type"] for answer in answers] == ["message_received"] * 3 + ["error"]
        assert answers[3]["payload"]["code"] == "rate_limited"
        for raw in (here, there):
            assert (await say(raw, message_id="m-0"))["payload"]["status"] == "duplicate"


async def test_the_time_to_wait_is_true(instances: Make, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin_sio.services.limits._MINUTE_S", 2)
    [one] = await instances(1, limits__messages_per_minute=2)
    async with RawSocket(url_of(one), token_of(user)) as raw:
        began = monotonic()
        assert [(await say(raw))["type"] for _ in range(2)] == ["message_received"] * 2
        limited = (await say(raw))["payload"]
        due = monotonic() + limited["retry_after_ms"] / 1000
        assert began + 1.9 < due < began + 3
        early = (await say(raw))["payload"]
        assert early["code"] == "rate_limited"
        await eventually(lambda: monotonic() >= due)
        assert (await say(raw))["type"] == "message_received"


async def test_who_comes_back_when_told_is_taken(instances: Make, user: str) -> None:
    """The time to wait counts what the refusal itself has cost."""
    [one] = await instances(1, limits__events_per_second=5)
    async with RawSocket(url_of(one), token_of(user)) as raw:
        limited = None
        while limited is None:
            answer = (await raw.ask("history", {"payload": {}}))["payload"]
            limited = answer.get("retry_after_ms")
        await asyncio.sleep(limited / 1000)  # as a client does
        assert (await raw.ask("heartbeat", {"payload": {}}))["type"] == "heartbeat_ack"


async def test_used_up_tokens_end_the_day(instances: Make, user: str) -> None:
    """An answer that used up the tokens of the day is the last."""
    one, two = await instances(2, limits__tokens_per_day=1)
    async with RawSocket(url_of(one), token_of(user)) as here, RawSocket(url_of(two), token_of(user)) as there:
        await say(here, message_id="m-0")
        await here.until(lambda: here.of("twin_message"))
        limited = await eventually(lambda: _refused(there))
        assert limited["code"] == "rate_limited"
        assert 80_000_000 < limited["retry_after_ms"] <= 86_401_000
        assert (await say(there, message_id="m-0"))["payload"]["status"] == "duplicate"


async def test_the_tokens_of_a_stopped_answer_count(instances: Make, model: ScriptedModel, user: str) -> None:
    """Nobody reports its usage: what the model was sent counts by its length."""
    model.script(contains=f"long-{user}", streams=True, times=1, tokens=["a ", "b"], hold_after=1)
    [one] = await instances(1, limits__tokens_per_day=500)
    async with RawSocket(url_of(one), token_of(user)) as raw:
        await raw.ask("user_message", {"payload": {"text": f"long-{user} " * 100}, "metadata": {"message_id": "m-0"}})
        await raw.until(lambda: raw.of("twin_message_chunk"))
        await raw.emit("stop_generation", {"payload": {"message_id": "m-0"}})
        (answer,) = await raw.until(lambda: raw.of("twin_message"))
        assert answer["payload"]["status"] == "stopped"
        next_one = await say(raw)
        if next_one["type"] == "message_received":  # quicker than the count, which is done before it is answered
            await raw.until(lambda: len(raw.of("twin_message")) == 2)
            next_one = await say(raw)
        assert next_one["payload"]["code"] == "rate_limited"
    model.release(f"long-{user}")


async def _refused(raw: RawSocket) -> dict[str, Any] | None:
    answer = await say(raw)
    return answer["payload"] if answer["type"] == "error" else None


async def test_without_redis_limits_are_local(mongod: Mongod, model: ScriptedModel, folder: Path, user: str) -> None:
    """Without Redis there is a local limit."""
    redis = start_redis(folder)
    try:
        settings = settings_for(mongod.url, redis.url, model.base_url, limits__messages_per_minute=3)
        async with service(settings) as running, RawSocket(url_of(running), token_of(user)) as raw:
            redis.kill()
            answers = [await say(raw) for _ in range(5)]
            assert [one["type"] for one in answers] == ["message_received"] * 3 + ["error"] * 2
            assert answers[4]["payload"]["code"] == "rate_limited"
    finally:
        redis.stop()


async def test_a_users_answers_at_once_are_bounded(instances: Make, user: str, model: ScriptedModel) -> None:
    """The answers of one user at once are bounded over all instances."""
    one, two = await instances(2, tuning__generations_per_user=2)
    text = f"slow {user}"
    model.script(contains=text, tokens=["a ", "b"] * 3, token_delay_s=0.05)
    async with RawSocket(url_of(one), token_of(user)) as here, RawSocket(url_of(two), token_of(user)) as there:
        for n in range(6):
            await say((here, there)[n % 2], text, conversation=f"c-{n}")
        await here.until(lambda: len(here.of("twin_message")) == 6, timeout=30)
    assert {answer["payload"]["status"] for answer in here.of("twin_message")} == {"complete"}
    assert model.peak_by_text[text] == 2


async def test_waiting_conversations_are_no_load(
    instances: Make, user: str, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conversations that wait for their users others are no load and leave the store alone."""
    [one] = await instances(1, tuning__generations_per_user=2)
    runner, text, asked = one.services.runner, f"slow {user}", 0
    acquire = one.services.turns.acquire

    async def counted(*about: Any) -> bool:
        nonlocal asked
        asked += 1
        return await acquire(*about)

    monkeypatch.setattr(one.services.turns, "acquire", counted)
    model.script(contains=text, tokens=["a", "b"], hold_after=1)
    async with RawSocket(url_of(one), token_of(user)) as raw:
        for n in range(8):
            assert (await say(raw, text, conversation=f"c-{n}"))["type"] == "message_received"
        await eventually(lambda: (runner.generating, runner.running, runner.waiting) == (2, 2, 6))
        before = asked
        await asyncio.sleep(1.0)
        assert asked == before
        model.release(text)
        await raw.until(lambda: len(raw.of("twin_message")) == 8)
    assert model.peak_by_text[text] == 2
    await eventually(lambda: (runner.running, runner.waiting) == (0, 0))
    assert not runner._user_slots._users


async def test_too_many_owed_answers_of_one_user_are_busy(instances: Make, user: str, model: ScriptedModel) -> None:
    [one] = await instances(1, tuning__pending_turns_per_user=3)
    text = f"slow {user}"
    model.script(contains=text, tokens=["a", "b"], hold_after=1)
    async with RawSocket(url_of(one), token_of(user)) as raw:
        answers = [await say(raw, text, conversation=f"c-{n}") for n in range(4)]
        assert [answer["type"] for answer in answers] == ["message_received"] * 3 + ["error"]
        assert answers[3]["payload"]["code"] == "busy"
        model.release(text)
        await raw.until(lambda: len(raw.of("twin_message")) == 3)


# -- connects --------------------------------------------------------------------------------------------------------


async def test_connects_of_one_user_are_counted_over_all_instances(instances: Make, user: str) -> None:
    one, two = await instances(2, limits__connects_per_minute=2)
    refusals = [await refusal(where, user) for where in (one, two, one)]
    assert refusals[:2] == [None, None]
    assert refusals[2] is not None
    assert refusals[2]["code"] == "rate_limited"
    assert refusals[2]["retryable"]
    assert 0 < refusals[2]["retry_after_ms"] <= 60_000
    assert await refusal(one, f"{user}-other") is None


async def test_connects_from_one_address_are_counted_good_tokens_or_not(
    mongod: Mongod, model: ScriptedModel, folder: Path, user: str
) -> None:
    redis = start_redis(folder)  # of its own: everybody else comes from this address, too
    try:
        settings = settings_for(
            mongod.url, redis.url, model.base_url, limits__connects_per_address=3, server__trusted_proxies="127.0.0.1"
        )
        async with service(settings) as running:
            url = url_of(running)
            for token in ("bad", "bad", token_of(user)):
                async with RawSocket(url, token):
                    pass
            async with RawSocket(url, token_of(user)) as limited:
                assert limited.refusal is not None
                assert limited.refusal["data"]["code"] == "rate_limited"
            async with RawSocket(url, token_of(user), headers={"X-Forwarded-For": "9.9.9.9, 203.0.113.7"}) as elsewhere:
                assert elsewhere.refusal is None
            # Sockets that never say who they are meet a wall of twice as many.
            opened = await asyncio.gather(*(_is_opened(url) for _ in range(8)))
            assert False in opened
    finally:
        redis.stop()


async def _is_opened(url: str) -> bool:
    stranger = RawSocket(url, None)
    try:
        await stranger.open()
    except aiohttp.WSServerHandshakeError:
        return False
    await stranger.__aexit__(None, None, None)
    return True


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("198.51.100.1", "203.0.113.7", "198.51.100.1"),  # not from a proxy of ours: not believed
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.7", "203.0.113.7"),  # what the client wrote itself
        ("10.0.0.1", "203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("10.0.0.1", "forged, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "[2001:db8:1:2:3::4]", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "", "2001:db8:1:2::/64"),
        (None, "203.0.113.7", ""),
    ],
)
def test_only_our_own_proxies_say_where_a_client_is(peer: str | None, forwarded: str, address: str) -> None:
    assert TrustedProxies(["10.0.0.0/8"]).address(peer, forwarded) == address


async def test_http_requests_are_limited_per_user(instances: Make, user: str) -> None:
    [one] = await instances(1, limits__requests_per_minute=2)
    headers = {"Authorization": f"Bearer {token_of(user, scope='twin:data')}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        statuses = []
        for _ in range(3):
            async with http.get(f"{url_of(one)}/v1/export") as got:
                statuses.append(got.status)
                last = await got.read()
    assert statuses == [200, 200, 429]
    assert b'"retry_after_ms"' in last


# -- overload --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(url: str, count: int, model: ScriptedModel, word: str) -> AsyncIterator[None]:
    """So many users whose answers have begun and go on until the block is over."""
    model.script(contains=word, tokens=["still ", "at ", "it"], hold_after=1)
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(RawSocket(url, token_of(f"{word}-{n}"))) for n in range(count)]
        for raw in sockets:
            await say(raw, word)
            await raw.until(lambda raw=raw: raw.of("twin_message_chunk"))
        yield
        model.release(word)
        for raw in sockets:
            await raw.until(lambda raw=raw: raw.of("twin_message"))
            assert raw.of("twin_message")[0]["payload"]["status"] == "complete"


async def test_overload_sheds_in_order(instances: Make, user: str, model: ScriptedModel) -> None:
    """Overload takes ephemera first then connects then messages and never an answer."""
    assert (SHED_AT, CONNECTS_AT, MESSAGES_AT) == (0.75, 0.9, 1.0)
    [one] = await instances(1, overload__generations=20, overload__lag_ms=0)
    url = url_of(one)
    typing = {"payload": {"is_typing": True}}
    async with RawSocket(url, token_of(user)) as here, RawSocket(url, token_of(user)) as there:
        await here.ask("typing_indicator", typing)
        await there.until(lambda: len(there.of("typing_indicator")) == 1)
        async with answering(url, 15, model, f"first-{user}"):  # 0.75
            await here.ask("typing_indicator", typing)
            assert (await say(here, message_id="m-1"))["type"] == "message_received"
            await there.until(lambda: there.of("twin_message"))
            assert len(there.of("typing_indicator")) == 1
            await eventually(lambda: one.services.runner.running == 15)
            presences = len(here.of("presence"))
            assert await refusal(one, user) is None
            async with answering(url, 3, model, f"second-{user}"):  # 0.9
                refused = await refusal(one, user)
                assert refused is not None
                assert (refused["code"], refused["retryable"]) == ("overloaded", True)
                assert refused["retry_after_ms"] > 0
                assert (await say(here))["type"] == "message_received"
                await there.until(lambda: len(there.of("twin_message")) == 2)
                await eventually(lambda: one.services.runner.running == 18)
                model.script(contains=f"third-{user}", tokens=["a", "b"], hold_after=1)
                for n in range(2):  # 1.0
                    assert (await say(here, f"third-{user}", conversation=f"c-{n}"))["type"] == "message_received"
                await eventually(lambda: one.services.runner.running == 20)
                full = await say(here)
                assert full["payload"]["code"] == "overloaded"
                assert full["payload"]["retry_after_ms"] > 0
                assert (await say(here, message_id="m-1"))["payload"]["status"] == "duplicate"
                assert (await here.ask("heartbeat", {}))["type"] == "heartbeat_ack"
                assert (await here.ask("history", {"payload": {}}))["type"] == "history"
                model.release(f"third-{user}")
                await there.until(lambda: len(there.of("twin_message")) == 4)
            assert len(here.of("presence")) == presences
        assert (await say(here))["type"] == "message_received"
        assert await refusal(one, user) is None


async def test_one_long_step_is_no_overload(instances: Make, user: str) -> None:
    """A loop that is always late is overload and one long step is not."""
    [one] = await instances(1, overload__lag_ms=200)
    load = one.services.load
    _block(0.1)
    await eventually(lambda: load.take_worst_lag() > 0.05)
    assert load() < SHED_AT
    async with RawSocket(url_of(one), token_of(user)) as raw:
        async with asyncio.timeout(20):
            while load() < 2:
                _block(0.5)
                await asyncio.sleep(0.011)
        assert (await say(raw))["payload"]["code"] == "overloaded"
        await eventually(lambda: load() < SHED_AT)
        assert (await say(raw))["type"] == "message_received"


def _block(seconds: float) -> None:
    until = monotonic() + seconds
    while monotonic() < until:
        pass


async def test_corrections_of_a_profile_are_counted(
    instances: Make, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_CORRECTIONS", Quota("corrections", 2, 60))
    [one] = await instances(1)
    async with RawSocket(url_of(one), token_of(user)) as raw:
        asked = {"payload": {"trait_id": "trait-none", "action": "reject"}}
        codes = [
            (await raw.ask("profile_correct", {**asked, "metadata": {"message_id": new_id()}}))["payload"]["code"]
            for _ in range(3)
        ]
    assert codes == ["not_found", "not_found", "rate_limited"]

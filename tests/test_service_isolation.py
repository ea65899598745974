"""Nobody sees another's data: ids are guessed and crossed, sessions share names, and the log holds no words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as prop
from hypothesis import strategies as st

from tests.conftest import examples, token_of, url_of
from tests.processes import Process, environment, started
from tests.processes import token_of as real_token_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.test_service_learning import candidates, likes
from tests.waiting import eventually
from twin_sio.client import TwinClient
from twin_sio.clock import new_id
from twin_sio.config import Settings
from twin_sio.http.rest import ROUTES
from twin_sio.protocol import CLIENT_EVENTS
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service


@pytest.fixture
async def ada(url: str, user: str, model: ScriptedModel, worker: None) -> AsyncIterator[TwinClient]:
    """Somebody with a conversation, a profile and a secret: her own name."""
    text = f"I prefer tea, {user}"
    model.script(contains=text, json_answer=candidates(likes("tea", "I prefer tea", key="preferences.drink")))
    async with TwinClient(url, token_of(user), session_id="shared-name", context={"page": user}) as client:
        await client.ask(text, message_id=f"m-{user}")
        await client.until(lambda state: state.profile_version == 1)
        yield client


async def test_the_ids_of_another_user_lead_nowhere(ada: TwinClient, url: str, user: str) -> None:
    said, answer = ada.state.transcript()
    trait = (await ada.profile())["traits"][0]
    crossed: dict[str, dict[str, Any]] = {
        "feedback": {"message_id": answer.message_id, "rating": "down"},
        "read_receipt": {"message_id": answer.message_id},
        "stop_generation": {"message_id": said.message_id},
        "regenerate": {"message_id": said.message_id},
        "history": {"before": answer.message_id},
        "profile_correct": {"trait_id": trait["trait_id"], "action": "reject"},
    }
    async with RawSocket(url, token_of(f"{user[:-1]}-not")) as eve:
        for name, payload in crossed.items():
            answered = await eve.ask(name, {"payload": payload, "metadata": {"message_id": "e-1"}})
            assert answered["payload"]["code"] == "not_found", name
    assert (await ada.profile())["traits"][0]["status"] == "applied"


async def test_no_event_of_one_user_reaches_a_session_of_another(ada: TwinClient, url: str, user: str) -> None:
    eve_id = "eve-" + user[-6:]
    async with RawSocket(url, token_of(eve_id), session_id="shared-name", last_seq=0) as eve:
        assert ada.is_connected  # the same session id of another user replaces nobody
        asks: dict[str, dict[str, Any]] = {
            "resume": {"last_seq": 0},
            "history": {},
            "conversations": {},
            "search": {"text": user[-4:]},
            "profile_get": {},
            "heartbeat": {},
            "context_update": {"context": {"user_id": user}},
            "user_message": {"text": f"show me what {user[-4:]} said", "user_id": user},
        }
        answers = {
            name: await eve.ask(name, {"payload": payload, "metadata": {"message_id": f"m-{user}"}, "user_id": user})
            for name, payload in asks.items()
        }
        await ada.ask("and more")
        await ada.typing(True)
        answer = ada.state.transcript()[-1]
        await ada.feedback(answer.message_id, "up")
        await ada.read(answer.message_id)
        await ada.update_context({"page": f"{user}-again"})
        await eve.until(lambda: eve.of("twin_message"))
        assert (await eve.ask("heartbeat", {}))["payload"]["head_seq"] == 2
        assert answers["history"]["payload"]["messages"] == []
        assert answers["conversations"]["payload"]["conversations"] == []
        assert answers["search"]["payload"] == {"messages": [], "complete": True}
        assert answers["profile_get"]["payload"]["traits"] == []
        assert answers["resume"]["payload"] == {"through_seq": 0, "complete": True}
        assert answers["user_message"]["payload"]["status"] == "accepted"
        assert ada.is_connected
        assert not [one for one in eve.events if user in str(one) and user not in str(one["metadata"])]
        assert {one["metadata"].get("session_id", "shared-name") for one in eve.events} == {"shared-name"}


USERS = ("ada", "bob", "eve")
STEPS = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from(
        ["user_message", "context_update", "typing_indicator", "feedback", "read_receipt", "history", "regenerate"]
    ),
    st.sampled_from(USERS),  # whose message it names
)


async def test_no_event_ever_reaches_a_session_of_another_user(instance: Service, settings: Settings) -> None:
    """Users who share session ids, message ids and conversations, on two instances."""

    @given(steps=st.lists(STEPS, min_size=4, max_size=12))
    @prop(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    async def run(steps: list[tuple[str, str, str]]) -> None:
        mark = new_id()[:8]
        names = {who: f"{who}-{mark}" for who in USERS}
        async with AsyncExitStack() as stack:
            sockets: dict[str, list[RawSocket]] = {}
            for who, name in names.items():
                opened = [RawSocket(url_of(at), token_of(name), session_id=f"s-{n}") for n, at in enumerate(both)]
                sockets[who] = [await stack.enter_async_context(one) for one in opened]
            for number, (who, event, whose) in enumerate(steps):
                asked = {
                    "user_message": {"text": f"I am {names[who]}"},
                    "context_update": {"context": {"who": names[who], "user_id": names[whose]}},
                    "typing_indicator": {"is_typing": True},
                    "feedback": {"message_id": _newest(sockets[whose]), "rating": "up", "comment": names[who]},
                    "read_receipt": {"message_id": _newest(sockets[whose])},
                    "history": {},
                    "regenerate": {"message_id": "m-0"},
                }[event]
                metadata = {"message_id": f"m-{number}"}
                await sockets[who][number % 2].ask(event, {"payload": asked, "metadata": metadata})
            for who, mine in sockets.items():
                said = sum(1 for step in steps if step[:2] == (who, "user_message"))
                for raw in mine:  # what is on its way has come once its answer has
                    await raw.until(lambda raw=raw, said=said: len(raw.of("twin_message")) >= said, timeout=20)
                    assert (await raw.ask("heartbeat", {}))["type"] == "heartbeat_ack"
                    others = {name for other, name in names.items() if other != who}
                    foreign = [one for one in raw.events if any(f"I am {other}" in str(one) for other in others)]
                    foreign += [one for one in raw.events if any(f"'who': '{other}'" in str(one) for other in others)]
                    assert foreign == []

    async with service(settings) as second:
        both = [instance, second]
        await examples(run)


def _newest(sockets: list[RawSocket]) -> str:
    answers = sockets[0].of("twin_message")
    return answers[-1]["metadata"]["message_id"] if answers else "m-0"


async def test_no_route_shows_or_changes_what_is_anothers(ada: TwinClient, url: str, user: str) -> None:
    trait = (await ada.profile())["traits"][0]["trait_id"]
    eve = token_of(f"{user[:-1]}-not", scope="twin:chat twin:profile twin:data")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {eve}"}) as http:
        for name, route in ROUTES.items():
            path = re.sub(r"\{\w+\}", trait, route.path)
            async with http.request(
                route.method, url + path, params={"user_id": user, "sub": user, "text": "hello"}
            ) as got:
                assert got.status == (404 if route.may_be_missing else 200), name
                assert user not in await got.text(), name
    assert (await ada.profile())["traits"][0]["trait_id"] == trait


def test_every_event_that_takes_an_id_of_something_is_crossed() -> None:
    takes_an_id = {
        name
        for name, event in CLIENT_EVENTS.items()
        if event.payload.model_fields.keys() & {"message_id", "trait_id", "before", "after"}
        and name != "conversations"  # its `before` is a seq of the user's own log
    }
    assert takes_an_id == {
        "feedback",
        "read_receipt",
        "stop_generation",
        "regenerate",
        "history",
        "profile_correct",
    }


async def test_no_log_line_holds_a_secret_or_a_word(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, folder: Path, user: str
) -> None:
    """No log line at any level holds a token a key or a word."""
    word = f"canary-{user[-8:]}"
    env = environment(
        mongod.url,
        redis_server.url.removesuffix("0") + "2",
        model.base_url,
        TWIN_MONGODB_DATABASE=f"logs_{user[-6:]}",
        TWIN_LOG_LEVEL="debug",
        OPENAI_API_KEY=f"key-{word}",
    )
    model.script(contains=f"fail {word}", status=500)
    model.script(contains=f"learn {word}", json_answer=candidates(likes(word, f"learn {word}")))
    token = real_token_of(user)
    processes = [await started(Process("server", folder, env)), Process("worker", folder, env)]
    try:
        processes[1].start()
        async with TwinClient(processes[0].url, token, context={"page": word}) as client:
            await client.ask(f"I like to learn {word}")
            await client.until(lambda state: state.profile_version == 1, timeout=30)
            await client.ask(f"fail {word}")
        async with RawSocket(processes[0].url, token) as raw:
            await raw.ask("user_message", {"payload": {"text": [word]}, "metadata": {"message_id": "m"}})
            await raw.ask(word, {"payload": word})
            await raw.send(f'42["{word}')
            await raw.send(f'451-["{word}",{{"_placeholder":true,"num":0}}]')
            await raw.until(lambda: len(raw.of("error")) >= 4)
        async with RawSocket(processes[0].url, f"{token[:-2]}x{word}") as refused:
            assert refused.refusal is not None
        await eventually(lambda: "learned" in processes[1].printed())
    finally:
        await asyncio.gather(*(asyncio.to_thread(one.stop) for one in processes))
    printed = "".join(one.printed() for one in processes)
    assert "connected" in printed
    for secret in (word, token, token[:-2], "a secret of the tests"):
        assert secret not in printed

"""A canary in every secret, token and text: none comes back in a log, a metric, a trace or an error.

Everything is tried at level debug, on a server and a worker with an own collector of traces. What needs no model and
no worker (tokens, frames, requests) is tried on servers at the other levels, too.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from cryptography.fernet import Fernet
from pydantic import AliasChoices

from tests.processes import Process, environment, started
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.test_service_learning import candidates, likes
from tests.test_service_seeing import Collector, collecting
from tests.waiting import eventually
from twin_sio.client import TwinClient
from twin_sio.clock import new_id
from twin_sio.config import GROUPS, ConfigError, Settings
from twin_sio.dev_tokens import create_token
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, free_port
from twin_sio.runtime.serve import service as service_of
from twin_sio.store import mongo

pytestmark = pytest.mark.xdist_group("canary")  # one service is enough
WORD = "kanarienvogel"  # in all that no one may see again
SIGNING = f"{WORD}-signs-with-a-secret-of-thirty-two-bytes"
ADMIN = f"{WORD}-administers-with-thirty-two-bytes-too"
SEALING = Fernet.generate_key().decode()
LEVELS = ("debug", "info", "warning", "error")
DEEP = '{"a":' * 900 + f'"{WORD}"' + "}" * 900


@dataclass
class Service:
    """Servers at every level, a worker at debug, and what watches them."""

    servers: list[Process]
    worker: Process
    model: ScriptedModel
    collector: Collector
    database: Any
    secrets: list[str]
    """What may be in nothing that others see, beside `WORD`."""

    @property
    def processes(self) -> list[Process]:
        return [*self.servers, self.worker]

    def token(self, user: str, **more: Any) -> str:
        token = create_token(user, SIGNING, **more)
        self.secrets.append(token.rpartition(".")[2])  # its signature: without it the rest is worth nothing
        return token


@pytest.fixture(scope="module")
async def service(
    mongod: Mongod, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    folder = tmp_path_factory.mktemp("canary")
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(collecting())
        model = await stack.enter_async_context(ScriptedModel())
        name = f"canary_{new_id()[:8]}"
        env = environment(
            mongod.url,
            # Whoever needs no password may show any.
            redis_server.url.replace("redis://", f"redis://default:{WORD}@").removesuffix("0") + "4",
            model.base_url,
            TWIN_MONGODB_DATABASE=name,
            TWIN_JWT_SECRET=SIGNING,
            TWIN_JWT_PREVIOUS_SECRETS=f"{SIGNING}-before",
            TWIN_ADMIN_UI_SECRET=ADMIN,
            TWIN_ENCRYPTION_KEYS=SEALING,
            OPENAI_API_KEY=f"sk-{WORD}",
            TWIN_EMBEDDINGS_URL=model.base_url,
            TWIN_EMBEDDINGS_KEY=f"sk-{WORD}-embeds",
            TWIN_MODEL_FIRST_TOKEN_S=1,
            tuning={"job_timeout_s": 5},
            TWIN_WATCHDOG_MS=20,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY=100,
        )
        port = free_port()
        processes = [Process("server", folder, {**env, "TWIN_LOG_LEVEL": level}) for level in LEVELS]
        worker = Process("worker", folder, {**env, "TWIN_LOG_LEVEL": "debug", "TWIN_WORKER_PORT": str(port)})
        worker.port = port
        for process in (*processes, worker):
            stack.push_async_callback(asyncio.to_thread, process.stop)
        await asyncio.gather(*(started(one) for one in processes))
        worker.start()
        await eventually(lambda: _answers(worker), 30)
        client, db = mongo.connect(mongod.url, name, 5000)
        stack.callback(client.close)
        yield Service(processes, worker, model, collector, db, [SIGNING, ADMIN, SEALING])


async def _answers(worker: Process) -> bool:
    try:
        async with aiohttp.ClientSession() as http, http.get(f"{worker.url}/healthz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


@pytest.fixture(scope="module", params=range(len(LEVELS)), ids=LEVELS)
def server(request: pytest.FixtureRequest, service: Service) -> Process:
    """A server of each level."""
    return service.servers[request.param]


# -- what goes in ----------------------------------------------------------------------------------------------------


def tokens(service: Service, user: str) -> dict[str, str]:
    """Tokens that say who they are and are not taken, and one that is."""
    good = service.token(user)
    head, claims, signature = good.split(".")
    service.secrets.append(claims)
    return {
        "good": good,
        "expired": service.token(f"{user}-{WORD}", ttl_s=-3600),
        "of another secret": create_token(f"{user}-{WORD}", f"{SIGNING} but another"),
        "broken": f"{head}.{claims}.{signature}{WORD}",
        "without parts": WORD,
        "too long": WORD * 2000,
        "with odd letters": f"{WORD}\u00fc.{WORD}.{WORD}",
    }


async def test_a_token_at_every_entrance(service: Service, server: Process) -> None:
    user = f"ada-{new_id()[:8]}"
    said: list[str] = []
    shown = tokens(service, user)
    ws = server.url.replace("http", "ws", 1)
    async with aiohttp.ClientSession() as http:
        for token in shown.values():
            async with RawSocket(server.url, token, session_id=f"s-{new_id()[:6]}") as raw:
                said.append(json.dumps([raw.refusal, raw.of("error")]))
            plain = token.encode("ascii", "ignore").decode()[:8000]  # what the client library lets through
            for path, protocols, headers in (
                (user, (f"bearer.{plain}",), {}),
                (user, ("twin.v1", f"bearer.{plain}"), {}),
                (user, (plain,), {}),
                (user, ("twin.v1",), {"Authorization": f"Bearer {plain}", "X-Session-ID": f"{WORD} {plain[:50]}"}),
                (quote(plain[:500]), ("twin.v1",), {"Authorization": f"Bearer {plain}"}),
                (f"{user}?ticket={plain[:500]}", ("twin.v1",), {}),
                (f"{user}?session_id={WORD}%20&last_seq={WORD}", ("twin.v1", f"bearer.{plain}"), {}),
            ):
                async with http.ws_connect(f"{ws}/ws/chat/{path}", protocols=protocols, headers=headers) as socket:
                    first = await socket.receive()
                    if "connect_error" in str(first.data):
                        said.append(str(first.data))
            for headers in (
                {"Authorization": f"Bearer {plain}"},
                {"Authorization": plain},
                {"Cookie": f"token={plain}", "Referer": plain, "Origin": plain[:500], "User-Agent": plain},
                {"X-Forwarded-For": plain[:500], "X-Forwarded-Proto": plain[:500], "traceparent": plain[:500]},
            ):
                for path in ("/v1/profile", f"/v1/profile/{WORD}/why", f"/v1/profile?token={plain[:500]}"):
                    said += await asked(http, "GET", server.url + path, headers=headers)
            said += await asked(http, "POST", f"{server.url}/v1/ticket", headers={"Authorization": f"Bearer {plain}x"})
        said += await asked(http, "DELETE", f"{server.url}/v1/data", headers={"Authorization": f"Bearer {WORD}"})
        headers = {"Authorization": f"Bearer {shown['good']}"}
        async with http.post(f"{server.url}/v1/ticket", headers=headers) as answer:
            ticket = (await answer.json())["ticket"]
        service.secrets.append(ticket)
        for _ in range(2):  # it is taken once
            url = f"{ws}/ws/chat/{user}?ticket={ticket}"
            async with http.ws_connect(url, protocols=("twin.v1",)) as socket:
                said.append(str((await socket.receive()).data))
    async with RawSocket(server.url, shown["good"]) as raw:
        for token in (shown["expired"], shown["broken"], WORD, [WORD]):
            said.append(json.dumps((await raw.ask("auth_refresh", {"payload": {"token": token}}))["payload"]))
    nowhere(service, *said)
    await nothing_left(service)


FRAMES: Sequence[str | bytes] = (
    f'42["{WORD}',
    f'42["{WORD}",{{"payload":"{WORD}"}}]',
    f'42["user_message",{{"payload":{{"text":"{WORD}","{WORD}":1}},"metadata":{{"message_id":"m 1 {WORD}"}}}}]',
    f'42["user_message",{{"payload":{{"text":["{WORD}"]}},"metadata":{{"message_id":"m1"}}}}]',
    f'42["user_message",{{"payload":{{"text":"{WORD}\\u0000"}},"metadata":{{"message_id":"m2"}}}}]',
    f'42["user_message",{{"payload":{{"text":"{WORD}\\ud800"}},"metadata":{{"message_id":"m3"}}}}]',
    f'42["user_message",{{"payload":{{"text":"{WORD * 1000}"}},"metadata":{{"message_id":"m4"}}}}]',
    f'42["user_message",{{"{WORD}":1,"payload":{{}},"metadata":{{"{WORD}":"{WORD}","session_id":"{WORD} "}}}}]',
    f'42["context_update",{{"payload":{{"context":{DEEP}}}}}]',
    f'42["context_update",{{"payload":{{"context":{{"{WORD}":1e999,"__proto__":"{WORD}"}}}}}}]',
    f'42["context_update",{{"payload":{{"context":["{WORD}"]}}}}]',
    f'42["feedback",{{"payload":{{"message_id":"{WORD} ","rating":"{WORD}","comment":["{WORD}"]}}}}]',
    f'42["feedback",{{"payload":{{"message_id":"none","rating":"up","comment":"{WORD}","correction":"{WORD}"}}}}]',
    f'42["profile_correct",{{"payload":{{"trait_id":"none","action":"edit","value":"{WORD}"}}}}]',
    f'42["profile_correct",{{"payload":{{"trait_id":"{WORD} ","action":"{WORD}"}}}}]',
    f'42["history",{{"payload":{{"before":"{WORD} ","limit":"{WORD}"}}}}]',
    f'42["resume",{{"payload":{{"last_seq":"{WORD}"}}}}]',
    f'42["regenerate",{{"payload":{{"message_id":"none","conversation_id":"{WORD} "}}}}]',
    f'42["heartbeat","{WORD}","{WORD}"]',
    f'4299999999999999999["{WORD}"]',
    f'42/{WORD},["{WORD}"]',
    f'40/{WORD},{{"token":"{WORD}"}}',
    f'40/admin,{{"username":"{WORD}","password":"{WORD}"}}',
    f'451-["{WORD}",{{"_placeholder":true,"num":0}}]',
    f'43["{WORD}"]',
)
LAST: Sequence[str | bytes] = (f"4{WORD}", f"9{WORD}", f"\x00{WORD}", WORD.encode(), f"b4{WORD}")
"""Frames that end the connection."""


async def test_frames_that_are_no_events(service: Service, server: Process) -> None:
    user = f"bob-{new_id()[:8]}"
    said: list[str] = []
    async with RawSocket(server.url, service.token(user), session_id="mine") as raw:
        for frame in FRAMES:
            await raw.send(frame)
        await raw.until(lambda: len(raw.of("error")) >= 15)
        assert (await raw.ask("heartbeat", {}))["type"] == "heartbeat_ack"
        said += [json.dumps(one["payload"]) for one in raw.of("error")]
    for frame in LAST:
        async with RawSocket(server.url, service.token(user)) as raw:
            await raw.send(frame)
            with_time = asyncio.wait_for(raw.closed.wait(), 0.5)
            await asyncio.gather(with_time, return_exceptions=True)
            said += [json.dumps(one["payload"]) for one in raw.of("error")]
    for frame in (f"40{DEEP}", f'40{{"token":"{WORD}', f'42["{WORD}"]', f"40[{WORD}"):  # before it says who it is
        raw = RawSocket(server.url, None)
        await raw.open()
        try:
            await raw.send(frame)
            await asyncio.gather(asyncio.wait_for(raw.closed.wait(), 0.3), return_exceptions=True)
            said.append(json.dumps([raw.refusal, raw.events]))
        finally:
            await raw.__aexit__(None, None, None)
    auths: Sequence[Mapping[str, Any]] = (
        {"session_id": f"{WORD} "},
        {"user_id": WORD},
        {"context": [WORD]},
        {"context": {WORD: {WORD: [WORD] * 2000}}},
        {"device": WORD},
        {"last_seq": WORD},
        {WORD: WORD},
    )
    for auth in auths:
        async with RawSocket(server.url, service.token(user), **auth) as raw:
            said.append(json.dumps([raw.refusal, [one["payload"] for one in raw.of("error")]]))
    ws = server.url.replace("http", "ws", 1)
    texts = (WORD, f'{{"type":"{WORD}"}}', f'["{WORD}"]', '{"type":["' + WORD, DEEP)
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {service.token(user)}"}) as http,
        http.ws_connect(f"{ws}/ws/chat/{user}", protocols=("twin.v1",)) as socket,
    ):
        for one in texts:
            await socket.send_str(one)
        await socket.send_bytes(WORD.encode())
        refused = 0
        while refused <= len(texts):
            found = await socket.receive_json(timeout=10)
            if found["type"] == "error":
                said.append(json.dumps(found["payload"]))
                refused += 1
    nowhere(service, *said)
    await nothing_left(service)


RAW = (
    f"GET /{WORD} HTTP/9.9\r\n\r\n",
    f"{WORD} / HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET /{WORD} {WORD} HTTP/1.1\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: x\r\n{WORD}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: x\r\n{WORD}\x00: {WORD}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: {WORD} {WORD}\r\nContent-Length: {WORD}\r\n\r\n",
    f"GET /{WORD * 1000} HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {WORD * 1000}\r\n\r\n",
    f"POST /v1/ticket HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{WORD}\r\n",
    f"POST /v1/ticket HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {WORD}\r\nContent-Length: 3\r\n\r\nabc",
    f"GET /ws/chat/{WORD} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    f"Sec-WebSocket-Key: {WORD}\r\nSec-WebSocket-Version: {WORD}\r\n\r\n",
    f"GET http://{WORD}:{WORD}@{WORD}/ HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET //{WORD}[/%00%ff%{WORD} HTTP/1.1\r\nHost: x\r\n\r\n",
    f"\x16\x03\x01{WORD}",
)


async def test_requests_that_are_none_and_routes_that_are_not(service: Service, server: Process) -> None:
    said: list[str] = []
    async with aiohttp.ClientSession() as http:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", WORD.upper()):
            for path in (
                f"/{WORD}",
                f"/v1/{WORD}?{WORD}={WORD}",
                f"/socket.io/?EIO={WORD}&transport={WORD}&sid={WORD}",
            ):
                said += await asked(http, method, server.url + path, data=None if method == "GET" else WORD)
        for headers in ({"Content-Encoding": WORD}, {"Content-Type": WORD}, {"Expect": WORD}):
            said += await asked(http, "POST", f"{server.url}/v1/ticket", data=WORD, headers=headers)
        polling = f"{server.url}/socket.io/?EIO=4&transport=polling"
        for body in (WORD, f"40{WORD}", f"4\x1e{WORD}", f'40{{"token":"{WORD}"}}', f'42["{WORD}"]'):
            async with http.get(polling) as answer:
                sid = json.loads((await answer.text())[1:])["sid"]
            said += await asked(http, "POST", f"{polling}&sid={sid}", data=body)
            said += await asked(http, "GET", f"{polling}&sid={sid}&j={WORD}")
            said += await asked(http, "GET", f"{server.url}/socket.io/?EIO=4&transport={WORD}&sid={sid}")
    for request in RAW:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request.encode("latin-1"))
        writer.write_eof()
        answered = await asyncio.wait_for(asyncio.gather(reader.read(), return_exceptions=True), 20)
        said.append(str(answered))
        writer.close()
    nowhere(service, *said)
    await nothing_left(service)


async def asked(http: aiohttp.ClientSession, method: str, url: str, **more: Any) -> list[str]:
    """Everything that is answered, where it is no success."""
    async with http.request(method, url, **more) as answer:
        text = await answer.text()
        return [] if answer.ok else [text, str(answer.headers)]


async def test_a_conversation_with_a_model_that_fails_in_every_way(service: Service) -> None:
    server, model, user = service.servers[0], service.model, f"eve-{new_id()[:8]}"
    said: list[str] = []
    ways: dict[str, dict[str, Any]] = {
        "quotes": {"status": 500},
        "refuses": {"status": 401},
        "waits": {"status": 429},
        "cannot": {"status": 400},
        "rubbish": {"rubbish_after": 0, "rubbish": f"data: {{{WORD}\n\n"},
        "odd": {"rubbish_after": 1, "rubbish": f'data: {{"choices":[{{"delta":{{"content":["{WORD}"]}}}}]}}\n\n'},
        "error": {"rubbish_after": 1, "rubbish": f'data: {{"error":{{"message":"{WORD}","code":"{WORD}"}}}}\n\n'},
        "bytes": {"rubbish_after": 0, "rubbish": f"data: \udcff{WORD}\n\n"},
        "cut": {"cut_after": 2},
        "hang": {"hang": True, "streams": True},
    }
    for way, script in ways.items():
        model.script(contains=f"{way} {WORD} {user}", json_answer=f"{{{WORD}", **script)
    likes_it = f"I like to learn {WORD} {user}"
    model.script(contains=likes_it, json_answer=candidates(likes(WORD, f"learn {WORD}")))
    async with TwinClient(server.url, service.token(user), context={"page": WORD, WORD: WORD}) as client:
        answer = await client.ask(likes_it, timeout=30)
        await client.until(lambda state: state.profile_version >= 1, timeout=30)
        await client.feedback(answer.message_id, "down", comment=WORD, correction=f"No: {WORD} {user}")
        trait = (await client.profile())["traits"][0]
        await client.correct(trait["trait_id"], "edit", value=f"{WORD} again")
        await client.typing(True)
        for way in ways:
            await client.ask(f"{way} {WORD} {user}", timeout=30)
    async with RawSocket(server.url, service.token(user), last_seq=0) as raw:
        await raw.until(lambda: len(raw.of("twin_message")) > len(ways))
        said += [json.dumps(one["payload"]) for one in raw.of("error")]
        failed = [one["payload"] for one in raw.of("twin_message") if one["payload"]["status"] != "complete"]
        assert len(failed) >= len(ways) - 2
        said += [json.dumps({name: one[name] for name in one if name != "text"}) for one in failed]
    nowhere(service, *said)
    await eventually(lambda: '"learned"' in service.worker.printed() or "learned" in service.worker.printed())
    await nothing_left(service)
    names = {one["name"] for one in service.collector.spans}
    assert {"user_message", "turn", "job learn", "extract"} <= names


async def test_a_crash_in_an_event_a_request_and_a_job(service: Service) -> None:
    server, user = service.servers[0], f"mal-{new_id()[:8]}"
    text = f"I prefer tea {WORD} {user}"
    found = candidates(likes("tea", "I prefer tea", key="preferences.drink"))
    service.model.script(contains=text, streams=True)
    service.model.script(contains=text, json_answer=found, first_delay_s=1)  # until the profile is what it must not be
    headers = {"Authorization": f"Bearer {service.token(user)}"}
    async with aiohttp.ClientSession(headers=headers) as http, RawSocket(server.url, service.token(user)) as raw:
        await raw.ask("user_message", {"payload": {"text": text}, "metadata": {"message_id": "m-1"}})
        await raw.until(lambda: raw.of("twin_message"))
        traits = [{WORD: WORD}]  # what nobody foresees: the exception quotes it
        await service.database["profiles"].insert_one({"_id": user, "version": 1, "traits": traits, "untold": []})
        received = await asked(http, "GET", f"{server.url}/v1/profile")
        received.append(json.dumps(await raw.ask("profile_get", {"payload": {}})))
        assert all("internal" in one for one in (received[0], received[-1]))
        await eventually(lambda: "job_failed" in service.worker.printed(), 20)
    for named in ("event_failed", "request_failed", "TypeError"):
        assert named in server.printed()
    nowhere(service, *received)
    await nothing_left(service)


# -- what comes out --------------------------------------------------------------------------------------------------


def nowhere(service: Service, *texts: str) -> None:
    """Fail where a canary is in one of these."""
    for text in texts:
        for secret in (WORD, WORD.upper(), *service.secrets):
            assert secret not in text, text[max(0, text.find(secret) - 300) :][:600]


async def nothing_left(service: Service) -> None:
    """Fail where a canary is in anything that an operator sees."""
    async with aiohttp.ClientSession() as http:
        for process in service.processes:
            async with http.get(f"{process.url}/metrics") as answer:
                assert answer.status == 200
                nowhere(service, await answer.text())
            for path in ("/readyz", "/healthz"):
                async with http.get(process.url + path) as answer:
                    nowhere(service, await answer.text())
    nowhere(service, *(one.printed() for one in service.processes))
    nowhere(service, *(one["text"] for one in service.collector.spans))


# -- settings that cannot be served ----------------------------------------------------------------------------------

VARIABLES = [
    name
    for group in GROUPS.values()
    for field in group.model_fields.values()
    if isinstance(field.validation_alias, AliasChoices)
    for name in field.validation_alias.choices
    if isinstance(name, str)
]
assert VARIABLES


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment of production without any setting of ours but what it needs."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TWIN_ENV", "production")
    for name, value in {
        "TWIN_MONGODB_URL": f"mongodb://ada:{WORD}@db/",
        "TWIN_REDIS_URL": f"redis://:{WORD}@redis/0",
        "OPENAI_API_KEY": WORD,
        "TWIN_JWT_SECRET": SIGNING,
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("value", [WORD, f"{WORD}\x7f,{WORD}://u:{WORD}@[::1", f"-1e999{WORD}"])
def test_a_setting_that_is_refused_is_not_repeated(clean: pytest.MonkeyPatch, name: str, value: str) -> None:
    clean.setenv(name, value)
    with suppress(ConfigError):
        shown = repr(Settings.from_environment())
        # What is no secret and no URL may be shown.
        assert WORD not in shown or not name.endswith(("SECRET", "SECRETS", "KEY", "KEYS"))
        return
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment()
    assert WORD not in f"{caught.value} {caught.value!r}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


BAD_SETTINGS: Sequence[Mapping[str, str]] = (
    {"TWIN_MONGODB_URL": f"mongodb://ada:{WORD}@host:{WORD}/"},
    {"TWIN_MONGODB_URL": f"http://ada:{WORD}@host/"},
    {"TWIN_REDIS_URL": f"redis://:{WORD}@host:{WORD}/0"},
    {"TWIN_REDIS_URL": f"{WORD}://:{WORD}@host/0"},
    {"TWIN_REDIS_URL": f"redis+sentinel://:{WORD}@host:{WORD}/0"},
    {"TWIN_REDIS_URL": f"redis+cluster://:{WORD}@host:{WORD}"},
    {"TWIN_ENCRYPTION_KEYS": WORD},
    {"TWIN_GRAPH_URL": f"falkor://u:{WORD}@host:{WORD}"},
    {"OPENAI_BASE_URL": f"http://u:{WORD}@[{WORD}/v1"},
    {"TWIN_EMBEDDINGS_URL": f"http://u:{WORD}@host:{WORD}/v1"},
    {"TWIN_TLS_CERT": f"/{WORD}", "TWIN_TLS_KEY": f"/{WORD}"},
)


@pytest.mark.parametrize("setting", BAD_SETTINGS)
async def test_an_unreadable_setting_is_named_only(
    settings: Settings, clean: pytest.MonkeyPatch, setting: Mapping[str, str]
) -> None:
    """A setting that its library cannot read is named and not repeated."""
    clean.setenv("TWIN_MONGODB_URL", settings.storage.mongodb_url)
    clean.setenv("TWIN_REDIS_URL", settings.storage.redis_url)
    clean.setenv("PORT", "0")
    for name, value in setting.items():
        clean.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        async with service_of(Settings.from_environment()):
            pass
    text = str(caught.value)
    assert WORD not in text
    assert next(iter(setting)) in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


async def test_engines_that_refuse_and_what_ends_a_process(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, folder: Path
) -> None:
    real = environment(mongod.url, redis_server.url, model.base_url, TWIN_MONGODB_DATABASE=f"canary_{new_id()[:8]}")
    real |= {"TWIN_LOG_LEVEL": "debug", "TWIN_MONGODB_TIMEOUT_MS": "300"}
    login = mongod.url.replace("mongodb://", f"mongodb://ada:{WORD}@")
    away = f"mongodb://ada:{WORD}@127.0.0.1:9/"
    cases: Sequence[tuple[str, str, str, int | None]] = (
        ("server", "TWIN_MONGODB_URL", login, 1),
        ("worker", "TWIN_MONGODB_URL", away, None),
        ("worker", "TWIN_REDIS_URL", f"redis://:{WORD}@host:{WORD}/0", 2),
    )

    async def tried(module: str, name: str, value: str, code: int | None) -> str:
        process = Process(module, folder, {**real, name: value})
        process.start()
        try:
            if code is None:  # a worker waits for its store
                await eventually(lambda: "mongodb_unavailable" in process.printed(), 60)
            else:
                assert await asyncio.wait_for(process.wait(), 60) == code, process.printed()
                assert name in process.printed()
        finally:
            await asyncio.to_thread(process.stop)
        return process.printed()

    for printed in await asyncio.gather(*(tried(*case) for case in cases)):
        for secret in (WORD, "a secret of the tests", "Traceback"):
            assert secret not in printed, printed


@pytest.mark.parametrize("way", ["raise", "thread"])
def test_an_unforeseen_death_names_its_place(way: str) -> None:
    """A process that dies of what nobody foresaw says where and nothing else."""
    fails = {"raise": f"int('{WORD}')", "thread": f"threading.Thread(target=lambda: int('{WORD}')).start()"}[way]
    ours = "from twin_sio.observability.logging import print_crashes_without_messages as install; install()"
    code = f"import threading; {ours}; {fails}"
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "builtins.ValueError" in died.stderr
    assert 'File "<string>", line 1' in died.stderr
    assert WORD not in died.stderr + died.stdout

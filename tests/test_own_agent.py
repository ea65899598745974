"""Agents of others, set as a user would set them: real processes, LangGraph graphs, real MCP servers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypedDict

import pytest
from jose import jwt
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

from tests import mcp_words
from tests.conftest import settings_for, url_of
from tests.factories import make_settings
from tests.faults.tool_agent import CALLED, called
from tests.processes import Process, environment, started
from tests.processes import token_of as production_token
from tests.scripted_model import ScriptedModel
from tests.test_service_engines import doctor_of
from tests.test_service_tools import Device, calls, device, has_used_up, results, words
from tests.waiting import eventually
from twin_sio.agent import AgentRequest, AnswerPart, Done, Stage
from twin_sio.agent.factory import AgentServices, twin
from twin_sio.agent.personas import Personas
from twin_sio.clock import new_id
from twin_sio.config import ConfigError, Settings
from twin_sio.dev_tokens import DEV_SECRET
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, free_port
from twin_sio.runtime.serve import service
from twin_sio.store import mongo

OWN = "examples.own_agent:agent"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def own_model(stack: AsyncExitStack) -> ScriptedModel:
    return await stack.enter_async_context(ScriptedModel())


async def process(stack: AsyncExitStack, module: str, folder: Path, env: dict[str, str]) -> Process:
    running = Process(module, folder, env)
    stack.push_async_callback(asyncio.to_thread, running.stop, 3.0)
    if module == "worker":
        running.start()
        return running
    return await started(running)


def environment_of(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, agent: str, **more: Any
) -> dict[str, str]:
    """Of processes over a database of their own, with this agent."""
    return environment(
        mongod.url,
        redis_server.url,
        model.base_url,
        tuning={"turn_lease_s": 1},
        TWIN_MONGODB_DATABASE=f"own-{new_id()[:12]}",
        TWIN_AGENT=agent,
        TWIN_EXTRACTION="rules",
        **more,
    )


def settings_of(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, **more: Any) -> Settings:
    """Of an instance here over a database of its own."""
    database = f"own-{new_id()[:12]}"
    fields = {"storage__mongodb_database": database, "model__extraction": "rules", **more}
    return settings_for(mongod.url, redis_server.url, model.base_url, **fields)


def phone(server: Process, user: str, **more: Any) -> Device:
    return Device(server.url, production_token(user), features=["approvals"], **more)


def script_eggs(model: ScriptedModel) -> str:
    """How the example's agent answers what is returned: it asks its tool, and is held in the first words."""
    said = words()
    model.script(contains=said, streams=True, answered=0, calls=calls("boil_time", egg_grams=60))
    model.script(contains=said, streams=True, answered=1, tokens=("Five ", "and a half."), hold_after=1, times=1)
    model.script(contains=said, streams=True, answered=1, tokens=("Five ", "and a half."))
    return said


async def test_the_example_runs_by_a_setting_and_is_taken_over(
    stack: AsyncExitStack, own_model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str, folder: Path
) -> None:
    """Two servers and a worker as processes; the one that answers is killed, the other goes on with the same graph."""
    said = script_eggs(own_model)
    env = environment_of(mongod, redis_server, own_model, OWN)
    first, second = [await process(stack, "server", folder, env) for _ in range(2)]
    await process(stack, "worker", folder, env)
    async with phone(second, user) as other:
        async with phone(first, user) as one:
            message_id = await one.say(said)
            await one.until(lambda: one.about("twin_message_chunk", message_id))
            first.kill()
        answer = await other.answered(message_id)
    assert (answer["text"], answer["status"]) == ("Five and a half.", "complete")
    assert [step["state"] for step in answer["steps"] if step["kind"] == "tool"] == ["done"]
    assert results(own_model, said) == ["5.5 minutes"]


async def test_a_worker_alone_takes_over(
    stack: AsyncExitStack, own_model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str, folder: Path
) -> None:
    """The only server is killed in mid-answer: the worker ends the answer, with the same agent."""
    said = script_eggs(own_model)
    env = environment_of(mongod, redis_server, own_model, OWN)
    server = await process(stack, "server", folder, env)
    async with phone(server, user) as one:
        message_id = await one.say(said)
        await one.until(lambda: one.about("twin_message_chunk", message_id))
        server.kill()
    await process(stack, "worker", folder, env)
    db_client, db = mongo.connect(mongod.url, env["TWIN_MONGODB_DATABASE"], 5000)
    stack.callback(db_client.close)
    mine = {"user_id": user, "type": "twin_message"}
    await eventually(lambda: db["events"].count_documents(mine), 30.0)
    async with phone(await process(stack, "server", folder, env), user, last_seq=0) as one:
        answer = await one.answered(message_id)
    assert (answer["text"], answer["status"]) == ("Five and a half.", "complete")
    assert results(own_model, said) == ["5.5 minutes"]


async def test_an_interrupt_of_a_graph_is_an_approval(
    stack: AsyncExitStack, model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str
) -> None:
    """Asked for on one instance, edited on another after the first has gone."""
    said = words()
    model.script(contains=said, streams=True, answered=0, tokens=("Sure.",), calls=calls("order_eggs", count=12))
    model.script(contains=said, streams=True, answered=1, tokens=("They come tomorrow.",))
    settings = settings_of(
        mongod,
        redis_server,
        model,
        agent__factory=OWN,
    )
    async with service(settings) as first, device(first, user) as one:
        message_id = await one.say(said)
        request = await one.asked(message_id)
        assert (request["tool"], request["title"], request["arguments"]) == (
            "order_eggs",
            "Order 12 eggs",
            {"count": 12},
        )
        await first.drain(1.0)
    async with service(settings) as second, device(second, user, last_seq=0) as one:
        await one.decide(request["approval_id"], "edit", arguments={"count": 6})
        answer = await one.answered(message_id)
    assert answer["text"] == "Sure.\n\nThey come tomorrow."
    assert results(model, said) == ["Ordered: 6 eggs"]


@tool
async def pay(what: str) -> str:
    """Pays; a line in a file for each time."""
    called(what)
    await asyncio.sleep(30)
    return "Paid."


def paying(services: AgentServices) -> Any:
    model = services.chat_model().bind_tools([pay])

    async def think(state: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_node("tools", ToolNode([pay]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", tools_condition)
    builder.add_edge("tools", "think")
    return services.graph_agent(builder.compile())


async def test_a_tool_of_a_killed_graph_is_not_called_again(
    stack: AsyncExitStack, own_model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str, folder: Path
) -> None:
    """Nobody knows whether it was done, and the model is told so."""
    said, lines = words(), folder / "called"
    lines.touch()
    own_model.script(contains=said, streams=True, answered=0, tokens=("I pay.",), calls=calls("pay", what=user))
    own_model.script(contains=said, streams=True, answered=1, tokens=("Look yourself.",))
    env = environment_of(mongod, redis_server, own_model, "tests.test_own_agent:paying", **{CALLED: lines})
    first, second = [await process(stack, "server", folder, env) for _ in range(2)]
    async with phone(second, user) as other:
        async with phone(first, user) as one:
            message_id = await one.say(said)
            await eventually(lambda: user in lines.read_text())
            first.kill()
        answer = await other.answered(message_id)
    assert answer["text"] == "I pay.\n\nLook yourself."
    assert [step["state"] for step in answer["steps"] if step["name"] == "pay"] == ["unknown"]
    assert "nobody knows whether it was" in results(own_model, said)[0]
    assert len(lines.read_text().splitlines()) == 1


def _post(state: MessagesState) -> MessagesState:
    """Asks as the middleware of LangChain does, for two actions at once."""
    actions = [{"name": name, "args": {"to": name}, "description": f"Write to {name}"} for name in ("ada", "bob")]
    decided = interrupt({"action_requests": actions, "review_configs": []})["decisions"]
    return {"messages": [AIMessage(json.dumps(decided))]}


_asking = StateGraph(MessagesState)
_asking.add_node("post", _post)
_asking.add_edge(START, "post")
asking = _asking.compile()


async def test_the_approvals_of_langchains_middleware_are_answered(
    stack: AsyncExitStack, model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str
) -> None:
    """Each action is a request of its own; the graph goes on once both are decided."""
    settings = settings_of(mongod, redis_server, model, agent__graph="tests.test_own_agent:asking")
    instance = await stack.enter_async_context(service(settings))
    async with device(instance, user) as one:
        message_id = await one.say(words())
        await one.until(lambda: len(one.about("approval_requested", message_id)) == 2)
        first, second = [event["payload"] for event in one.about("approval_requested", message_id)]
        assert (first["title"], second["title"]) == ("Write to ada", "Write to bob")
        await one.decide(second["approval_id"], "reject", comment="Not Bob.")
        await one.decide(first["approval_id"], "edit", arguments={"to": "eve"})
        answer = await one.answered(message_id)
    assert json.loads(answer["text"]) == [
        {"type": "edit", "edited_action": {"name": "ada", "args": {"to": "eve"}}},
        {"type": "reject", "message": "Not Bob."},
    ]


# A graph as somebody may have it already: not a line of it knows of this service.
_known = GenericFakeChatModel(messages=iter(AIMessage("Hello from a graph of my own.") for _ in range(100)))


def _speak(state: MessagesState) -> MessagesState:
    assert state["messages"][-1].content
    return {"messages": [_known.invoke(state["messages"])]}


_builder = StateGraph(MessagesState)
_builder.add_node("speak", _speak)
_builder.add_edge(START, "speak")
graph = _builder.compile()


async def answer_of(
    stack: AsyncExitStack, mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str, **agent: Any
) -> tuple[dict[str, Any], str]:
    """What such a service says, and what it was asked."""
    said = words()
    settings = settings_of(
        mongod,
        redis_server,
        model,
        **agent,
    )
    instance = await stack.enter_async_context(service(settings))
    claims = {"sub": user, "exp": int(time.time()) + 600, "twin_persona": "calm"}
    async with Device(url_of(instance), jwt.encode(claims, DEV_SECRET), features=["approvals"]) as one:
        return await one.answered(await one.say(said)), said


async def test_a_graph_is_taken_as_it_is(
    stack: AsyncExitStack, model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str
) -> None:
    answer, _ = await answer_of(stack, mongod, redis_server, model, user, agent__graph="tests.test_own_agent:graph")
    assert (answer["text"], answer["status"]) == ("Hello from a graph of my own.", "complete")


class Talk(TypedDict):
    """Of a graph that is not over messages."""

    text: str


def _over(state: type, given: type | None = None) -> Any:
    builder = StateGraph(state, input_schema=given)
    builder.add_node("idle", lambda _: {})
    builder.add_edge(START, "idle")
    return builder.compile()


over_text, given_text, silent = _over(Talk), _over(MessagesState, Talk), _over(MessagesState)


async def test_the_tokens_of_a_graphs_stopped_answer_count(
    stack: AsyncExitStack, model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str
) -> None:
    said = words()
    model.script(contains=said, streams=True, tokens=("a ", "b"), hold_after=1, times=1)
    settings = settings_of(mongod, redis_server, model, agent__factory=OWN, limits__tokens_per_day=500)
    instance = await stack.enter_async_context(service(settings))
    async with device(instance, user) as one:
        message_id = await one.say(said + " please" * 300)
        await one.until(lambda: one.of("twin_message_chunk"))
        await one.ask("stop_generation", {"payload": {"message_id": message_id}})
        assert (await one.answered(message_id))["status"] == "stopped"
        await eventually(lambda: has_used_up(instance, user))
    model.release(said)


class Mute:
    """An agent that is no graph, and has nothing to say."""

    async def answer(self, ask: AgentRequest) -> AsyncIterator[AnswerPart]:
        yield Stage("thinking")
        yield Done("mute", ())


def mute(services: AgentServices) -> Any:
    return Mute()


@pytest.mark.parametrize("agent", [{"agent__graph": f"{__name__}:silent"}, {"agent__factory": f"{__name__}:mute"}])
async def test_an_agent_that_says_nothing_has_not_answered(
    stack: AsyncExitStack,
    model: ScriptedModel,
    mongod: Mongod,
    redis_server: RedisServer,
    user: str,
    logged: list[dict[str, Any]],
    agent: dict[str, str],
) -> None:
    """It is told apart from a model that does not answer."""
    answer, _ = await answer_of(stack, mongod, redis_server, model, user, **agent)
    assert (answer["text"], answer["status"], answer["error"]) == ("", "failed", "internal")
    (line,) = [one for one in logged if one["event"] == "agent_said_nothing"]
    assert line["log_level"] == "warning"


def other_model(services: AgentServices) -> Any:
    return twin(services, model=GenericFakeChatModel(messages=iter([AIMessage("From another model.")] * 100)))


async def test_a_chat_model_of_langchain_answers(
    stack: AsyncExitStack, model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str
) -> None:
    answer, _ = await answer_of(
        stack, mongod, redis_server, model, user, agent__factory="tests.test_own_agent:other_model"
    )
    assert (answer["text"], answer["model"]) == ("From another model.", "GenericFakeChatModel")


async def test_a_token_chooses_the_persona(
    stack: AsyncExitStack, model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str, folder: Path
) -> None:
    (folder / "calm.md").write_text("You are calm, whatever happens.")
    _, said = await answer_of(
        stack, mongod, redis_server, model, user, agent__personas_dir=folder, agent__persona="You are in a hurry."
    )
    prompt = next(body for body in model.requests if body.get("stream") and said in json.dumps(body))
    assert prompt["messages"][0]["content"].startswith("You are calm, whatever happens.")


async def test_everybody_has_the_persona_of_the_file(
    stack: AsyncExitStack, model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str, folder: Path
) -> None:
    (folder / "ours.md").write_text("\ufeffYou are a sailor.\n")
    _, said = await answer_of(
        stack, mongod, redis_server, model, user, agent__persona_file=folder / "ours.md", agent__personas_dir=folder
    )
    prompt = next(body for body in model.requests if body.get("stream") and said in json.dumps(body))
    assert prompt["messages"][0]["content"].startswith("You are a sailor.")


def test_a_persona_in_another_encoding_is_told(folder: Path) -> None:
    file = folder / "latin.md"
    file.write_text("Du bist höflich.", encoding="latin-1")
    with pytest.raises(ConfigError, match=f"TWIN_PERSONA_FILE: {file} is no UTF-8 text."):
        Personas.of(make_settings(agent__persona_file=file).agent)


def test_a_persona_that_there_is_not_is_everybodys_and_told(folder: Path, logged: list[dict[str, Any]]) -> None:
    """Once a minute; a name that no file could have may be anybody's words, and is left out."""
    (folder / "calm.md").write_text("You are calm.")
    settings = make_settings(agent__personas_dir=folder, agent__persona="You are in a hurry.").agent
    personas, others = Personas.of(settings), Personas.of(settings)
    assert [personas.text(name) for name in ("", "calm", "clam", "other")] == [
        "You are in a hurry.",
        "You are calm.",
        "You are in a hurry.",
        "You are in a hurry.",
    ]
    others.text("my secret")
    told = [(line["event"], line["log_level"], line.get("persona")) for line in logged]
    assert told == [("persona_unknown", "warning", "clam"), ("persona_unknown", "warning", None)]


def no_agent(_: AgentServices) -> str:
    return "no agent"


def of_text(services: AgentServices) -> Any:
    return services.graph_agent(over_text)


def broken(_: AgentServices) -> Any:
    raise RuntimeError("a secret")


@pytest.mark.parametrize(
    ("agent", "sentence"),
    [
        ({"agent__factory": "no.such:agent"}, "TWIN_AGENT: the module no is not found"),
        ({"agent__factory": "tests.test_own_agent:nothing"}, "TWIN_AGENT: tests.test_own_agent has no nothing"),
        ({"agent__factory": "tests.test_own_agent:no_agent"}, "gave no agent"),
        ({"agent__factory": "tests.test_own_agent:broken"}, "has failed (RuntimeError at tests/test_own_agent.py:"),
        ({"agent__graph": "tests.test_own_agent:OWN"}, "no compiled LangGraph graph"),
        ({"agent__graph": "tests.test_own_agent:over_text"}, "takes no `messages`"),
        ({"agent__graph": "tests.test_own_agent:given_text"}, "takes no `messages`"),
        ({"agent__factory": "tests.test_own_agent:of_text"}, "takes no `messages`"),
        ({"agent__graph": "a:b", "agent__factory": "a:b"}, "both set"),
        ({"agent__persona_file": Path("/no/such.md")}, "TWIN_PERSONA_FILE: there is no file /no/such.md."),
        ({"agent__persona_file": Path("tests")}, "TWIN_PERSONA_FILE: tests cannot be read (IsADirectoryError)."),
        ({"agent__personas_dir": Path("no/such")}, "TWIN_PERSONAS_DIR is no folder"),
        ({"agent__persona": "x" * 16_001}, "more than 16000 characters"),
    ],
)
async def test_what_cannot_be_loaded_ends_the_start_with_a_sentence(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, agent: dict[str, Any], sentence: str
) -> None:
    settings = settings_for(mongod.url, redis_server.url, model.base_url, **agent)
    with pytest.raises(ConfigError) as refused:
        async with service(settings):
            pass
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)


def own_file(folder: Path, source: str) -> tuple[str, Path]:
    """A module of one's own, and its file."""
    module = f"own_{new_id()[:12]}"
    file = folder / f"{module}.py"
    file.write_text(source)
    return module, file


TWIN = "from twin_sio.agent.factory import tool_of, twin\n"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import no_such_thing", "the module no_such_thing, which {file}:1 imports, is not installed"),
        ("\nfrom json import no_such_name", "{module} cannot be imported (ImportError at {file}:2)"),
        ("a = 1\ndef agent(:", "{module} cannot be imported (SyntaxError at {file}:2)"),
        ("import json\n\njson.loads('a secret')", "{module} cannot be imported (JSONDecodeError at {file}:3)"),
        ("import sys\nsys.exit('a secret')", "{module} cannot be imported (SystemExit at {file}:2)"),
        ("def agent(services):\n    raise KeyError('a secret')", "has failed (KeyError at {file}:2)"),
        (TWIN + "def agent(services):\n    return tool_of(lambda: 1)", "has failed (ValueError at {file}:3)"),
        (TWIN + "async def agent(services):\n    return twin(services)", "is an async function"),
        ("def agent(services):\n    return 42", "gave no agent"),
    ],
)
async def test_what_is_wrong_in_a_file_of_ones_own_is_told_with_its_place(
    mongod: Mongod,
    redis_server: RedisServer,
    model: ScriptedModel,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    sentence: str,
) -> None:
    """Never with what an exception says."""
    module, file = own_file(folder, source)
    monkeypatch.syspath_prepend(str(folder))
    settings = settings_for(mongod.url, redis_server.url, model.base_url, agent__factory=f"{module}:agent")
    with pytest.raises(ConfigError) as refused:
        async with service(settings):
            pass
    told = str(refused.value)
    assert sentence.format(module=module, file=file) in told
    assert "secret" not in told


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def agent(services):\n    print('made')\n    return 42", "gave no agent"),
        (TWIN + "async def agent(services):\n    return twin(services)", "is an async function"),
        (TWIN + "def agent(services):\n    return tool_of(lambda: 1)", "has failed (ValueError at {file}:3)"),
    ],
)
async def test_the_doctor_refuses_the_agents_that_the_start_refuses(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, folder: Path, source: str, sentence: str
) -> None:
    module, file = own_file(folder, source)
    env = environment(mongod.url, redis_server.url, model.base_url, TWIN_AGENT=f"{module}:agent")
    code, found = await doctor_of(**env, PYTHONPATH=os.pathsep.join([str(folder), *sys.path]))
    assert (code, list(found)) == (1, ["agent"])
    assert sentence.format(file=file) in found["agent"]


# -- MCP -------------------------------------------------------------------------------------------------------------

TIME = [sys.executable, "-m", "mcp_server_time", "--local-timezone", "Europe/Berlin"]


async def mcp_over_http(stack: AsyncExitStack, folder: Path, port: int) -> Process:
    """The same server behind a maintained proxy."""
    proxy = Process("mcp_proxy", folder, None, "--port", str(port), "--host", "127.0.0.1", "--", *TIME)
    proxy.start()
    stack.push_async_callback(asyncio.to_thread, proxy.stop, 3.0)
    await eventually(lambda: "Uvicorn running" in proxy.printed(), 30)
    return proxy


@pytest.mark.parametrize("way", ["stdio", "http"])
async def test_a_real_mcp_server_is_used(
    stack: AsyncExitStack,
    model: ScriptedModel,
    mongod: Mongod,
    redis_server: RedisServer,
    user: str,
    folder: Path,
    way: str,
) -> None:
    """One of its tools at once, the other after an approval."""
    said, then = words(), words()
    zone = {"timezone": "Asia/Tokyo"}
    convert = {"source_timezone": "Asia/Tokyo", "time": "12:00", "target_timezone": "Europe/Berlin"}
    model.script(contains=said, streams=True, answered=0, calls=calls("get_current_time", **zone))
    model.script(contains=said, streams=True, answered=1, tokens=("It is late.",))
    model.script(contains=then, streams=True, answered=0, calls=calls("convert_time", **convert))
    model.script(contains=then, streams=True, answered=1, tokens=("Eight hours less.",))
    server: dict[str, Any] = {"command": TIME[0], "args": TIME[1:]}
    if way == "http":
        port = free_port()
        await mcp_over_http(stack, folder, port)
        server = {"url": f"http://127.0.0.1:{port}/mcp"}
    settings = settings_of(
        mongod,
        redis_server,
        model,
        agent__mcp_servers={"time": {**server, "approve": ["convert_*"]}},
    )
    instance = await stack.enter_async_context(service(settings))
    async with device(instance, user) as one:
        answer = await one.answered(await one.say(said))
        assert (answer["text"], answer["steps"][0]["state"]) == ("It is late.", "done")
        assert "Asia/Tokyo" in results(model, said)[0]
        message_id = await one.say(then)
        request = await one.asked(message_id)
        assert request["arguments"] == convert
        await one.decide(request["approval_id"], "approve")
        assert (await one.answered(message_id))["text"] == "Eight hours less."
    assert "Europe/Berlin" in results(model, then)[0]


async def test_the_model_reads_an_mcp_result_as_text(
    stack: AsyncExitStack, model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str
) -> None:
    """Its texts as they are; of an image and a link a note."""
    said = words()
    both = [*calls("lookup", word="cat"), *calls("draw", word="cat")]
    model.script(contains=said, streams=True, answered=0, calls=both)
    model.script(contains=said, streams=True, answered=2, tokens=("A cat.",))
    server = {"command": sys.executable, "args": [str(Path(mcp_words.__file__))]}
    settings = settings_of(mongod, redis_server, model, agent__mcp_servers={"words": server})
    instance = await stack.enter_async_context(service(settings))
    async with device(instance, user) as one:
        await one.answered(await one.say(said))
    assert results(model, said) == ["meaning of cat", "here is a cat\n[image]\n[file: https://words.test/cat.pdf]"]


async def test_a_dead_mcp_server_is_told_and_comes_back(
    stack: AsyncExitStack, model: ScriptedModel, mongod: Mongod, redis_server: RedisServer, user: str, folder: Path
) -> None:
    """A server that was never there holds up nobody."""
    port, said, again = free_port(), words(), words()
    for text in (said, again):
        model.script(contains=text, streams=True, answered=0, calls=calls("get_current_time", timezone="Asia/Tokyo"))
        model.script(contains=text, streams=True, answered=1, tokens=("Well.",))
    proxy = await mcp_over_http(stack, folder, port)
    servers = {"gone": free_port(), "time": port}
    settings = settings_of(
        mongod,
        redis_server,
        model,
        agent__mcp_servers={
            name: {"url": f"http://127.0.0.1:{at}/mcp", "timeout_s": 1} for name, at in servers.items()
        },
    )
    instance = await stack.enter_async_context(service(settings))
    proxy.kill()
    async with device(instance, user) as one:
        answer = await one.answered(await one.say(said))
        assert (answer["text"], answer["steps"][0]["state"]) == ("Well.", "failed")
        assert "Nobody knows whether it was done" in results(model, said)[0]
        await mcp_over_http(stack, folder, port)

        async def is_back() -> bool:
            text = words()
            await one.answered(await one.say(text))
            return any("tools" in body for body in model.requests if body.get("stream") and text in json.dumps(body))

        await eventually(is_back, 20)
        assert (await one.answered(await one.say(again)))["steps"][0]["state"] == "done"

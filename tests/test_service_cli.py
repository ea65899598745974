"""The command line against the real service: as a pipe, and as a terminal."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import stat
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from tests.commands import command
from tests.conftest import Connect, token_of
from tests.scripted_model import ScriptedModel, last_user_text
from tests.test_cli import run
from tests.test_service_learning import candidates, likes
from tests.waiting import eventually
from twin_sio.cli.batch import history
from twin_sio.cli.chat import Chat
from twin_sio.cli.chat_commands import COMMANDS
from twin_sio.cli.load import LoadCounts, Plan, _User
from twin_sio.cli.recording import recording
from twin_sio.client import RequestFailed, TwinClient
from twin_sio.clock import new_id, now
from twin_sio.dev_tokens import DEV_SECRET

# -- as a pipe ---------------------------------------------------------------------------------------------------------


async def test_once_prints_the_answer_and_nothing_else(url: str, user: str, model: ScriptedModel) -> None:
    result = await run("chat", "--once", "--url", url, "--sub", user, stdin="hello\n")
    assert result.stdout == model.answer_to("hello") + "\n"
    assert (result.exit_code, result.stderr) == (0, "")


async def test_a_file_becomes_a_transcript(url: str, user: str, model: ScriptedModel) -> None:
    """A file is asked line by line and printed as a transcript."""
    result = await run("chat", "--url", url, "--sub", user, stdin="first\n\n  second  \n")
    lines = ["you: first", f"twin: {model.answer_to('first')}", "you: second", f"twin: {model.answer_to('second')}"]
    assert result.stdout.splitlines() == lines
    assert result.exit_code == 0


async def test_a_refused_token_is_explained(url: str) -> None:
    """A refused token is named by its code with what to do."""
    result = await run("chat", "--once", "--url", url, "--token", "not.a.token", stdin="hello\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "auth_invalid" in result.stderr
    assert "--token or TWIN_TOKEN" in result.stderr


async def test_an_answer_that_was_cut_is_said_to_be(url: str, user: str, model: ScriptedModel) -> None:
    """Beside the answer, whose text alone is the output."""
    model.script(contains=f"cut-this {user}", tokens=("once", " upon"), reason="length")
    result = await run("chat", "--once", "--url", url, "--sub", user, stdin=f"cut-this {user}\n")
    assert (result.exit_code, result.stdout) == (0, "once upon\n")
    assert "cut off: it reached its longest length" in result.stderr


async def test_an_answer_that_failed_fails_the_command_and_says_why(url: str, user: str, model: ScriptedModel) -> None:
    model.script(contains="no-answer-to-this", status=400)
    result = await run("chat", "--once", "--url", url, "--sub", user, stdin="no-answer-to-this\n")
    assert result.exit_code == 1
    assert "model_refused" in result.stderr


async def test_the_history_is_printed_as_text_and_as_json_lines(url: str, user: str, connect: Connect) -> None:
    client = await connect()
    answer = await client.ask("remember this")
    text = await run("history", "--url", url, "--sub", user)
    you, twin = text.stdout.splitlines()
    assert you.endswith(" you: remember this")
    assert twin.endswith(f" twin: {answer.text}")
    json = await run("history", "--url", url, "--sub", user, "--json", "--limit", "1")
    assert [orjson.loads(line)["message_id"] for line in json.stdout.splitlines()] == [answer.message_id]


async def test_a_long_history_is_read_over_pages(url: str, user: str, connect: Connect) -> None:
    client = await connect()
    for index in range(4):
        await client.ask(f"line {index}")
    whole = await history(client, "main", 8)
    assert [entry["seq"] for entry in whole] == list(range(1, 9))
    assert [entry["seq"] for entry in await history(client, "main", 3)] == [6, 7, 8]


async def test_answers_come_to_scripts_as_objects(url: str, user: str, model: ScriptedModel) -> None:
    result = await run("chat", "--json", "--url", url, "--sub", user, stdin="first\nsecond\n")
    received = [orjson.loads(line) for line in result.stdout.splitlines()]
    assert [(one["type"], one["question"], one["text"], one["status"], one["seq"]) for one in received] == [
        ("answer", "first", model.answer_to("first"), "complete", 2),
        ("answer", "second", model.answer_to("second"), "complete", 4),
    ]
    once = await run("chat", "--once", "--json", "--url", url, "--sub", user, stdin="third")
    assert orjson.loads(once.stdout)["conversation_id"] == "main"


async def test_a_refusal_comes_to_scripts_with_its_code(url: str) -> None:
    result = await run("history", "--json", "--url", url, "--token", "not.a.token")
    assert (result.exit_code, orjson.loads(result.stdout)["code"]) == (1, "auth_invalid")


async def test_search_ignores_order_and_case(url: str, user: str, connect: Connect) -> None:
    """A conversation is searched for words in any order and case."""
    client = await connect()
    for text in ("Pasta on Tuesday", "Soup on Tuesday", "tuesday's PASTA again"):
        await client.receipt(await client.send(text))
    result = await run("history", "--url", url, "--sub", user, "--search", "pasta tuesday", "--json")
    said = [entry["text"] for entry in map(orjson.loads, result.stdout.splitlines()) if entry["role"] == "user"]
    assert said == ["Pasta on Tuesday", "tuesday's PASTA again"]


async def test_all_conversations_are_searched(url: str, user: str, connect: Connect) -> None:
    """`search` prints what was found, the best first, as lines or as JSON."""
    client = await connect()
    for text, conversation in (("The wedding is in June", "family"), ("Soup on Tuesday", "food")):
        await client.receipt(await client.send(text, conversation_id=conversation))
    plain = await run("search", "--url", url, "--sub", user, "weddings", "in", "june")
    assert plain.stdout.splitlines()[0].endswith("family you: The wedding is in June")
    lines = await run("search", "--url", url, "--sub", user, "--json", "--limit", "1", "wedding")
    (found,) = map(orjson.loads, lines.stdout.splitlines())
    assert (found["conversation_id"], found["role"], found["excerpt"]) == ("family", "user", "The wedding is in June")
    nothing = await run("search", "--url", url, "--sub", user, "parliament")
    assert (nothing.exit_code, nothing.stdout) == (0, "")


async def lives_in_lisbon(client: TwinClient, model: ScriptedModel) -> str:
    """Say so, and wait until it is learnt; the trait's id."""
    text = f"I live in Lisbon, {new_id()}"
    model.script(contains=text, json_answer=candidates(likes("Lisbon", "I live in Lisbon", key="location.city")))
    await client.ask(text)
    return await client.until(lambda state: next(iter(state.traits), None))


async def test_the_profile_is_printed_with_reasons(
    url: str, user: str, connect: Connect, model: ScriptedModel, worker: None
) -> None:
    """The profile and its reasons are printed for people and scripts."""
    await lives_in_lisbon(await connect(), model)
    profile = await run("profile", "--url", url, "--sub", user, "--json")
    trait = next(one for one in map(orjson.loads, profile.stdout.splitlines()) if one["value"] == "Lisbon")
    why = await run("why", "lisbon", "--url", url, "--sub", user, "--json")
    assert orjson.loads(why.stdout)["trait_id"] == trait["trait_id"]
    plain = await run("why", trait["trait_id"], "--url", url, "--sub", user)
    assert '"I live in Lisbon"' in plain.stdout
    nothing = await run("why", "no such", "--url", url, "--sub", user)
    assert (nothing.exit_code, nothing.stdout) == (1, "")


# -- the doctor --------------------------------------------------------------------------------------------------------


async def doctor(url: str, *more: str) -> tuple[int, dict[str, dict[str, Any]]]:
    result = await run("doctor", "--url", url, "--json", *more)
    return result.exit_code, {check["check"]: check for check in map(orjson.loads, result.stdout.splitlines())}


async def test_the_doctor_finds_a_healthy_service_healthy(url: str, user: str) -> None:
    code, checks = await doctor(url, "--sub", user, "--send")
    names = ["address", "ready", "token", "polling", "websocket", "version", "clock", "round trip", "message"]
    assert list(checks) == names
    assert [check for check in checks.values() if not check["ok"]] == []
    assert code == 0
    plain = await run("doctor", "--url", url, "--sub", user)
    assert [line[:6] for line in plain.stdout.splitlines()] == ["ok    "] * (len(names) - 1)


async def test_the_doctor_names_what_is_wrong_with_a_token(url: str, user: str) -> None:
    code, checks = await doctor(url, "--token", token_of(user, ttl_s=-60))
    assert (code, checks["token"]["ok"]) == (1, False)
    assert "ended 60 s ago" in checks["token"]["text"] or "ended 61 s ago" in checks["token"]["text"]
    assert "auth_expired" in checks["websocket"]["text"]
    code, checks = await doctor(url, "--sub", user, "--secret", "another secret, longer than thirty-two bytes")
    assert (code, checks["token"]["ok"]) == (1, True)  # only the server can tell
    assert "auth_invalid" in checks["polling"]["text"]
    assert "TWIN_JWT_SECRET" in checks["polling"]["advice"]


async def test_doctor_measures_the_clock(url: str, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor says that the clock is wrong and by how much."""
    monkeypatch.setattr("twin_sio.cli.doctor.now", lambda: now() + timedelta(minutes=10))
    code, checks = await doctor(url, "--sub", user)
    assert (code, checks["clock"]["ok"]) == (1, False)
    assert "600 s ahead" in checks["clock"]["text"]


async def test_the_doctor_tells_another_web_server_from_the_service(control_server: str) -> None:
    code, checks = await doctor(control_server, "--sub", "ada")
    assert (code, checks["address"]["ok"]) == (1, False)
    assert "not as twin_sio does" in checks["address"]["text"]


@pytest.fixture
def control_server(model: ScriptedModel) -> str:
    """A web server that is none of ours."""
    return model.base_url.removesuffix("/v1")


# -- tapes -------------------------------------------------------------------------------------------------------------


async def test_a_recording_is_private(url: str, user: str, folder: Path) -> None:
    """A tape holds both directions and is for its user alone."""
    tape = folder / "tape.jsonl"
    result = await run("record", str(tape), "--url", url, "--sub", user, stdin="hello\n")
    assert result.exit_code == 0, result.stderr
    assert stat.S_IMODE(tape.stat().st_mode) == 0o600
    head, *lines = map(orjson.loads, tape.read_bytes().splitlines())
    assert (head["tape"], head["protocol"]) == (1, 1)
    arrived = [(line["direction"], line["envelope"]["type"]) for line in lines]
    assert arrived[:2] == [("in", "session_ready"), ("out", "user_message")]
    assert ("in", "twin_message") in arrived
    assert [line["at_ms"] for line in lines] == sorted(line["at_ms"] for line in lines)
    again = await run("record", str(tape), "--url", url, "--sub", user, stdin="hello\n")
    assert (again.exit_code, "never written over" in again.stderr) == (1, True)


async def test_no_token_is_on_a_tape(url: str, user: str, folder: Path) -> None:
    tape, token = folder / "tape.jsonl", token_of(user)
    with recording(tape) as receive:
        async with TwinClient(url, token, on_envelope=receive) as client:
            await client.refresh(token)
            await client.heartbeat()
    assert "heartbeat_ack" in tape.read_text()
    assert token not in tape.read_text()


async def recorded(url: str, user: str, tape: Path) -> None:
    """A session with a message, a rating of its answer, a refusal, a question and a second answer."""
    with recording(tape) as receive:
        async with TwinClient(url, token_of(user), on_envelope=receive) as client:
            answer = await client.ask(f"tape {user}")
            await client.feedback(answer.message_id, "up")
            with pytest.raises(RequestFailed):
                await client.correct("no-such-trait", "confirm")
            await client.regenerate(answer.in_response_to or "")
            await client.conversations()


async def test_a_session_that_is_said_again_is_answered_in_kind(url: str, user: str, folder: Path) -> None:
    tape = folder / "tape.jsonl"
    await recorded(url, user, tape)
    result = await run("replay", str(tape), "--url", url, "--sub", f"{user}-again", "--speed", "20", "--json")
    *steps, end = map(orjson.loads, result.stdout.splitlines())
    assert end == {"type": "end", "steps": 5, "different": 0}
    assert [step["event"] for step in steps] == [
        "user_message",
        "feedback",
        "profile_correct",
        "regenerate",
        "conversations",
    ]
    assert steps[0]["now"] == ["message_received:accepted", "twin_message:complete"]
    assert steps[2]["now"] == ["error:not_found"]
    assert result.exit_code == 0


async def test_replay_reports_different_answers(url: str, user: str, model: ScriptedModel, folder: Path) -> None:
    tape = folder / "tape.jsonl"
    await recorded(url, user, tape)
    model.script(contains=f"tape {user}", status=400)
    result = await run("replay", str(tape), "--url", url, "--sub", f"{user}-again", "--speed", "20", "--timeout", "2")
    assert result.exit_code == 1
    first = result.stdout.splitlines()[0]
    assert first.startswith("DIFFERS user_message: message_received:accepted twin_message:complete then,")
    assert "twin_message:failed now" in first


async def test_the_same_ids_come_back_as_duplicates(url: str, user: str, folder: Path) -> None:
    tape = folder / "tape.jsonl"
    await recorded(url, user, tape)
    arguments = ("--url", url, "--sub", user, "--same-ids", "--speed", "20", "--timeout", "2", "--json")
    result = await run("replay", str(tape), *arguments)
    said = next(step for step in map(orjson.loads, result.stdout.splitlines()) if step["event"] == "user_message")
    assert said["now"][0] == "message_received:duplicate"
    assert said["message_id"] == orjson.loads(tape.read_bytes().splitlines()[2])["envelope"]["metadata"]["message_id"]


# -- load --------------------------------------------------------------------------------------------------------------


async def test_a_load_counts_nothing_lost(url: str) -> None:
    """A load is measured and nothing of it is lost or doubled."""
    size = ("--users", "4", "--devices", "2", "--messages", "2", "--ramp", "0.1")
    result = await run("load", "--url", url, *size, "--json")
    received = orjson.loads(result.stdout)
    assert (result.exit_code, received["ended"], received["errors"]) == (0, "complete", {})
    counted = {name: received[name] for name in ("connected", "sent", "acknowledged", "answered", "lost", "doubled")}
    assert counted == {"connected": 8, "sent": 8, "acknowledged": 8, "answered": 8, "lost": 0, "doubled": 0}
    assert received["receipt_ms"]["p50"] <= received["first_chunk_ms"]["p50"] <= received["answer_ms"]["p50"]
    table = await run("load", "--url", url, *size)
    assert "4 users x 2 devices x 2 messages: complete" in table.stdout


async def test_a_load_counts_refusals_by_their_code(url: str) -> None:
    secret = "another secret, longer than thirty-two bytes"
    result = await run("load", "--url", url, "--users", "2", "--devices", "1", "--secret", secret, "--json")
    received = orjson.loads(result.stdout)
    assert (result.exit_code, received["errors"], received["connected"]) == (1, {"auth_invalid": 2}, 0)


async def test_a_load_ends_in_time_with_the_figures_so_far(url: str, model: ScriptedModel) -> None:
    model.script(contains="load message", token_delay_s=0.2, count=15, times=2, streams=True)
    result = await run(
        "load", "--url", url, "--users", "2", "--devices", "1", "--ramp", "0", "--seconds", "1", "--json"
    )
    received = orjson.loads(result.stdout)
    assert (received["ended"], received["acknowledged"], received["answered"], received["lost"]) == (
        "time is up",
        2,
        0,
        0,
    )


def _is_load(request: dict[str, Any]) -> bool:
    """Whether it asks for an answer, and not for what can be learnt from one."""
    return "load message" in last_user_text(request) and request.get("stream") is True


async def test_ctrl_c_ends_a_load_with_the_figures_so_far(url: str, model: ScriptedModel) -> None:
    model.script(contains="load message", token_delay_s=0.2, count=15, times=1, streams=True)
    before = len(model.requests)
    process = await command("twin_sio.cli", "load", "--url", url, "--users", "1", "--devices", "1", "--json")
    await eventually(lambda: any(_is_load(request) for request in model.requests[before:]), timeout=30)
    process.send_signal(signal.SIGINT)
    stdout, _ = await asyncio.wait_for(process.communicate(), 15)
    assert (orjson.loads(stdout)["ended"], process.returncode) == ("stopped", 0)


async def test_a_device_that_lost_or_doubled_something_is_found_out(url: str) -> None:
    tally = LoadCounts()
    user = _User(Plan(url, DEV_SECRET, 1, 2, 1, 0, 10), tally)
    await user.run(0)
    await user.audit()
    assert (tally.lost, tally.doubled) == (0, 0)
    first, second = user._devices
    message = first.state.transcript()[0]
    del second.state.messages[message.message_id]
    first.state.messages["again"] = replace(message, message_id="again")
    await user.audit()
    assert (tally.lost, tally.doubled) == (1, 1)
    await user.close()


# -- as a terminal -----------------------------------------------------------------------------------------------------


@dataclass
class Terminal:
    """A chat whose keys are typed and whose screen is read by a test."""

    keys: PipeInput
    screen: io.StringIO
    chat: Chat
    clients: list[TwinClient] = field(default_factory=list)

    def enter(self, line: str) -> None:
        self.keys.send_text(f"{line}\n")

    def completed(self, begun: str) -> list[str]:
        """What Tab offers."""
        completer = self.chat._prompt.completer
        assert completer is not None
        return [one.text for one in completer.get_completions(Document(begun), CompleteEvent())]

    async def shows(self, text: str) -> None:
        await eventually(lambda: text in self.screen.getvalue())

    async def region_shows(self, text: str) -> None:
        """What moves above the prompt."""
        await eventually(lambda: text in "".join(part[1] for part in self.chat._region()))


@asynccontextmanager
async def a_terminal(url: str, user: str, device: str, **more: Any) -> AsyncIterator[Terminal]:
    made: list[TwinClient] = []

    def new_client(device: str, session: str | None = None) -> TwinClient:
        options = {"session_id": session or None, "device": {"name": device}, **more}
        made.append(TwinClient(url, token_of(user), **options))
        return made[-1]

    screen = io.StringIO()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        chat = Chat(new_client, device, "main", COMMANDS, Console(file=screen, width=200, highlight=False))
        running = asyncio.create_task(chat.run())
        terminal = Terminal(keys, screen, chat, made)
        try:
            await terminal.shows("/help lists")
            yield terminal
            keys.send_text("/quit\n")
            await asyncio.wait_for(running, 10)
        finally:
            running.cancel()
            await chat.close()


async def test_an_answer_appears_while_it_is_written_and_then_stays(url: str, user: str, model: ScriptedModel) -> None:
    model.script(contains="tell-me-slowly", token_delay_s=0.05, tokens=("One ", "line.\n", "Two ", "lines", "."))
    async with a_terminal(url, user, "laptop") as terminal:
        terminal.enter("tell-me-slowly")
        await terminal.region_shows("twin> One")
        await terminal.shows("twin> One line.\n")
        await terminal.shows("      Two lines.\n")
        await eventually(lambda: terminal.screen.getvalue().count("Two lines.") == 1)


CONTROLS = ("\x1b]52;c;cm0=\x07", "\x1b[2J", "\x9b31m", "\x08", "\r")


async def test_an_answer_commands_no_terminal(url: str, user: str, model: ScriptedModel) -> None:
    """Escape sequences of an answer (clipboard, title, clear) are shown as U+FFFD; JSON keeps them as escapes."""
    text = f"sequences for {user}"
    model.script(contains=text, tokens=("be", *CONTROLS, "fore"))
    once = await run("chat", "--once", "--url", url, "--sub", user, stdin=f"{text}\n")
    listed = await run("history", "--url", url, "--sub", user)
    as_json = await run("history", "--url", url, "--sub", user, "--json")
    async with a_terminal(url, user, "laptop") as terminal:
        terminal.enter(text)
        await eventually(lambda: terminal.screen.getvalue().count("fore") == 2)  # what was said before, and live
        live = terminal.screen.getvalue()
    for printed in (once.stdout, listed.stdout, as_json.stdout, live):
        assert "fore" in printed
        assert not set(printed) & set("\x1b\x07\x9b\x08\r")
    assert orjson.loads(as_json.stdout.splitlines()[-1])["text"] == "".join(("be", *CONTROLS, "fore"))


async def test_two_devices_see_each_other_speak_and_type(url: str, user: str, connect: Connect) -> None:
    async with a_terminal(url, user, "laptop") as terminal:
        phone = await connect(device={"name": "phone"})
        await terminal.shows("phone joined")
        await phone.typing(True)
        await terminal.region_shows("phone is typing…")
        answer = await phone.ask("from the phone")
        await terminal.shows("phone> from the phone")
        await terminal.shows(f"twin> {answer.text}")
        terminal.enter("from the laptop")
        await phone.until(lambda state: "from the laptop" in [m.text for m in state.transcript()])


async def test_what_was_said_before_is_shown_at_the_start(url: str, user: str, connect: Connect) -> None:
    client = await connect()
    await client.ask("an earlier question")
    async with a_terminal(url, user, "laptop") as terminal:
        await terminal.shows("you> an earlier question")
        assert terminal.screen.getvalue().count("an earlier question") <= 2


async def test_ctrl_c_stops_a_running_answer_and_then_leaves(url: str, user: str, model: ScriptedModel) -> None:
    model.script(contains="stop-this-one", token_delay_s=0.05, count=200)
    async with a_terminal(url, user, "laptop") as terminal:
        terminal.enter("stop-this-one")
        await terminal.region_shows("twin> ")
        terminal.keys.send_text("\x03")
        await terminal.shows("(stopped)")
        terminal.keys.send_text("\x03")
        await eventually(lambda: not terminal.chat._prompt.app.is_running)


async def test_the_commands_do_what_help_says(url: str, user: str) -> None:
    async with a_terminal(url, user, "laptop") as terminal:
        terminal.enter("/help")
        await terminal.shows("/as-device NAME")
        terminal.enter("/feedback up")
        await terminal.shows("There is no such message yet.")
        terminal.enter("first words")
        await terminal.shows("twin> You said")
        for line, shown in (
            ("/feedback down too long", "it is stored"),
            ("/feedback sideways", "Rate the last answer"),
            ('/context {"screen": "recipes"}', "The context is changed"),
            ("/context [1]", "The context is a JSON object"),
            ("/typing", "see you typing"),
            ("/profile", "What your twin believes (version 0)"),
            ("/conversations", "unread"),
            ("/history 1", "twin> You said"),
            ("/stop", "There is no answer to stop."),
            ("/nonsense", "There is no /nonsense"),
            ("/raw", "Envelopes are shown"),
        ):
            terminal.enter(line)
            await terminal.shows(shown)
        terminal.enter("seen as it goes")
        await terminal.shows('> {"type":"user_message"')
        await terminal.shows('"type":"message_received"')


async def test_words_are_found_in_what_was_said(url: str, user: str, connect: Connect) -> None:
    client = await connect()
    for text in ("about the boat", "about the train", "the train is late"):
        await client.receipt(await client.send(text))
    async with a_terminal(url, user, "laptop") as terminal:
        terminal.enter("/search TRAIN late")
        await terminal.shows("you: the train is late")
        await terminal.shows("found, the best last")
        terminal.enter("/search")
        await terminal.shows("For which words?")


async def test_another_conversation_is_entered_and_completed(url: str, user: str, connect: Connect) -> None:
    client = await connect()
    await client.ask("where to?", conversation_id="trip-2026")
    async with a_terminal(url, user, "laptop") as terminal:
        await eventually(lambda: terminal.completed("/conversation tr") == ["trip-2026"])
        terminal.enter("/conversation trip-2026")
        await terminal.shows("You talk in trip-2026 now.")
        await terminal.shows("you> where to?")
        terminal.enter("and when?")
        await client.until(lambda state: "and when?" in [m.text for m in state.transcript("trip-2026")])
        terminal.enter("/conversation not a name")
        await terminal.shows("Which conversation?")


async def test_commands_and_traits_are_completed(
    url: str, user: str, connect: Connect, model: ScriptedModel, worker: None
) -> None:
    trait_id = await lives_in_lisbon(await connect(), model)
    async with a_terminal(url, user, "laptop") as terminal:
        assert terminal.completed("/sea") == ["/search"]
        await eventually(lambda: trait_id in terminal.completed("/why "))
        assert terminal.completed("/why lisb") == [trait_id]
        assert terminal.completed("/feedback u") == ["up"]
        assert terminal.completed("no command") == []


async def test_another_answer_comes_when_it_is_asked_for(url: str, user: str, model: ScriptedModel) -> None:
    async with a_terminal(url, user, "laptop") as terminal:
        terminal.enter("say it again")
        answer = f"twin> {model.answer_to('say it again')}"
        await terminal.shows(answer)
        terminal.enter("/regenerate")
        await eventually(lambda: terminal.screen.getvalue().count(answer) == 2)


async def test_one_terminal_can_speak_as_another_device_too(url: str, user: str, connect: Connect) -> None:
    watch = await connect()
    async with a_terminal(url, user, "laptop") as terminal:
        terminal.enter("/as-device phone")
        await terminal.shows("You speak as phone now; laptop, phone are connected.")
        terminal.enter("as the phone")
        await watch.until(lambda state: "as the phone" in [m.text for m in state.transcript()])
        said_by = watch.state.transcript()[0].session_id
        await watch.until(lambda state: said_by in [device["session_id"] for device in state.devices])
        names = {device["session_id"]: device["device"].get("name") for device in watch.state.devices}
        assert names[said_by] == "phone"


async def test_a_chat_can_be_recorded(url: str, user: str) -> None:
    """A chat on a terminal can be recorded and seen raw."""
    arrived: list[str] = []
    async with a_terminal(url, user, "laptop", on_envelope=lambda way, it: arrived.append(f"{way} {it['type']}")) as at:
        at.enter("/raw")
        at.enter("on the record")
        await at.shows('"type":"twin_message"')
        assert arrived[0] == "in session_ready"
        assert "out user_message" in arrived
        assert "in twin_message" in arrived


async def test_a_lost_connection_is_shown_and_comes_back(url: str, user: str) -> None:
    async with a_terminal(url, user, "laptop") as terminal:
        await terminal.clients[0].drop()
        await terminal.region_shows("reconnecting in")
        await eventually(lambda: terminal.clients[0].is_connected)
        terminal.enter("still here")
        await terminal.shows("twin> You said: still here")


async def test_a_replaced_session_ends_the_chat(url: str, user: str, connect: Connect) -> None:
    """A session that was replaced ends the chat with the reason."""
    async with a_terminal(url, user, "laptop") as terminal:
        await connect(session_id=terminal.clients[0].session_id)
        await terminal.shows("This session was opened elsewhere.")
        await eventually(lambda: not terminal.chat._prompt.app.is_running)


async def test_a_session_replaced_during_history_ends_the_chat(
    url: str, user: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that was replaced while its history is read ends the chat with the reason."""
    asked: list[Chat] = []

    async def replaced_meanwhile(chat: Chat, _: int) -> None:
        await connect(session_id=chat.client.session_id)
        await chat.client.until(lambda _: None, 20)

    async def ask(chat: Chat) -> str:
        asked.append(chat)
        raise EOFError

    monkeypatch.setattr(Chat, "show_history", replaced_meanwhile)
    monkeypatch.setattr(PromptSession, "prompt_async", ask)
    async with a_terminal(url, user, "laptop") as terminal:
        await terminal.shows("This session was opened elsewhere.")
    assert asked == []


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("as_json", [False, True])
async def test_any_encoding_of_the_streams_is_taken(
    encoding: str, as_json: bool, url: str, user: str, model: ScriptedModel
) -> None:
    """What an encoding does not have is replaced, or escaped in JSON; never a traceback."""
    said = f"a → b \N{GRINNING FACE} {user}"
    model.script(contains=user, tokens=(said,))
    start = [sys.executable, "-m", "twin_sio.cli"]
    options = ["--url", url, "--sub", user, *(["--json"] if as_json else [])]
    for words, given in ((["chat", "--once"], f"caf\xe9 \xff {user}".encode("latin-1")), (["history"], b"")):
        process = await asyncio.create_subprocess_exec(
            *start,
            *words,
            *options,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        out, err = await process.communicate(given)
        assert (process.returncode, err) == (0, b"")
        shown = out.decode(encoding)
        if as_json:
            assert orjson.loads(shown.splitlines()[-1])["text"] == said
        else:
            assert f"a ? b ? {user}" in shown


async def test_a_failed_answer_tells_scripts_whether_to_try_again(url: str, user: str, model: ScriptedModel) -> None:
    model.script(contains=user, status=503)
    result = await run("chat", "--once", "--json", "--url", url, "--sub", user, stdin=user)
    failure = orjson.loads(result.stdout.splitlines()[-1])
    assert (failure["type"], failure["code"], failure["retryable"]) == ("error", "model_unavailable", True)

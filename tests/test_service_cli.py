"""The command line against the real service: as a pipe, and as a terminal."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from tests.conftest import Connect, eventually, token_of
from tests.scripted_model import ScriptedModel
from tests.test_cli import run
from twin_sio.cli.chat import Chat
from twin_sio.cli.pipe import history
from twin_sio.client import TwinClient

# -- as a pipe ---------------------------------------------------------------------------------------------------------


async def test_once_prints_the_answer_and_nothing_else(url: str, user: str, model: ScriptedModel) -> None:
    result = await run("chat", "--once", "--url", url, "--sub", user, stdin="hello\n")
    assert result.stdout == model.answer_to("hello") + "\n"
    assert (result.exit_code, result.stderr) == (0, "")


async def test_a_file_is_asked_line_by_line_and_printed_as_a_transcript(
    url: str, user: str, model: ScriptedModel
) -> None:
    result = await run("chat", "--url", url, "--sub", user, stdin="first\n\n  second  \n")
    lines = ["you: first", f"twin: {model.answer_to('first')}", "you: second", f"twin: {model.answer_to('second')}"]
    assert result.stdout.splitlines() == lines
    assert result.exit_code == 0


async def test_a_refused_token_is_named_by_its_code_with_what_to_do(url: str) -> None:
    result = await run("chat", "--once", "--url", url, "--token", "not.a.token", stdin="hello\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "auth_invalid" in result.stderr
    assert "--token or TWIN_TOKEN" in result.stderr


async def test_an_answer_that_failed_fails_the_command_and_says_why(url: str, user: str, model: ScriptedModel) -> None:
    model.script(contains="no-answer-to-this", status=400)
    result = await run("chat", "--once", "--url", url, "--sub", user, stdin="no-answer-to-this\n")
    assert result.exit_code == 1
    assert "model_unavailable" in result.stderr


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

    async def shows(self, text: str) -> None:
        await eventually(lambda: text in self.screen.getvalue())

    async def region_shows(self, text: str) -> None:
        """What moves above the prompt."""
        await eventually(lambda: text in "".join(part[1] for part in self.chat._region()))


@asynccontextmanager
async def a_terminal(url: str, user: str, device: str) -> AsyncIterator[Terminal]:
    made: list[TwinClient] = []

    def new_client(device: str, session: str | None = None) -> TwinClient:
        made.append(TwinClient(url, token_of(user), session_id=session or None, device={"name": device}))
        return made[-1]

    screen = io.StringIO()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        chat = Chat(new_client, device, "main", Console(file=screen, width=200, highlight=False))
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
        sessions = {device["session_id"]: device["device"].get("name") for device in watch.state.devices}
        assert sessions[watch.state.transcript()[0].session_id or ""] == "phone"


async def test_a_lost_connection_is_shown_and_comes_back(url: str, user: str) -> None:
    async with a_terminal(url, user, "laptop") as terminal:
        await terminal.clients[0].drop()
        await terminal.region_shows("reconnecting in")
        await eventually(lambda: terminal.clients[0].is_connected)
        terminal.enter("still here")
        await terminal.shows("twin> You said: still here")


async def test_a_session_that_was_replaced_ends_the_chat_with_the_reason(url: str, user: str, connect: Connect) -> None:
    async with a_terminal(url, user, "laptop") as terminal:
        await connect(session_id=terminal.clients[0].session_id)
        await terminal.shows("The server ended this session")
        await eventually(lambda: not terminal.chat._prompt.app.is_running)

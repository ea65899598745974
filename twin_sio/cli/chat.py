"""The live chat of a terminal: prompt at the bottom, the unfinished answer above it, everything else scrolls away."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import orjson
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from rich.console import Console
from rich.table import Table
from rich.text import Text

from twin_sio.cli.batch import SEARCHED_MAX, Failure, explain, find_traits, history, search
from twin_sio.cli.live import LiveAnswer
from twin_sio.cli.printable import printable
from twin_sio.client import (
    Change,
    ChunkApplied,
    ClientError,
    ContextChanged,
    DevicesChanged,
    Disconnected,
    Draining,
    Ended,
    Failed,
    Hook,
    Message,
    MessageChanged,
    ProfileChanged,
    Ready,
    Reconnecting,
    SessionClosed,
    Thinking,
    TwinClient,
    WantsHistory,
)
from twin_sio.domain import Json
from twin_sio.protocol import is_id

_RECENT = 10
_FOUND_MAX = 20


class NewClient(Protocol):
    def __call__(self, device: str, session: str | None = None) -> TwinClient: ...


async def run_chat(new_client: NewClient, device: str, conversation_id: str, state_folder: Path) -> None:
    """Chat until the user leaves or the server ends the session; raises `ClientError` where it cannot begin."""
    chat = Chat(new_client, device, conversation_id, typed=input_history(state_folder))
    try:
        await chat.run()
    finally:
        await chat.close()


def input_history(state_folder: Path) -> History:
    """What was typed in earlier chats, for the arrow keys and Ctrl-R, and where what is typed now is added: a file
    that nobody but its user can read. Where there can be no file, this chat's lines only."""
    path = state_folder.expanduser() / "twin-sio" / "typed"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return InMemoryHistory()
    return FileHistory(str(path))


class CommandError(Exception):
    """A command that cannot be followed; the text says how it is used."""


@dataclass(frozen=True, slots=True)
class ChatCommand:
    usage: str
    help: str
    run: Callable[[Chat, str], Awaitable[None]]


class Chat:
    """One terminal, and the devices that it speaks as (one, until `/as-device` adds more)."""

    def __init__(
        self,
        new_client: NewClient,
        device: str,
        conversation_id: str,
        console: Console | None = None,
        typed: History | None = None,
    ) -> None:
        self._new_client = new_client
        self._device = device
        self._conversation = conversation_id
        self._clients: dict[str, TwinClient] = {}
        self._follower: asyncio.Task[None] | None = None
        self._live = LiveAnswer()
        self._status = "connecting"
        self._thinking = ""
        self._start = 0
        self._is_raw = False
        self._is_typing = False
        self._work: set[asyncio.Task[None]] = set()
        self._conversations: list[str] = [conversation_id]
        self._console = console or Console(force_terminal=True, highlight=False)
        self._prompt: PromptSession[str] = PromptSession(
            message=self._region,
            history=typed or InMemoryHistory(),
            completer=_Completions(self._arguments),
            complete_while_typing=True,
            key_bindings=self._keys(),
            reserve_space_for_menu=4,
        )

    @property
    def client(self) -> TwinClient:
        return self._clients[self._device]

    async def run(self) -> None:
        await self._speak_as(self._device, session=None)
        with patch_stdout(raw=True):
            self._note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")
            try:
                await self._show_history(_RECENT)
            except ClientError as error:
                if self._follower is not None and isinstance(error, SessionClosed):
                    await self._follower  # it shows why the session has ended; there is no prompt yet that could end
                    return
                self._print(explain(error), "red")
            self._in_background(self._learn_names())
            # The prompt ends with EOFError, raised by Ctrl-D, by /quit and by a session that ended for good.
            with suppress(EOFError):
                while True:
                    await self._entered((await self._prompt.prompt_async()).strip())

    async def close(self) -> None:
        tasks = [*self._work, *([self._follower] if self._follower else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    # -- what is typed -------------------------------------------------------------------------------------------------

    async def _entered(self, line: str) -> None:
        if not line:
            return
        try:
            if line.startswith("/"):
                await self._command(line)
            else:
                await self.client.send(line, conversation_id=self._conversation)
        except CommandError as error:
            self._print(str(error), "yellow")
        except ClientError as error:
            self._print(explain(error), "red")

    async def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        command = COMMANDS.get(name)
        if command is None:
            raise CommandError(f"There is no {name}; /help lists what there is.")
        await command.run(self, rest.strip())

    async def _help(self, _: str) -> None:
        table = Table(box=None, show_header=False)
        for command in COMMANDS.values():
            table.add_row(_text(command.usage, style="bold"), command.help)
        self._console.print(table)

    async def _context(self, rest: str) -> None:
        try:
            context = orjson.loads(rest)
        except orjson.JSONDecodeError:
            context = None
        if not isinstance(context, dict):
            raise CommandError('The context is a JSON object: /context {"screen": "recipes"}')
        await self.client.update_context(context)
        self._note("The context is changed; null takes a field out.")

    async def _feedback(self, rest: str) -> None:
        rating, _, comment = rest.partition(" ")
        if rating not in ("up", "down"):
            raise CommandError("Rate the last answer: /feedback up, or /feedback down too long")
        verdict: Literal["up", "down"] = "up" if rating == "up" else "down"
        changed = await self.client.feedback(self._last("twin").message_id, verdict, comment=comment or None)
        self._note("Thank you: it is stored.")
        for trait in changed:
            self._note("It is {confidence:.2f} sure of {key} = {value} now.".format(**trait))

    async def _typing(self, _: str) -> None:
        self._is_typing = not self._is_typing
        await self.client.typing(self._is_typing, conversation_id=self._conversation)
        self._note(f"Your other devices see you {'typing' if self._is_typing else 'no longer typing'}.")

    async def _history(self, rest: str) -> None:
        if rest and not (rest.isdecimal() and int(rest) > 0):
            raise CommandError("How many messages? /history 20")
        await self._show_history(int(rest or 20))

    async def _search(self, rest: str) -> None:
        if not rest:
            raise CommandError("For which words? /search pasta tuesday")
        found = await search(self.client, self._conversation, rest.split(), _FOUND_MAX)
        for entry in found.entries:
            self._show_entry(entry, f"{entry['timestamp'][:10]} ")
        whole = "all of it" if found.is_whole else f"the newest {SEARCHED_MAX:,} messages"
        self._note(f"{len(found.entries)} found in {whole}.")

    async def _change_conversation(self, rest: str) -> None:
        if not is_id(rest):
            raise CommandError("Which conversation? Any name such as trip-2026: /conversation trip-2026")
        if rest not in self._conversations:
            self._conversations.append(rest)
        self._conversation, self._live, self._thinking = rest, LiveAnswer(), ""
        self._note(f"You talk in {rest} now.")
        await self._show_history(_RECENT)

    async def _learn_names(self) -> None:
        """What Tab can complete: conversations and traits. A token without the scope goes without."""
        with suppress(ClientError):
            self._conversations = [entry["conversation_id"] for entry in await self.client.conversations()]
            if self._conversation not in self._conversations:
                self._conversations.append(self._conversation)
            await self.client.profile()

    def _arguments(self, command: str) -> Iterable[tuple[str, str]]:
        """What may follow a command, each with a word on it."""
        if command == "/conversation":
            return [(conversation_id, "") for conversation_id in self._conversations]
        if command == "/why" and self._clients:
            traits = self.client.state.traits.values()
            return [(str(trait["trait_id"]), f"{trait['key']} = {trait['value']}") for trait in traits]
        return [(word, "") for word in {"/feedback": ("up", "down")}.get(command, ())]

    async def _profile(self, _: str) -> None:
        profile = await self.client.profile()
        table = Table(title=f"What your twin believes (version {profile['version']})", title_justify="left")
        for column in ("trait", "value", "status", "confidence", "for", "against"):
            table.add_column(column)
        for trait in profile["traits"]:
            numbers = (f"{trait[name]:.2f}" for name in ("confidence", "supporting", "opposing"))
            table.add_row(_text(trait["key"]), _text(trait["value"]), _text(trait["status"]), *numbers)
        self._console.print(table)

    async def _why(self, rest: str) -> None:
        try:
            found = await find_traits(self.client, rest)
        except Failure as failure:
            raise CommandError(str(failure)) from None
        for trait in found:
            self._show_reasons(await self.client.why(trait["trait_id"]))

    def _show_reasons(self, why: Json) -> None:
        table = Table(title=_text(f"{why['key']} = {why['value']}"), title_justify="left")
        for column in ("", "kind", "weight", "x decay", "x repeat", "=", "days ago", "your words"):
            table.add_column(column)
        for one in why["evidence"]:
            numbers = (f"{one[name]:.2f}" for name in ("weight", "decay", "repeat", "effective", "age_days"))
            table.add_row(one["side"].replace("_", " "), one["kind"], *numbers, _text(one["quote"]))
        self._console.print(table)
        self._print("{formula} = {confidence:.4f}, S = {supporting:.2f}, C = {opposing:.2f}".format(**why), "bold")

    async def _stop(self, _: str) -> None:
        if not await self._stop_running():
            raise CommandError("There is no answer to stop.")

    async def _regenerate(self, _: str) -> None:
        message_id = self._last("user").message_id
        # In the background: the prompt stays free, and the answer shows like any other.
        self._in_background(self.client.regenerate(message_id))

    async def _as_device(self, rest: str) -> None:
        words = shlex.split(rest)
        if len(words) != 1:
            raise CommandError("Which device? /as-device phone")
        await self._speak_as(words[0], session="")
        self._note(f"You speak as {words[0]} now; {', '.join(sorted(self._clients))} are connected.")

    async def _raw(self, _: str) -> None:
        self._is_raw = not self._is_raw
        self._note(f"Envelopes are {'shown' if self._is_raw else 'hidden'}.")

    async def _list_conversations(self, _: str) -> None:
        table = Table(box=None)
        for column in ("conversation", "title", "unread", "last message"):
            table.add_column(column)
        entries = await self.client.conversations()
        self._conversations = [entry["conversation_id"] for entry in entries]
        for entry in entries:
            last = (entry.get("last_message") or {}).get("text", "")
            table.add_row(
                _text(entry["conversation_id"]), _text(entry["title"] or ""), str(entry["unread"]), _text(last[:60])
            )
        self._console.print(table)

    async def _quit(self, _: str) -> None:
        raise EOFError

    def _last(self, role: Literal["user", "twin"]) -> Message:
        found = [m for m in self.client.state.transcript(self._conversation) if m.role == role and m.seq is not None]
        if not found:
            raise CommandError("There is no such message yet.")
        return found[-1]

    async def _stop_running(self) -> bool:
        """Stop what is being answered in this conversation; False where nothing is."""
        state = self.client.state
        running = [g.in_response_to for g in state.generations.values() if g.conversation_id == self._conversation]
        if not running and self._conversation in state.thinking:
            running = [self._last("user").message_id]
        for message_id in running:
            if message_id is not None:
                await self.client.stop(message_id)
        return bool(running)

    def _in_background(self, work: Awaitable[object]) -> None:
        async def run() -> None:
            try:
                await work
            except ClientError as error:
                self._print(explain(error), "red")

        task = asyncio.get_running_loop().create_task(run())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            async def stop_or_clear_or_leave() -> None:
                if await self._stop_running():
                    return
                if event.current_buffer.text:
                    event.current_buffer.reset()
                else:
                    self._leave()

            self._in_background(stop_or_clear_or_leave())

        return keys

    def _leave(self) -> None:
        if self._prompt.app.is_running:
            self._prompt.app.exit(exception=EOFError())

    # -- devices -------------------------------------------------------------------------------------------------------

    async def _speak_as(self, device: str, session: str | None) -> None:
        if device not in self._clients:
            client = self._new_client(device, session)
            client.on_envelope = self._heard_by(client.on_envelope)
            try:
                await client.connect()
            except ClientError:
                await client.close()
                raise
            self._clients[device] = client
        self._device = device
        if self._follower is not None:
            self._follower.cancel()
        self._start = self.client.state.last_seq or 0
        self._status, self._thinking, self._live = "", "", LiveAnswer()
        self._follower = asyncio.get_running_loop().create_task(self._follow(self.client))

    async def _follow(self, client: TwinClient) -> None:
        async for change in client.changes():
            self._show(change)
            self._prompt.app.invalidate()

    def _device_of(self, session_id: str | None) -> str:
        for there in self.client.state.devices:
            if there.get("session_id") == session_id:
                return str((there.get("device") or {}).get("name") or session_id)
        return session_id or "another device"

    # -- what is shown -------------------------------------------------------------------------------------------------

    def _show(self, change: Change) -> None:
        match change:
            case MessageChanged(message, True) if message.conversation_id == self._conversation:
                self._show_message(message)
            case ChunkApplied() if change.conversation_id == self._conversation:
                self._show_growth(change)
            case Thinking() if change.conversation_id == self._conversation:
                self._thinking = "" if change.state == "done" else change.state
            case Ready():
                self._status = ""
            case Disconnected():
                self._status = "connection lost"
            case Reconnecting(attempt, delay_s):
                self._status = f"reconnecting in {delay_s:.1f} s (attempt {attempt + 1})"
            case Draining():
                self._status = "the server goes away, another one takes over"
            case WantsHistory("log_restarted"):
                self._start = 0
            case Ended(error):
                self._show_end(error)
            case Failed(error, _):
                self._print(f"{error.get('code')}: {error.get('message')}", "red")
            case _:
                self._show_others(change)

    def _show_others(self, change: Change) -> None:
        match change:
            case DevicesChanged(event):
                name = (event.get("device") or {}).get("name") or event.get("session_id")
                self._note(f"{name} {event.get('state')}")
            case ProfileChanged(version, changes):
                for trait in changes:
                    self._note(_belief(trait, version))
            case ContextChanged():
                self._note("Another device changed the context.")
            case _:
                pass

    def _show_message(self, message: Message) -> None:
        # What is older came with a page of history, which shows itself.
        if message.seq is None or message.seq <= self._start:
            return
        if message.role == "twin":
            self._show_answer(message)
        elif message.session_id not in (None, self.client.session_id):
            self._console.print(_text(f"{self._device_of(message.session_id)}> ", "cyan") + _text(message.text))

    def _show_growth(self, grew: ChunkApplied) -> None:
        generation = self.client.state.generations.get(grew.generation_id)
        if generation is None:
            return
        self._print_answer(self._live, self._live.grow, generation.text)

    def _show_answer(self, message: Message) -> None:
        live, self._live = self._live, LiveAnswer()
        self._thinking = ""
        self._print_answer(live, live.finish, message.text)
        if message.status not in (None, "complete"):
            self._note(f"({message.status})")

    def _print_answer(self, live: LiveAnswer, take: Callable[[str], list[str]], text: str) -> None:
        had_begun = live.has_begun
        for index, line in enumerate(take(text)):
            label = _text("      " if had_begun or index else "twin> ", "green")
            self._console.print(label + _text(line))

    def _show_end(self, error: BaseException | None) -> None:
        if error is not None:
            self._print(explain(error) if isinstance(error, ClientError) else "The session ended.", "red")
        self._leave()

    async def _show_history(self, limit: int) -> None:
        for entry in await history(self.client, self._conversation, limit):
            self._show_entry(entry)

    def _show_entry(self, entry: Json, before: str = "") -> None:
        who = "you> " if entry["role"] == "user" else "twin> "
        self._console.print(_text(before + who, "dim") + _text(entry["text"], "dim"))

    def _heard_by(self, also: Hook | None) -> Hook:
        def hear(direction: Literal["in", "out"], envelope: Json) -> None:
            if also is not None:
                also(direction, envelope)
            if self._is_raw:
                self._print(f"{'<' if direction == 'in' else '>'} {orjson.dumps(envelope).decode()}", "magenta")

        return hear

    def _note(self, text: str) -> None:
        self._print(text, "dim")

    def _print(self, text: str, style: str) -> None:
        self._console.print(_text(text, style))

    def _region(self) -> StyleAndTextTuples:
        """The prompt, and above it what is still moving: the unfinished line of an answer, and the state of things."""
        shown: StyleAndTextTuples = []
        if self._live.tail:
            width = max(20, self._console.width * 6)
            label = "      " if self._live.has_begun else "twin> "
            shown += [("fg:ansigreen", label), ("", self._live.tail[-width:] + "\n")]
        states = [self._status, self._thinking and f"{self._thinking}…", *self._typists()]
        if any(states):
            shown.append(("fg:ansibrightblack", " · ".join(state for state in states if state) + "\n"))
        name = f"you@{self._device}" if len(self._clients) > 1 else "you"
        return [*shown, ("bold", f"{name}> ")]

    def _typists(self) -> Iterable[str]:
        if self._device not in self._clients:
            return []
        return [f"{self._device_of(session_id)} is typing…" for session_id in sorted(self.client.state.typing)]


def _text(text: str, style: str = "") -> Text:
    """Text for the console; what a terminal would obey is shown as U+FFFD."""
    return Text(printable(text), style)


def _belief(trait: Json, version: int) -> str:
    was = f" (was {trait['previous']})" if trait.get("previous") else ""
    sure = trait.get("confidence")
    number = f", {sure:.2f}" if isinstance(sure, int | float) else ""
    return f"profile {version}: {trait.get('key')} = {trait.get('value')}{was} [{trait.get('status')}{number}]"


COMMANDS: dict[str, ChatCommand] = {
    "/help": ChatCommand("/help", "this list; Tab completes, Ctrl-R searches what you typed", Chat._help),
    "/context": ChatCommand(
        '/context {"screen": "…"}', "merge into the host context; null takes a field out", Chat._context
    ),
    "/feedback": ChatCommand("/feedback up|down [comment]", "rate the last answer", Chat._feedback),
    "/typing": ChatCommand("/typing", "be seen typing, and again: no longer", Chat._typing),
    "/history": ChatCommand("/history [n]", "the newest n messages", Chat._history),
    "/search": ChatCommand("/search WORDS", "the newest messages that hold all of the words", Chat._search),
    "/conversation": ChatCommand("/conversation NAME", "talk in another conversation", Chat._change_conversation),
    "/profile": ChatCommand("/profile", "what the twin believes of you, and how surely", Chat._profile),
    "/why": ChatCommand("/why TRAIT", "what you said that makes it believe so", Chat._why),
    "/stop": ChatCommand("/stop", "end the running answer (or Ctrl-C)", Chat._stop),
    "/regenerate": ChatCommand("/regenerate", "another answer to your last message", Chat._regenerate),
    "/as-device": ChatCommand("/as-device NAME", "speak as another device, beside this one", Chat._as_device),
    "/raw": ChatCommand("/raw", "show the envelopes, and again: hide them", Chat._raw),
    "/conversations": ChatCommand("/conversations", "all of them, the newest first", Chat._list_conversations),
    "/quit": ChatCommand("/quit", "leave (or Ctrl-D)", Chat._quit),
}


class _Completions(Completer):
    """Commands, and behind them what `arguments(command)` offers."""

    def __init__(self, arguments: Callable[[str], Iterable[tuple[str, str]]]) -> None:
        self._arguments = arguments

    def get_completions(self, document: Document, _: CompleteEvent) -> Iterable[Completion]:
        typed = document.text_before_cursor
        if not typed.startswith("/"):
            return
        command, space, argument = typed.partition(" ")
        offers = self._arguments(command) if space else [(name, one.help) for name, one in COMMANDS.items()]
        begun = argument if space else typed
        for text, meta in offers:
            if text.startswith(begun) or (space and begun.casefold() in meta.casefold()):
                yield Completion(text, start_position=-len(begun), display_meta=meta)

"""The live chat on a terminal: the prompt at the bottom, the unfinished answer above it, everything else scrolls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

import orjson
from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from rich.console import Console

from twin_sio.background import BackgroundTasks
from twin_sio.cli.answer_view import AnswerView, styled
from twin_sio.cli.batch import cut_note, explain, history
from twin_sio.cli.completion import Completions
from twin_sio.cli.steps import approval_lines, decision_line, step_line
from twin_sio.cli.traits import line_of
from twin_sio.client import (
    ApprovalRequested,
    ApprovalResolved,
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
    PendingApproval,
    ProfileChanged,
    Ready,
    ReasoningApplied,
    Reconnecting,
    SessionClosed,
    StepChanged,
    Thinking,
    TwinClient,
    WantsHistory,
)
from twin_sio.domain import Json

RECENT = 10


class NewClient(Protocol):
    def __call__(self, device: str, session: str | None = None) -> TwinClient: ...


class CommandError(Exception):
    """A command with wrong arguments; the text says how to use it."""


@dataclass(frozen=True, slots=True)
class ChatCommand:
    usage: str
    help: str
    run: Callable[[Chat, str], Awaitable[None]]


class Chat:
    """One terminal, and the devices that it uses (one, until `/as-device` adds more)."""

    def __init__(
        self,
        new_client: NewClient,
        device: str,
        conversation_id: str,
        commands: Mapping[str, ChatCommand],
        console: Console | None = None,
        typed: History | None = None,
        markdown: bool = False,
    ) -> None:
        self.commands = commands
        self._new_client = new_client
        self._device = device
        self.conversation = conversation_id
        self.clients: dict[str, TwinClient] = {}
        self._follower: asyncio.Task[None] | None = None
        # Shown above the prompt: the state of the connection, and of the answer.
        self._status = "connecting"
        # Messages up to this seq are shown by the history, not as new.
        self._first_seq = 0
        self.is_raw = False
        self.is_typing = False
        self._tasks = BackgroundTasks()
        self.conversations: list[str] = [conversation_id]
        self.console = console or Console(force_terminal=True, highlight=False)
        self._markdown = markdown
        self._answer = self._new_answer()
        self._prompt: PromptSession[str] = PromptSession(
            message=self._region,
            history=typed or InMemoryHistory(),
            completer=Completions({name: command.help for name, command in commands.items()}, self._arguments),
            complete_while_typing=True,
            key_bindings=self._keys(),
            reserve_space_for_menu=4,
        )

    @property
    def client(self) -> TwinClient:
        return self.clients[self._device]

    async def run(self) -> None:
        await self.use_device(self._device, session=None)
        with patch_stdout(raw=True):
            self.note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D quits.")
            try:
                await self.show_history(RECENT)
            except ClientError as error:
                if self._follower is not None and isinstance(error, SessionClosed):
                    await self._follower  # it shows why the session ended; there is no prompt yet to exit from
                    return
                self.print(explain(error), "red")
            self.in_background(self._load_names())
            # The prompt ends with EOFError, raised by Ctrl-D, by /quit and by a session that ended for good.
            with suppress(EOFError):
                while True:
                    await self._on_line((await self._prompt.prompt_async()).strip())

    async def close(self) -> None:
        await self._tasks.stop()
        await asyncio.gather(*(client.close() for client in self.clients.values()))

    # -- input ---------------------------------------------------------------------------------------------------------

    async def _on_line(self, line: str) -> None:
        if not line:
            return
        try:
            if line.startswith("/"):
                await self._command(line)
            else:
                await self.client.send(line, conversation_id=self.conversation)
        except CommandError as error:
            self.print(str(error), "yellow")
        except ClientError as error:
            self.print(explain(error), "red")

    async def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        command = self.commands.get(name)
        if command is None:
            raise CommandError(f"There is no {name}; /help lists the commands.")
        await command.run(self, rest.strip())

    def open_conversation(self, name: str) -> None:
        """Show, and send to, another conversation from now on."""
        if name not in self.conversations:
            self.conversations.append(name)
        self.conversation, self._answer = name, self._new_answer()
        for approval in self.client.state.progress.waiting(name):
            self._show_approval(approval)

    async def _load_names(self) -> None:
        """Load what Tab completes: conversations and traits; nothing if the token lacks the scope."""
        with suppress(ClientError):
            self.conversations = [entry["conversation_id"] for entry in await self.client.conversations()]
            if self.conversation not in self.conversations:
                self.conversations.append(self.conversation)
            await self.client.profile()

    def _arguments(self, command: str) -> Iterable[tuple[str, str]]:
        """The arguments that a command may have, each with a description."""
        if command == "/conversation":
            return [(conversation_id, "") for conversation_id in self.conversations]
        if command == "/why" and self.clients:
            traits = self.client.state.traits.values()
            return [(str(trait["trait_id"]), line_of(trait)) for trait in traits]
        return [(word, "") for word in {"/feedback": ("up", "down")}.get(command, ())]

    def last_message(self, role: Literal["user", "twin"]) -> Message:
        found = [m for m in self.client.state.transcript(self.conversation) if m.role == role and m.seq is not None]
        if not found:
            raise CommandError("There is no such message yet.")
        return found[-1]

    async def stop_running(self) -> bool:
        """Stop the running answers of this conversation; False if there are none."""
        state = self.client.state
        running = [g.in_response_to for g in state.generations.values() if g.conversation_id == self.conversation]
        if not running and self.conversation in state.thinking:
            running = [self.last_message("user").message_id]
        running += [one.in_response_to for one in state.progress.waiting(self.conversation)]
        for message_id in dict.fromkeys(running):
            if message_id is not None:
                await self.client.stop(message_id)
        return bool(running)

    def in_background(self, work: Awaitable[object]) -> None:
        async def run() -> None:
            try:
                await work
            except ClientError as error:
                self.print(explain(error), "red")

        self._tasks.start(run())

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            async def stop_or_clear_or_quit() -> None:
                if await self.stop_running():
                    return
                if event.current_buffer.text:
                    event.current_buffer.reset()
                else:
                    self._quit()

            self.in_background(stop_or_clear_or_quit())

        return keys

    def _quit(self) -> None:
        if self._prompt.app.is_running:
            self._prompt.app.exit(exception=EOFError())

    # -- devices -------------------------------------------------------------------------------------------------------

    async def use_device(self, device: str, session: str | None) -> None:
        if device not in self.clients:
            client = self._new_client(device, session)
            client.on_envelope = self._hook(client.on_envelope)
            try:
                await client.connect()
            except ClientError:
                await client.close()
                raise
            self.clients[device] = client
        self._device = device
        if self._follower is not None:
            self._follower.cancel()
        self._first_seq = self.client.state.last_seq or 0
        self._status, self._answer = "", self._new_answer()
        self._follower = self._tasks.start(self._follow(self.client))

    async def _follow(self, client: TwinClient) -> None:
        async for change in client.changes():
            self._show(change)
            self._prompt.app.invalidate()

    def _device_of(self, session_id: str | None) -> str:
        for session in self.client.state.devices:
            if session.get("session_id") == session_id:
                return str((session.get("device") or {}).get("name") or session_id)
        return session_id or "another device"

    # -- output --------------------------------------------------------------------------------------------------------

    def _show(self, change: Change) -> None:
        match change:
            case MessageChanged(message, True) if message.conversation_id == self.conversation:
                self._show_message(message)
            case ChunkApplied() | ReasoningApplied() | StepChanged() | Thinking():
                if change.conversation_id == self.conversation:
                    self._answer.show(change, self.client.state)
            case ApprovalRequested(approval):
                self._show_approval(approval)
            case ApprovalResolved() if change.conversation_id == self.conversation:
                self.note(decision_line(change))
            case Ready():
                self._status = ""
            case Disconnected():
                self._status = "connection lost"
            case Reconnecting(attempt, delay_s):
                self._status = f"reconnecting in {delay_s:.1f} s (attempt {attempt + 1})"
            case Draining():
                self._status = "the server is draining, another one takes over"
            case WantsHistory("log_restarted"):
                self._first_seq = 0
            case Ended(error):
                self._show_end(error)
            case Failed(error, _):
                self.print(f"{error.get('code')}: {error.get('message')}", "red")
            case _:
                self._show_others(change)

    def _show_others(self, change: Change) -> None:
        match change:
            case DevicesChanged(event):
                name = (event.get("device") or {}).get("name") or event.get("session_id")
                self.note(f"{name} {event.get('state')}")
            case ProfileChanged(version, changes):
                for trait in changes:
                    self.note(_trait_line(trait, version))
            case ContextChanged():
                self.note("Another device changed the context.")
            case _:
                pass

    def _show_message(self, message: Message) -> None:
        # Older messages arrive with a page of the history, which prints them itself.
        if message.seq is None or message.seq <= self._first_seq:
            return
        if message.role == "twin":
            self._show_answer(message)
        elif message.session_id not in (None, self.client.session_id):
            self.console.print(styled(f"{self._device_of(message.session_id)}> ", "cyan") + styled(message.text))

    def _show_answer(self, message: Message) -> None:
        view, self._answer = self._answer, self._new_answer()
        view.finish(message)
        if message.status not in (None, "complete"):
            self.note(f"({message.status})")
        elif note := cut_note(message):
            self.note(note)

    def _new_answer(self) -> AnswerView:
        return AnswerView(self.console, self._markdown)

    def _show_approval(self, approval: PendingApproval) -> None:
        if approval.conversation_id != self.conversation:
            self.note(f"{approval.conversation_id} waits for your approval: {approval.title}")
            return
        for line in approval_lines(approval):
            self.print(line, "yellow")

    def _show_end(self, error: BaseException | None) -> None:
        if error is not None:
            self.print(explain(error) if isinstance(error, ClientError) else "The session ended.", "red")
        self._quit()

    async def show_history(self, limit: int) -> None:
        for entry in await history(self.client, self.conversation, limit):
            self._show_entry(entry)

    def _show_entry(self, entry: Json) -> None:
        if entry["role"] == "user":
            self.console.print(styled("you> ", "dim") + styled(entry["text"], "dim"))
        else:
            self._new_answer().print_answer(entry["text"], "dim", "twin> ", "dim")
        for step in entry.get("steps") or ():
            self.note(step_line(step))

    def _hook(self, inner: Hook | None) -> Hook:
        def on_envelope(direction: Literal["in", "out"], envelope: Json) -> None:
            if inner is not None:
                inner(direction, envelope)
            if self.is_raw:
                self.print(f"{'<' if direction == 'in' else '>'} {orjson.dumps(envelope).decode()}", "magenta")

        return on_envelope

    def note(self, text: str) -> None:
        self.print(text, "dim")

    def print(self, text: str, style: str) -> None:
        self.console.print(styled(text, style))

    def _region(self) -> StyleAndTextTuples:
        """The prompt, and above it the unfinished line of an answer and the status."""
        shown = self._answer.region()
        states = [self._status, *self._answer.states(), *self._typing_devices()]
        if any(states):
            shown.append(("fg:ansibrightblack", " · ".join(state for state in states if state) + "\n"))
        name = f"you@{self._device}" if len(self.clients) > 1 else "you"
        return [*shown, ("bold", f"{name}> ")]

    def _typing_devices(self) -> Iterable[str]:
        if self._device not in self.clients:
            return []
        return [f"{self._device_of(session_id)} is typing…" for session_id in sorted(self.client.state.typing)]


def _trait_line(trait: Json, version: int) -> str:
    was = f" (was {trait['previous']})" if trait.get("previous") else ""
    sure = trait.get("confidence")
    number = f", {sure:.2f}" if isinstance(sure, int | float) else ""
    return f"profile {version}: {line_of(trait)}{was} [{trait.get('status')}{number}]"

"""The commands of the live chat, as `/help` lists them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final, Literal

import orjson
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from rich.table import Table

from twin_sio.cli.answer_view import styled
from twin_sio.cli.batch import Failure, find_messages, find_traits, found_line
from twin_sio.cli.chat import RECENT, Chat, ChatCommand, CommandError, NewClient
from twin_sio.cli.traits import line_of, value_of
from twin_sio.client import PendingApproval
from twin_sio.domain import Json
from twin_sio.protocol import is_id

_FOUND_MAX = 20


async def run_chat(
    new_client: NewClient, device: str, conversation_id: str, state_folder: Path, markdown: bool
) -> None:
    """Chat until the user quits or the server ends the session; raises `ClientError` if it cannot connect."""
    chat = Chat(new_client, device, conversation_id, COMMANDS, typed=input_history(state_folder), markdown=markdown)
    try:
        await chat.run()
    finally:
        await chat.close()


def input_history(state_folder: Path) -> History:
    """The input of earlier chats, for the arrow keys and Ctrl-R; this chat's lines are added. A file that only its user
    can read; without a file, the lines of this chat only."""
    path = state_folder.expanduser() / "twin-sio" / "typed"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return InMemoryHistory()
    return FileHistory(str(path))


async def _help(chat: Chat, _: str) -> None:
    table = Table(box=None, show_header=False)
    for command in chat.commands.values():
        table.add_row(styled(command.usage, style="bold"), command.help)
    chat.console.print(table)


async def _context(chat: Chat, rest: str) -> None:
    try:
        context = orjson.loads(rest)
    except orjson.JSONDecodeError:
        context = None
    if not isinstance(context, dict):
        raise CommandError('The context is a JSON object: /context {"screen": "recipes"}')
    await chat.client.update_context(context)
    chat.note("The context is changed; null removes a field.")


async def _feedback(chat: Chat, rest: str) -> None:
    rating, _, comment = rest.partition(" ")
    if rating not in ("up", "down"):
        raise CommandError("Rate the last answer: /feedback up, or /feedback down too long")
    verdict: Literal["up", "down"] = "up" if rating == "up" else "down"
    changed = await chat.client.feedback(chat.last_message("twin").message_id, verdict, comment=comment or None)
    chat.note("Thank you: it is stored.")
    for trait in changed:
        chat.note(f"{line_of(trait)} has confidence {trait['confidence']:.2f} now.")


async def _typing(chat: Chat, _: str) -> None:
    chat.is_typing = not chat.is_typing
    await chat.client.typing(chat.is_typing, conversation_id=chat.conversation)
    chat.note(f"Your other devices see you {'typing' if chat.is_typing else 'no longer typing'}.")


async def _history(chat: Chat, rest: str) -> None:
    if rest and not (rest.isdecimal() and int(rest) > 0):
        raise CommandError("How many messages? /history 20")
    await chat.show_history(int(rest or 20))


async def _search(chat: Chat, rest: str) -> None:
    try:
        found = await find_messages(chat.client, rest, _FOUND_MAX)
    except Failure as failure:
        raise CommandError(str(failure)) from None
    for entry in found[::-1]:  # the best last, next to the prompt
        chat.note(found_line(entry))
    chat.note(f"{len(found)} found, the best last. /conversation NAME goes there.")


async def _change_conversation(chat: Chat, rest: str) -> None:
    if not is_id(rest):
        raise CommandError("Which conversation? Any name such as trip-2026: /conversation trip-2026")
    chat.open_conversation(rest)
    chat.note(f"You talk in {rest} now.")
    await chat.show_history(RECENT)


async def _profile(chat: Chat, _: str) -> None:
    profile = await chat.client.profile()
    table = Table(title=f"What your twin believes (version {profile['version']})", title_justify="left")
    for column in ("trait", "value", "status", "confidence", "for", "against"):
        table.add_column(column)
    for trait in profile["traits"]:
        numbers = (f"{trait[name]:.2f}" for name in ("confidence", "supporting", "opposing"))
        table.add_row(styled(trait["key"]), styled(value_of(trait)), styled(trait["status"]), *numbers)
    chat.console.print(table)


async def _why(chat: Chat, rest: str) -> None:
    try:
        found = await find_traits(chat.client, rest)
    except Failure as failure:
        raise CommandError(str(failure)) from None
    for trait in found:
        _show_reasons(chat, await chat.client.why(trait["trait_id"]))


def _show_reasons(chat: Chat, why: Json) -> None:
    table = Table(title=styled(line_of(why)), title_justify="left")
    for column in ("", "kind", "weight", "x decay", "x repeat", "=", "days ago", "your words"):
        table.add_column(column)
    for piece in why["evidence"]:
        numbers = (f"{piece[name]:.2f}" for name in ("weight", "decay", "repeat", "effective", "age_days"))
        table.add_row(piece["side"].replace("_", " "), piece["kind"], *numbers, styled(piece["quote"]))
    chat.console.print(table)
    chat.print("{formula} = {confidence:.4f}, S = {supporting:.2f}, C = {opposing:.2f}".format(**why), "bold")


def _decided(chat: Chat, rest: str) -> tuple[PendingApproval, str]:
    """The approval that is meant, and the words after its id: the one named, else the oldest that waits here."""
    waiting = chat.client.state.progress.waiting(chat.conversation)
    if not waiting:
        raise CommandError("Nothing in this conversation waits for your approval.")
    name, _, words = rest.partition(" ")
    named = [one for one in waiting if one.approval_id == name]
    return (named[0], words.strip()) if named else (waiting[0], rest)


async def _approve(chat: Chat, rest: str) -> None:
    approval, words = _decided(chat, rest)
    if words:
        raise CommandError("No approval of this id waits here: /approve alone approves the oldest.")
    await chat.client.approve(approval.approval_id)


async def _reject(chat: Chat, rest: str) -> None:
    approval, comment = _decided(chat, rest)
    await chat.client.approve(approval.approval_id, "reject", comment=comment or None)


async def _edit(chat: Chat, rest: str) -> None:
    approval, text = _decided(chat, rest)
    try:
        arguments = orjson.loads(text)
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        shown = orjson.dumps(approval.arguments).decode()
        raise CommandError(f"The arguments are a JSON object: /edit {shown}")
    await chat.client.approve(approval.approval_id, "edit", arguments=arguments)


async def _interrupt(chat: Chat, rest: str) -> None:
    if not rest:
        raise CommandError("What instead? /interrupt No, the other one")
    await chat.client.send(rest, mode="interrupt", conversation_id=chat.conversation)


async def _steer(chat: Chat, rest: str) -> None:
    if not rest:
        raise CommandError("What should it mind? /steer For three, please")
    await chat.client.send(rest, mode="steer", conversation_id=chat.conversation)


async def _stop(chat: Chat, _: str) -> None:
    if not await chat.stop_running():
        raise CommandError("There is no answer to stop.")


async def _regenerate(chat: Chat, _: str) -> None:
    message_id = chat.last_message("user").message_id
    # In the background: the prompt stays free, and the answer shows like any other.
    chat.in_background(chat.client.regenerate(message_id))


async def _as_device(chat: Chat, rest: str) -> None:
    words = shlex.split(rest)
    if len(words) != 1:
        raise CommandError("Which device? /as-device phone")
    await chat.use_device(words[0], session="")
    chat.note(f"You speak as {words[0]} now; {', '.join(sorted(chat.clients))} are connected.")


async def _raw(chat: Chat, _: str) -> None:
    chat.is_raw = not chat.is_raw
    chat.note(f"Envelopes are {'shown' if chat.is_raw else 'hidden'}.")


async def _list_conversations(chat: Chat, _: str) -> None:
    table = Table(box=None)
    for column in ("conversation", "title", "unread", "last message"):
        table.add_column(column)
    entries = await chat.client.conversations()
    chat.conversations = [entry["conversation_id"] for entry in entries]
    for entry in entries:
        last = (entry.get("last_message") or {}).get("text", "")
        table.add_row(
            styled(entry["conversation_id"]), styled(entry["title"] or ""), str(entry["unread"]), styled(last[:60])
        )
    chat.console.print(table)


async def _quit(_chat: Chat, _: str) -> None:
    raise EOFError


COMMANDS: Final[dict[str, ChatCommand]] = {
    "/help": ChatCommand("/help", "this list; Tab completes, Ctrl-R searches the input history", _help),
    "/context": ChatCommand('/context {"screen": "…"}', "merge into the host context; null removes a field", _context),
    "/feedback": ChatCommand("/feedback up|down [comment]", "rate the last answer", _feedback),
    "/typing": ChatCommand("/typing", "show you as typing on your other devices; again: stop", _typing),
    "/history": ChatCommand("/history [n]", "the newest n messages", _history),
    "/search": ChatCommand("/search WORDS", "messages of all conversations that have to do with the words", _search),
    "/conversation": ChatCommand("/conversation NAME", "switch to another conversation", _change_conversation),
    "/profile": ChatCommand("/profile", "your profile: traits, values and confidence", _profile),
    "/why": ChatCommand("/why TRAIT", "the evidence for a trait", _why),
    "/stop": ChatCommand("/stop", "stop the running answer (or Ctrl-C)", _stop),
    "/interrupt": ChatCommand("/interrupt TEXT", "end the running answer, and say this instead", _interrupt),
    "/steer": ChatCommand("/steer TEXT", "tell the running answer something, without ending it", _steer),
    "/approve": ChatCommand("/approve [id]", "let the twin do what it asks for; without an id the oldest", _approve),
    "/reject": ChatCommand("/reject [id] [why]", "do not let it", _reject),
    "/edit": ChatCommand("/edit [id] {…}", "let it, with these arguments", _edit),
    "/regenerate": ChatCommand("/regenerate", "another answer to your last message", _regenerate),
    "/as-device": ChatCommand("/as-device NAME", "use another device, beside this one", _as_device),
    "/raw": ChatCommand("/raw", "show the envelopes; again: hide them", _raw),
    "/conversations": ChatCommand("/conversations", "all conversations, newest first", _list_conversations),
    "/quit": ChatCommand("/quit", "quit (or Ctrl-D)", _quit),
}

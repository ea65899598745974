"""The commands without a terminal: questions, the transcript, the profile. Plain text on stdout, or one JSON object a
line, whose fields stay as they are."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import orjson

from twin_sio.cli.printable import Output, printable
from twin_sio.cli.standard_input import in_a_thread
from twin_sio.cli.steps import is_over, step_line
from twin_sio.cli.traits import line_of
from twin_sio.client import (
    ApprovalRequested,
    ApprovalResolved,
    Change,
    Changes,
    ClientError,
    HandshakeRefused,
    Message,
    MessageChanged,
    RequestFailed,
    StepChanged,
    TwinClient,
    Unreachable,
)
from twin_sio.clock import new_id
from twin_sio.domain import Json
from twin_sio.protocol import PAGE_MAX, SEARCH_TEXT_MAX

APPROVAL_NEEDED = 3  # exit code
_PATIENCE = 5
SEARCHED_MAX = 10_000
CUTS = {
    "length": "(cut off: it reached its longest length; say: go on)",
    "content_filter": "(cut off by the rules of the model's provider)",
}


class Failure(Exception):
    """The command failed; the text says why and what to do, for a person; the rest is for scripts."""

    def __init__(self, text: str, *, code: str = "failed", retryable: bool = False, exit_code: int = 1) -> None:
        super().__init__(text)
        self.code = code
        self.retryable = retryable
        self.exit_code = exit_code


def explain(error: ClientError) -> str:
    """What went wrong and what to do about it, in a line or two."""
    if isinstance(error, Unreachable):
        return f"{error}\nStart the service (make run, or python server.py), or say where it is: --url or TWIN_URL."
    if isinstance(error, HandshakeRefused):
        return f"The server refused the connection ({error.code}): {error.message}\n{_remedy(error)}"
    if isinstance(error, RequestFailed):
        return f"The server refused the request ({error.code}): {error.message}"
    return str(error)


def _remedy(refused: HandshakeRefused) -> str:
    if refused.code.startswith("auth_"):
        return (
            "Give a valid token with --token or TWIN_TOKEN, or let one be made for development: leave --token out,\n"
            "name the user with --sub, and give the server's TWIN_JWT_SECRET where it is not the development one."
        )
    if refused.retryable:
        wait = "a moment" if refused.retry_after_ms is None else f"{refused.retry_after_ms / 1000:.1f} s"
        return f"Try again in {wait}."
    return "Trying again will not help: change what was refused."


def failure_line(error: Exception) -> Json:
    """A failure as scripts read it: `{type: "error", code, message, retryable}`."""
    code = getattr(error, "code", "unreachable" if isinstance(error, Unreachable) else "failed")
    retryable = bool(getattr(error, "retryable", isinstance(error, Unreachable)))
    return {"type": "error", "code": code, "message": getattr(error, "message", str(error)), "retryable": retryable}


PrintAnswer = Callable[[str, str], None]
"""Prints a label and an answer's text for a person at a terminal."""


async def ask_once(
    client: TwinClient,
    text: str,
    conversation_id: str,
    as_json: bool,
    out: Output,
    print_answer: PrintAnswer | None = None,
) -> None:
    """Ask, and print the answer's text and nothing else; as JSON what is done for it as well. Raises `Failure` where it
    did not end well, or waits for an approval."""
    show = _json_events(out) if as_json else None
    answer = await _ask(client, text, conversation_id, _until_approval(show))
    _print(text, answer, "", as_json, out, print_answer)
    _check(client, answer)


async def ask_lines(
    client: TwinClient,
    questions: TextIO,
    conversation_id: str,
    as_json: bool,
    out: Output,
    print_answer: PrintAnswer | None,
) -> None:
    """Ask each line that is not empty, one after the other, and print a plain transcript as it grows."""
    async for question in _lines(questions):
        if not as_json:
            print(f"you: {question}", file=out, flush=True)
        answer = await _ask(client, question, conversation_id, _json_events(out) if as_json else _plain_events(out))
        _print(question, answer, "twin: ", as_json, out, print_answer)
        _check(client, answer)


def _print(
    question: str, answer: Message, label: str, as_json: bool, out: Output, print_answer: PrintAnswer | None
) -> None:
    if print_answer is not None and not as_json:
        print_answer(label, answer.text)
    else:
        print(_answer_line(question, answer) if as_json else label + answer.text, file=out, flush=True)


def _answer_line(question: str, answer: Message) -> str:
    line = {
        "type": "answer",
        "question": question,
        "text": answer.text,
        "status": answer.status,
        "message_id": answer.message_id,
        "in_response_to": answer.in_response_to,
        "conversation_id": answer.conversation_id,
        "seq": answer.seq,
        "timestamp": answer.timestamp,
        "model": answer.model,
        "used_traits": answer.used_traits,
        **({"finish": answer.finish} if answer.finish else {}),
        **({"error": answer.error} if answer.error else {}),
        **({"steps": answer.steps} if answer.steps else {}),
        **({"reasoning": answer.reasoning} if answer.reasoning else {}),
        **({"steered_by": answer.steered_by} if answer.steered_by else {}),
        **({"stopped_by": answer.stopped_by} if answer.stopped_by else {}),
    }
    return orjson.dumps(line).decode()


# -- what is done for an answer ----------------------------------------------------------------------------------------

OnChange = Callable[[Change], None]


def _json_events(out: Output) -> OnChange:
    """Each as a line of JSON: `{type: "step" | "approval" | "approval_resolved", ...}` with the event's fields."""

    def show(change: Change) -> None:
        line: dict[str, Any]
        match change:
            case StepChanged(_, in_response_to, step):
                line = {"type": "step", "in_response_to": in_response_to, **step}
            case ApprovalRequested(approval):
                line = {"type": "approval", **asdict(approval)}
            case ApprovalResolved(approval_id, _, decision, _, comment):
                line = {"type": "approval_resolved", "approval_id": approval_id, "decision": decision}
                line |= {"comment": comment} if comment else {}
            case _:
                return
        print(orjson.dumps(line).decode(), file=out, flush=True)

    return show


def _plain_events(out: Output) -> OnChange:
    """Steps that are over, each a line of the transcript; who decides is told on stderr."""

    def show(change: Change) -> None:
        if isinstance(change, StepChanged) and is_over(change.step):
            print(step_line(change.step), file=out, flush=True)
        _ask_elsewhere(change)

    return show


def _until_approval(show: OnChange | None) -> OnChange:
    """Show what is done until it takes an approval, for which nobody is here."""

    def on_change(change: Change) -> None:
        if show is not None:
            show(change)
        if isinstance(change, ApprovalRequested):
            raise Failure(
                f"The answer waits for an approval: {change.approval.title}\n"
                "Decide on another of your devices, or in twin-sio chat; twin-sio history has the answer after that.",
                code="approval_needed",
                exit_code=APPROVAL_NEEDED,
            )

    return on_change


def _ask_elsewhere(change: Change) -> None:
    if isinstance(change, ApprovalRequested):
        text = f"The answer waits for an approval on another of your devices: {change.approval.title}"
        print(printable(text), file=sys.stderr, flush=True)


async def print_history(
    client: TwinClient, conversation_id: str, limit: int, words: str, as_json: bool, out: Output
) -> None:
    """The newest `limit` messages (that hold all of the words), oldest first."""
    if words.strip():
        result = await search(client, conversation_id, words.split(), limit)
        found = result.entries
        looked_at = "no message" if result.is_whole else f"none of the newest {SEARCHED_MAX} messages"
        nothing = f"{looked_at} in {conversation_id} holds all of these words"
    else:
        found = await history(client, conversation_id, limit)
        nothing = f"nothing was said in {conversation_id}"
    for entry in found:
        print(orjson.dumps(entry).decode() if as_json else _plain(entry), file=out)
    if not found:
        _tell(client, nothing)


def _tell(client: TwinClient, what: str) -> None:
    """Tell a person what an empty output means, and of whom."""
    print(printable(f"Of {client.state.session['user_id']}: {what}."), file=sys.stderr, flush=True)


async def print_found(client: TwinClient, text: str, limit: int, as_json: bool, out: Output) -> None:
    """Messages of all conversations that have to do with the text, the best first."""
    found = await find_messages(client, text, limit)
    for entry in found:
        print(orjson.dumps(entry).decode() if as_json else found_line(entry), file=out)
    if not found:
        _tell(client, "no message has to do with these words")


async def find_messages(client: TwinClient, text: str, limit: int) -> list[Json]:
    """What the server finds; a search that was not complete is tried again, as the server goes on with it."""
    if not text.strip() or len(text) > SEARCH_TEXT_MAX:
        raise Failure(f"For which words? Up to {SEARCH_TEXT_MAX} characters, such as: pasta tuesday")
    for _ in range(_PATIENCE):
        found = await client.search(text, limit=limit)
        if found["complete"]:
            break
    return list(found["messages"])


def found_line(entry: Json) -> str:
    """What was found, in a line: when, in which conversation, who, and what."""
    who = "you" if entry["role"] == "user" else "twin"
    excerpt = " ".join(entry["excerpt"].split())
    return f"{entry['timestamp'][:10]} {entry['conversation_id']} {who}: {excerpt}"


async def print_profile(client: TwinClient, as_json: bool, out: Output) -> None:
    """What the twin believes, a trait a line."""
    traits = (await client.profile())["traits"]
    for trait in traits:
        plain = f"{line_of(trait)} [{trait['status']}, {trait['confidence']:.2f}]"
        print(orjson.dumps(trait).decode() if as_json else plain, file=out)
    if not traits:
        _tell(client, "nothing is known yet")


async def print_reasons(client: TwinClient, wanted: str, as_json: bool, out: Output) -> None:
    """Why the twin believes the traits that `wanted` names; as JSON each as `GET /v1/profile/{trait_id}/why`."""
    for trait in await find_traits(client, wanted):
        why = await client.why(trait["trait_id"])
        if as_json:
            print(orjson.dumps(why).decode(), file=out)
            continue
        print(f"{line_of(why)}: {why['formula']} = {why['confidence']:.4f}", file=out)
        for one in why["evidence"]:
            print('  {side} {effective:.2f} {kind} {age_days:.0f} days ago "{quote}"'.format(**one), file=out)


async def find_traits(client: TwinClient, wanted: str) -> list[Json]:
    """The traits with this id, key or value; raises `Failure` where there is none."""
    name = wanted.strip().casefold()
    traits = (await client.profile())["traits"]
    found = [t for t in traits if name in (t["trait_id"].casefold(), t["key"].casefold(), t["value"].casefold())]
    if not name:
        raise Failure("Which trait? Its key or its value, as the profile lists them, such as location.city.")
    if not found:
        raise Failure("There is no such trait: name its key or its value, as the profile lists them.")
    return found


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Messages, oldest first; `is_whole` where the conversation was searched to its beginning or enough was found."""

    entries: list[Json]
    is_whole: bool


async def search(client: TwinClient, conversation_id: str, words: Sequence[str], limit: int) -> SearchResult:
    """The newest `limit` messages that hold all of the words, in any case; looks at `SEARCHED_MAX` at most."""
    wanted = [word.casefold() for word in words]
    found: list[Json] = []
    looked_at = 0
    async for page in _pages(client, conversation_id, SEARCHED_MAX):
        looked_at += len(page)
        hits = [entry for entry in page if all(word in entry["text"].casefold() for word in wanted)]
        found = [*hits, *found]
        if len(found) >= limit:
            break
    return SearchResult(found[-limit:], len(found) >= limit or looked_at < SEARCHED_MAX)


async def history(client: TwinClient, conversation_id: str, limit: int) -> list[Json]:
    """The newest `limit` messages, oldest first, over as many pages as it takes."""
    found: list[Json] = []
    async for page in _pages(client, conversation_id, limit):
        found = [*page, *found]
    return found


async def _pages(client: TwinClient, conversation_id: str, limit: int) -> AsyncIterator[list[Json]]:
    """A conversation from its end to its beginning, `limit` messages at most; each page oldest first."""
    left, before = limit, None
    while left > 0:
        page = await client.history(before=before, limit=min(PAGE_MAX, left), conversation_id=conversation_id)
        entries: list[Json] = page["messages"]
        if entries:
            yield entries
        if not page["has_more"] or not entries:
            return
        left, before = left - len(entries), entries[0]["message_id"]


def _plain(entry: Json) -> str:
    said = f"{entry['timestamp']} {'you' if entry['role'] == 'user' else 'twin'}: {entry['text']}"
    return "\n".join([said, *(step_line(step) for step in entry.get("steps") or ())])


async def _ask(client: TwinClient, text: str, conversation_id: str, on_change: OnChange) -> Message:
    """Ask; a refusal that passes is waited out and the same message sent again (its id makes that safe). What is done
    for the answer is handed over as it comes; what `on_change` raises ends it."""
    message_id = new_id()

    async def answered() -> Message:
        for attempt in range(_PATIENCE):
            try:
                return await client.ask(text, conversation_id=conversation_id, message_id=message_id)
            except RequestFailed as refused:
                if not refused.retryable or attempt == _PATIENCE - 1:
                    raise
                await asyncio.sleep((refused.retry_after_ms or 1000 * 2**attempt) / 1000)
        raise AssertionError("unreachable")

    following = asyncio.create_task(_follow(client.changes(), message_id, conversation_id, on_change))
    asking = asyncio.create_task(answered())
    try:
        answer, _ = await asyncio.gather(asking, following)  # all that came before the answer is shown before it
        return answer
    finally:
        following.cancel()
        asking.cancel()


async def _follow(changes: Changes, message_id: str, conversation_id: str, on_change: OnChange) -> None:
    """Show what happens in the conversation, until the message is answered."""
    async for change in changes:
        match change:
            case StepChanged() | ApprovalResolved() if change.conversation_id == conversation_id:
                on_change(change)
            case ApprovalRequested(approval) if approval.conversation_id == conversation_id:
                on_change(change)
            case MessageChanged(message) if message.is_answer_to(message_id):
                return


def _check(client: TwinClient, answer: Message) -> None:
    if answer.status in ("failed", "interrupted"):
        why = client.failure(answer.in_response_to or "")
        text = f"The answer did not end well, it is {answer.status}." + (f" {why}" if why else "")
        raise Failure(text, code=why.code, retryable=why.retryable) if why else Failure(text)
    if note := cut_note(answer):
        print(note, file=sys.stderr, flush=True)


def cut_note(answer: Message) -> str:
    """What cut a complete answer short, for a person; empty where it is whole."""
    return CUTS.get(answer.finish or "", "")


async def _lines(source: TextIO) -> AsyncIterator[str]:
    while line := await in_a_thread(source.readline):
        if line.strip():
            yield line.strip()

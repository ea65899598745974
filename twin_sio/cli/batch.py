"""The commands without a terminal: questions, the transcript, the profile. Plain text on stdout, or one JSON object a
line, whose fields stay as they are."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TextIO

import orjson

from twin_sio.cli.printable import Output
from twin_sio.cli.traits import line_of
from twin_sio.client import ClientError, HandshakeRefused, Message, RequestFailed, TwinClient, Unreachable
from twin_sio.clock import new_id
from twin_sio.domain import Json
from twin_sio.protocol import PAGE_MAX, SEARCH_TEXT_MAX

_PATIENCE = 5
SEARCHED_MAX = 10_000
CUTS = {
    "length": "(cut off: it reached its longest length; say: go on)",
    "content_filter": "(cut off by the rules of the model's provider)",
}


class Failure(Exception):
    """The command failed; the text says why and what to do, for a person; `code` and `retryable` are for scripts."""

    def __init__(self, text: str, *, code: str = "failed", retryable: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.retryable = retryable


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


async def ask_once(client: TwinClient, text: str, conversation_id: str, as_json: bool, out: Output) -> None:
    """Ask, and print the answer's text and nothing else. Raises `Failure` where it did not end well."""
    answer = await _ask(client, text, conversation_id)
    print(_answer_line(text, answer) if as_json else answer.text, file=out, flush=True)
    _check(client, answer)


async def ask_lines(client: TwinClient, questions: TextIO, conversation_id: str, as_json: bool, out: Output) -> None:
    """Ask each line that is not empty, one after the other, and print a plain transcript as it grows."""
    async for question in _lines(questions):
        if not as_json:
            print(f"you: {question}", file=out, flush=True)
        answer = await _ask(client, question, conversation_id)
        print(_answer_line(question, answer) if as_json else f"twin: {answer.text}", file=out, flush=True)
        _check(client, answer)


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
    }
    return orjson.dumps(line).decode()


async def print_history(
    client: TwinClient, conversation_id: str, limit: int, words: str, as_json: bool, out: Output
) -> None:
    """The newest `limit` messages (that hold all of the words), oldest first."""
    if words.strip():
        found = (await search(client, conversation_id, words.split(), limit)).entries
    else:
        found = await history(client, conversation_id, limit)
    for entry in found:
        print(orjson.dumps(entry).decode() if as_json else _plain(entry), file=out)


async def print_found(client: TwinClient, text: str, limit: int, as_json: bool, out: Output) -> None:
    """Messages of all conversations that have to do with the text, the best first."""
    for entry in await find_messages(client, text, limit):
        print(orjson.dumps(entry).decode() if as_json else found_line(entry), file=out)


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
    for trait in (await client.profile())["traits"]:
        plain = f"{line_of(trait)} [{trait['status']}, {trait['confidence']:.2f}]"
        print(orjson.dumps(trait).decode() if as_json else plain, file=out)


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
    if not name or not found:
        raise Failure("Which trait? Its key or its value, as the profile lists them, such as location.city.")
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
    return f"{entry['timestamp']} {'you' if entry['role'] == 'user' else 'twin'}: {entry['text']}"


async def _ask(client: TwinClient, text: str, conversation_id: str) -> Message:
    """Ask; a refusal that passes is waited out and the same message sent again (its id makes that safe)."""
    message_id = new_id()
    for attempt in range(_PATIENCE):
        try:
            return await client.ask(text, conversation_id=conversation_id, message_id=message_id)
        except RequestFailed as refused:
            if not refused.retryable or attempt == _PATIENCE - 1:
                raise
            await asyncio.sleep((refused.retry_after_ms or 1000 * 2**attempt) / 1000)
    raise AssertionError("unreachable")


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
    # In a thread: a pipe may stay silent for long, and heartbeats must go on meanwhile.
    while line := await asyncio.to_thread(source.readline):
        if line.strip():
            yield line.strip()

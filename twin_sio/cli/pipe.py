"""The commands without a terminal: one question, a file of questions, the transcript. Plain text on stdout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TextIO

import orjson

from twin_sio.client import ClientError, HandshakeRefused, Message, RequestFailed, TwinClient, Unreachable
from twin_sio.clock import new_id
from twin_sio.domain import Json
from twin_sio.protocol import PAGE_MAX

_PATIENCE = 5


class Failure(Exception):
    """The command failed; the text says why and what to do, for a person."""


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


async def ask_once(client: TwinClient, text: str, conversation_id: str, out: TextIO) -> None:
    """Ask, and print the answer's text and nothing else. Raises `Failure` where it did not end well."""
    answer = await _ask(client, text, conversation_id)
    print(answer.text, file=out, flush=True)
    _check(client, answer)


async def ask_lines(client: TwinClient, questions: TextIO, conversation_id: str, out: TextIO) -> None:
    """Ask each line that is not empty, one after the other, and print a plain transcript as it grows."""
    async for question in _lines(questions):
        print(f"you: {question}", file=out, flush=True)
        answer = await _ask(client, question, conversation_id)
        print(f"twin: {answer.text}", file=out, flush=True)
        _check(client, answer)


async def print_history(client: TwinClient, conversation_id: str, limit: int, as_json: bool, out: TextIO) -> None:
    """The newest `limit` messages, oldest first: as text, or one JSON object a line."""
    for entry in await history(client, conversation_id, limit):
        print(orjson.dumps(entry).decode() if as_json else _plain(entry), file=out)


async def history(client: TwinClient, conversation_id: str, limit: int) -> list[Json]:
    """The newest `limit` messages, oldest first, over as many pages as it takes."""
    found: list[Json] = []
    before: str | None = None
    while len(found) < limit:
        page = await client.history(
            before=before, limit=min(PAGE_MAX, limit - len(found)), conversation_id=conversation_id
        )
        found = [*page["messages"], *found]
        if not page["has_more"] or not page["messages"]:
            break
        before = page["messages"][0]["message_id"]
    return found


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
        raise Failure(f"The answer did not end well, it is {answer.status}." + (f" {why}" if why else ""))


async def _lines(source: TextIO) -> AsyncIterator[str]:
    # In a thread: a pipe may stay silent for long, and heartbeats must go on meanwhile.
    while line := await asyncio.to_thread(source.readline):
        if line.strip():
            yield line.strip()

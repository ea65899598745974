"""The OpenAI-compatible model, over the raw stream of the official client.

Reading the stream is the dearest thing on the whole path, so the client's typed events are not used: bytes come off
the socket, lines are split here and orjson reads each one. What is asked goes as `extra_body`, which is sent as it is:
the client walks through all else by its types, which took 9 ms of CPU for sixty messages. Nothing of a request, a key,
a URL or an answer is ever put into an exception or a log line: what the far side says can hold any of them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import orjson

from twin_sio.agent.metering import count_tokens
from twin_sio.domain import Json
from twin_sio.errors import ModelTimeout, ModelUnavailable
from twin_sio.observability.tracing import Span, span

Messages = Sequence[Mapping[str, str]]

RETRIED_STATUS = frozenset({408, 409, 425, 429})
MAX_LINE_BYTES = 1024 * 1024
MAX_ANSWER_CHARACTERS = 256 * 1024  # of an answer; it ends there
MAX_JSON_BYTES = 256 * 1024  # of what the background is answered
TRAILER_S = 1.0  # what a finished answer still waits for its usage

# These write URLs at INFO and whole requests at DEBUG, and both hold what users said.
for _chatty in ("openai", "httpx2", "httpcore2"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is whole. `reason` is the model's `finish_reason`, `usage` its token counts where it reports them."""

    reason: str
    usage: Json | None


class _Failed(Exception):
    """An attempt that failed; another may go better where `again` is true."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.again = again


class OpenAIModel:
    """One model behind an OpenAI-compatible endpoint, used by all answers of an instance.

    `first_token_s` bounds all that comes before an answer's first token: waiting for one of the `concurrency` slots,
    connecting, and the retries (there are none after it). `stall_s` bounds the silence between two tokens,
    `complete_s` a whole `complete_json`.
    """

    def __init__(
        self,
        *,
        base_url: str | None,
        api_key: str,
        model: str,
        first_token_s: float = 30.0,
        stall_s: float = 20.0,
        complete_s: float = 60.0,
        concurrency: int = 64,
        max_tokens: int = 800,
        retries: int = 2,
        backoff_s: float = 0.2,
    ) -> None:
        self.name = model
        self._first_token_s = first_token_s
        self._stall_s = stall_s
        self._complete_s = complete_s
        self._max_tokens = max_tokens
        self._retries = retries
        self._backoff_s = backoff_s
        self._slots = asyncio.Semaphore(concurrency)
        self.tokens: Counter[tuple[str, str]] = Counter()
        """What the endpoint reported, by purpose (`answer`, `background`) and kind (`read`, `written`)."""
        self._client = openai.AsyncOpenAI(
            base_url=base_url or None,
            api_key=api_key or "none",  # local servers need no key, the client insists on one
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=min(5.0, first_token_s)),
            http_client=openai.DefaultAsyncHttpxClient(
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency),
            ),
        )
        self._completions: Any = self._client.chat.completions  # its overloads know no plain mappings

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def stream(self, messages: Messages) -> AsyncGenerator[str | Finished, None]:
        """The answer's tokens as they come, none empty and at least one, then one `Finished`.

        Raises `ModelTimeout` and `ModelUnavailable`; after the first token too, and then what was yielded stands.
        Closing the generator closes the HTTP stream at once.
        """
        deadline = asyncio.get_running_loop().time() + self._first_token_s
        async with self._slot(deadline):
            attempt, begun = 0, False
            while True:
                try:
                    async with aclosing(self._attempt(messages, deadline)) as pieces:
                        async for piece in pieces:
                            begun = True
                            yield piece
                    return
                except _Failed as failure:
                    if begun or not failure.again or attempt == self._retries:
                        raise ModelUnavailable from None
                await self._back_off(attempt, deadline)
                attempt += 1

    async def complete_json(self, messages: Messages, schema: Json, *, name: str, max_tokens: int = 500) -> Json | None:
        """The object that the model answers under `schema`; None where its answer is no JSON object.

        Raises `ModelTimeout` and `ModelUnavailable`.
        """
        deadline = asyncio.get_running_loop().time() + self._complete_s
        shape = {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": dict(schema)}}
        async with self._slot(deadline):
            attempt = 0
            while True:
                try:
                    async with _until(deadline):
                        with span(f"model {name}") as call:
                            return await self._complete(messages, shape, max_tokens, call)
                except _Failed as failure:
                    if not failure.again or attempt == self._retries:
                        raise ModelUnavailable from None
                await self._back_off(attempt, deadline)
                attempt += 1

    def _record_usage(self, purpose: str, usage: object) -> dict[str, int]:
        reported = tokens(usage)
        for kind, count in reported.items():
            self.tokens[purpose, kind] += count
        return reported

    @asynccontextmanager
    async def _slot(self, deadline: float) -> AsyncIterator[None]:
        async with _until(deadline):
            await self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release()

    async def _back_off(self, attempt: int, deadline: float) -> None:
        async with _until(deadline):
            await asyncio.sleep(self._backoff_s * 3**attempt * random.uniform(0.5, 1.5))

    async def _attempt(self, messages: Messages, deadline: float) -> AsyncGenerator[str | Finished, None]:
        """One request: tokens, then `Finished`. `_Failed` where it came to nothing or was cut."""
        async with AsyncExitStack() as held:
            async with _until(deadline):
                response = await held.enter_async_context(self._opened(messages))
            events = _Events(response.iter_bytes())
            answer = _Answer()
            while (event := await self._next(events, answer, deadline)) is not None:
                if text := answer.take(event):
                    yield text
                if answer.characters > MAX_ANSWER_CHARACTERS:
                    self._record_usage("answer", answer.usage)
                    yield Finished("length", answer.usage)
                    return
            if not answer.begun or not (answer.reason or events.announced_end):
                raise _Failed(again=True)
            self._record_usage("answer", answer.usage)
            yield Finished(answer.reason or "stop", answer.usage)
            await events.drain(asyncio.get_running_loop().time() + TRAILER_S)

    async def _next(self, events: _Events, answer: _Answer, deadline: float) -> dict[str, Any] | None:
        """The next event, within the time that this point of the answer allows; None after the last one."""
        if answer.begun:
            allowed = self._stall_s if answer.reason is None else TRAILER_S
            deadline = asyncio.get_running_loop().time() + allowed
        try:
            return await events.next(deadline)
        except (_Failed, ModelTimeout):
            if answer.reason is not None:  # it is whole: only its trailer is missing
                return None
            raise

    @asynccontextmanager
    async def _opened(self, messages: Messages) -> AsyncIterator[openai.AsyncAPIResponse[Any]]:
        request = self._completions.with_streaming_response.create(
            model=self.name,
            messages=(),
            stream=True,
            extra_body={
                "messages": messages,
                "max_tokens": self._max_tokens,
                "stream_options": {"include_usage": True},
            },
        )
        with _translate_errors():
            response = await request.__aenter__()
        try:
            yield response
        finally:
            await request.__aexit__(None, None, None)

    async def _complete(self, messages: Messages, shape: dict[str, Any], max_tokens: int, call: Span) -> Json | None:
        body = {"messages": messages, "response_format": shape, "max_tokens": max_tokens, "temperature": 0}
        request = self._completions.with_streaming_response.create(model=self.name, messages=(), extra_body=body)
        read = b""
        try:
            with _translate_errors():
                async with request as response:
                    async for piece in response.iter_bytes():
                        read += piece
                        if len(read) > MAX_JSON_BYTES:
                            raise _Failed(again=False)
            answer = _object(read)
        except BaseException:
            count_tokens({}, sum(len(one["content"]) for one in messages) + len(read))
            raise
        reported = self._record_usage("background", answer.get("usage"))
        count_tokens(reported, sum(len(one["content"]) for one in messages) + len(read))
        call.set(**reported)
        content = (_choice(answer).get("message") or {}).get("content")
        try:
            found = orjson.loads(content) if isinstance(content, str) else None
        except orjson.JSONDecodeError:
            return None
        return found if isinstance(found, dict) else None


def tokens(usage: object) -> dict[str, int]:
    """Tokens by kind (`read`, `written`), as far as `usage` tells them."""
    reported = usage if isinstance(usage, dict) else {}
    counts = {"read": reported.get("prompt_tokens"), "written": reported.get("completion_tokens")}
    return {kind: count for kind, count in counts.items() if isinstance(count, int) and count >= 0}


class _Answer:
    """What the events of one stream have added up to."""

    def __init__(self) -> None:
        self.begun = False
        self.reason: str | None = None
        self.usage: Json | None = None
        self.characters = 0

    def take(self, event: dict[str, Any]) -> str:
        """The text that `event` adds; empty where it adds none."""
        if isinstance(usage := event.get("usage"), dict):
            self.usage = usage
        choice = _choice(event)
        text = (choice.get("delta") or {}).get("content") or ""
        if not isinstance(text, str):
            raise _Failed(again=False)
        self.begun = self.begun or bool(text)
        self.characters += len(text)
        self.reason = choice.get("finish_reason") or self.reason
        return text


class _Events:
    """The `data:` objects of a server-sent event stream. Other fields and comments are passed over."""

    def __init__(self, raw: AsyncIterator[bytes]) -> None:
        self._raw = raw
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False  # nothing more is said
        self._exhausted = False  # nothing more is there to be read
        self.announced_end = False

    async def next(self, deadline: float) -> dict[str, Any] | None:
        """The next object, None after the last; `ModelTimeout` at `deadline`, comments or not."""
        while True:
            while self._lines:
                field, _, value = self._lines.popleft().partition(b":")
                if field != b"data":
                    continue
                if value.strip() == b"[DONE]":
                    self.announced_end = self._ended = True
                    return None
                return _object(value)
            if self._ended:
                return None
            await self._read(deadline)

    async def drain(self, deadline: float) -> None:
        """Read on to the end, so that the connection can serve the next request; best effort."""
        with suppress(_Failed, ModelTimeout):
            while not self._exhausted:
                await self._read(deadline)

    async def _read(self, deadline: float) -> None:
        try:
            with _translate_errors():
                async with asyncio.timeout_at(deadline):
                    piece = await anext(self._raw, None)
        except TimeoutError:
            raise ModelTimeout from None
        if piece is None:
            self._ended = self._exhausted = True
            self._lines.append(self._rest)
            return
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        self._lines.extend(lines)
        if len(self._rest) > MAX_LINE_BYTES:
            raise _Failed(again=False)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise _Failed(again=False) from None
    if not isinstance(found, dict) or found.get("error"):  # some servers fail in the middle of a 200
        raise _Failed(again=False)
    return found


def _choice(answer: dict[str, Any]) -> dict[str, Any]:
    """The first choice; empty where there is none, as in the event that carries the usage."""
    choices = answer.get("choices") or [{}]
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise _Failed(again=False)
    for part in ("delta", "message"):
        if not isinstance(choices[0].get(part) or {}, dict):
            raise _Failed(again=False)
    return choices[0]


@asynccontextmanager
async def _until(deadline: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise ModelTimeout from None


@contextmanager
def _translate_errors() -> Iterator[None]:
    """What the client raises, as `_Failed`; its own texts hold URLs and answers and go no further."""
    try:
        yield
    except openai.APIStatusError as error:
        raise _Failed(again=error.status_code in RETRIED_STATUS or error.status_code >= 500) from None
    except (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError):
        raise _Failed(again=True) from None
    except UnicodeError:  # half a character in a message: it holds the text it could not encode
        raise _Failed(again=False) from None

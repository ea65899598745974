"""The client of an OpenAI-compatible endpoint, in the dialect of the API that it speaks.

Nothing of a request, a key, a URL or an answer is ever put into an exception or a log line: what the far side says can
hold any of them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any, Final

import structlog

from twin_sio.agent.metering import count_tokens
from twin_sio.agent.model.answer import Answer, Finished, Thought, choice_of, parts_of
from twin_sio.agent.model.connection import CircuitBreaker, Endpoint, drained, host_of, read, translated, until
from twin_sio.agent.model.dialect import Messages, Question, asking_for_json, body_of, with_learnt
from twin_sio.agent.model.events import EventParser
from twin_sio.agent.model.failures import Failed, Failure, request_id
from twin_sio.agent.model.objects import object_in
from twin_sio.config import Dialect
from twin_sio.domain import Json
from twin_sio.errors import (
    ModelNoAnswer,
    ModelNotFound,
    ModelRefused,
    ModelUnavailable,
    StorageUnavailable,
)
from twin_sio.observability.tracing import Span, span

log = structlog.get_logger("model")

OPENAI: Final = "https://api.openai.com/v1"
MAX_ANSWER_CHARACTERS = 256 * 1024  # of an answer; it ends there
MAX_JSON_BYTES = 256 * 1024  # of what the background is answered
TRAILER_S = 1.0  # what a finished answer still waits for its usage
_LARGE: Final = 16 * 1024  # characters of an answer that are searched for an object in a thread
_THINKING_TOKENS: Final = 4_000  # of an object's length beside its own, for a model that thinks first
_CHECKED_TOKENS: Final = 16  # for the one word that `check` asks for


Keep = Callable[[Json], Awaitable[None]]
"""Keeps what was learnt of the endpoint and the model: fields of its `Dialect`. Raises `StorageUnavailable`."""


class OpenAIModel:
    """One model behind an OpenAI-compatible endpoint, used by all answers of an instance.

    `first_token_s` bounds all that comes before an answer's first sign: waiting for one of the `concurrency` slots,
    connecting, and the retries (there are none after it); and then the silence between two signs of reasoning, which
    may come for `reasoning_s`. `stall_s` bounds the silence between two tokens, `complete_s` a whole `complete_json`.

    `dialect` has what an operator has set, and `learnt` what was learnt before; what else the endpoint wants is learnt
    from its refusals, and given to `keep`. No refused request is sent again as it was.
    """

    def __init__(
        self,
        *,
        base_url: str | None,
        api_key: str,
        model: str,
        first_token_s: float = 30.0,
        reasoning_s: float = 300.0,
        stall_s: float = 20.0,
        complete_s: float = 60.0,
        concurrency: int = 64,
        max_tokens: int = 800,
        retries: int = 2,
        backoff_s: float = 0.2,
        dialect: Dialect = Dialect(),  # noqa: B008 - frozen
        learnt: Json | None = None,
        keep: Keep | None = None,
        shows_thoughts: bool = False,
    ) -> None:
        self.name = model
        self._shows_thoughts = shows_thoughts
        self.host = host_of(base_url or OPENAI)
        self._first_token_s = first_token_s
        self._reasoning_s = reasoning_s
        self._stall_s = stall_s
        self._complete_s = complete_s
        self._max_tokens = max_tokens
        self._retries = retries
        self._backoff_s = backoff_s
        # What the operator has set: no refusal changes it.
        self._fixed = frozenset(dialect.model_fields_set)
        # The form that the next question is asked in; grows with what endpoints refuse.
        self._dialect = with_learnt(dialect, learnt or {})
        self._keep = keep
        self._thinks = False  # an object's length was used up before the object began
        # Requests under way: more would wait in the endpoint, where nobody sees for how long.
        self._slots = asyncio.Semaphore(concurrency)
        self.tokens: Counter[tuple[str, str]] = Counter()
        """What the endpoint reported, by purpose (`answer`, or the name of an object) and kind (`read`, `written`)."""
        # Whether it answers at present: logs once what is wrong, and keeps the background from asking in vain.
        self._breaker = CircuitBreaker(self.host, model)
        self._endpoint = Endpoint(
            base_url or OPENAI, api_key, model, connect_s=min(5.0, first_token_s), concurrency=concurrency
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._endpoint.close()

    async def stream(
        self, messages: Messages, tools: Sequence[Json] = ()
    ) -> AsyncGenerator[str | Thought | Finished, None]:
        """The answer's tokens as they come, none empty and at least one, or calls of `tools` (as the API has them);
        then one `Finished`. With `shows_thoughts` also what the model thinks.

        Raises `ModelUnavailable` and what is below it; after the first token too, and then what was yielded stands.
        Closing the generator closes the HTTP stream at once.
        """
        question = self._question(lambda dialect: self._asking(dialect, messages, tools), self._first_token_s)
        begun = False
        try:
            async with self._slot(question.deadline):
                while True:
                    try:
                        async with aclosing(self._attempt(question)) as pieces:
                            async for piece in pieces:
                                begun = True
                                yield piece
                        return
                    except Failed as failed:
                        # What was shown cannot be taken back: the rest of an answer is never made twice.
                        if begun or not await self._may_go_on(question, failed):
                            raise
        except Failed as failed:
            failure = failed
        raise self._breaker.failed(failure, 1 + question.retries)

    async def complete_json(self, messages: Messages, schema: Json, *, name: str, max_tokens: int = 500) -> Json | None:
        """The object that the model answers under `schema`; None where its answer holds none.

        Raises `ModelUnavailable` and what is below it; the same again at once while the
        `CircuitBreaker` is open.
        """
        self._breaker.check()

        def body(dialect: Dialect) -> dict[str, Any]:
            room = max_tokens + (_THINKING_TOKENS if self._thinks else 0)
            return asking_for_json(dialect, messages, schema, name, room)

        question = self._question(body, self._complete_s)
        try:
            async with self._slot(question.deadline):
                while True:
                    try:
                        async with until(question.deadline):
                            with span(f"model {name}") as call:
                                return await self._complete(question, schema, name, call)
                    except Failed as failed:
                        if not await self._may_go_on(question, failed):
                            raise
        except Failed as failed:
            failure = failed
        raise self._breaker.failed(failure, 1 + question.retries)

    async def check(self) -> Failure | None:
        """Ask the endpoint for a word, once; what is wrong with it, or None."""
        said = [{"role": "user", "content": "Say: ready"}]
        question = self._question(lambda dialect: body_of(dialect, said, _CHECKED_TOKENS), self._first_token_s)
        while True:
            try:
                async with until(question.deadline):
                    await self._answered(question)
                return None
            except Failed as failed:
                if not await self._may_go_on(question, failed):
                    return failed.failure

    def _question(self, body: Callable[[Dialect], dict[str, Any]], allowed_s: float) -> Question:
        return Question(body, self._dialect, asyncio.get_running_loop().time() + allowed_s)

    def _asking(self, dialect: Dialect, messages: Messages, tools: Sequence[Json]) -> dict[str, Any]:
        body = body_of(dialect, messages, self._max_tokens)
        if tools and dialect.tools:
            body["tools"] = list(tools)
        if dialect.stream:
            body["stream"] = True
            if dialect.stream_options:
                body["stream_options"] = {"include_usage": True}
        return body

    async def _may_go_on(self, question: Question, failed: Failed) -> bool:
        """Prepare another try, and wait for its time; false where none is of use."""
        loop = asyncio.get_running_loop()
        is_of_form = failed.kind in (ModelUnavailable, ModelRefused, ModelNotFound)
        # No try is counted for it: the endpoint has not failed, it was asked in the wrong form.
        if failed.refusal is not None and is_of_form and question.adapt(failed.refusal, self._fixed):
            if "tools" in question.own:
                log.warning("tool_refused_by_model", host=self.host, model=self.name)
            return loop.time() < question.deadline
        if not failed.again or question.retries == self._retries:
            return False
        wait_s = failed.wait_s
        if wait_s is None:
            # Ever longer, and not in step with the other instances.
            wait_s = self._backoff_s * 3**question.retries * random.uniform(0.5, 1.5)
        # It would come too late: the user is told now.
        if loop.time() + wait_s >= question.deadline:
            return False
        question.retries += 1
        await asyncio.sleep(wait_s)
        return True

    async def _succeeded(self, question: Question) -> None:
        """The endpoint has answered: what was tried for this question holds for the next ones."""
        self._breaker.succeeded()
        await self._adopt(question.learnt_beyond(self._dialect))

    async def _adopt(self, new: dict[str, Any]) -> None:
        """Ask the next questions in these forms."""
        # As a rule nothing was refused. Or another question has learnt the same meanwhile.
        if not new or all(getattr(self._dialect, name) == value for name, value in new.items()):
            return
        self._dialect = self._dialect.model_copy(update=new)
        log.info("model_dialect_learnt", host=self.host, model=self.name, **new)
        if self._keep is not None:
            known = {name: value for name, value in self._dialect if value != getattr(Dialect(), name)}
            with suppress(StorageUnavailable):
                await self._keep({name: value for name, value in known.items() if name not in self._fixed})

    def _record_usage(self, purpose: str, usage: object) -> dict[str, int]:
        reported = tokens(usage)
        for kind, count in reported.items():
            self.tokens[purpose, kind] += count
        return reported

    @asynccontextmanager
    async def _slot(self, deadline: float) -> AsyncIterator[None]:
        async with until(deadline, "NoFreeSlot"):
            await self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release()

    async def _attempt(self, question: Question) -> AsyncGenerator[str | Thought | Finished, None]:
        """One request: tokens, then `Finished`. `Failed` where it came to nothing or was cut."""
        loop = asyncio.get_running_loop()
        if not question.dialect.stream:  # its first sign is the whole answer
            # So the limit of the first token cannot hold: nothing is seen before the end.
            question.deadline = max(question.deadline, loop.time() + self._reasoning_s)
        async with AsyncExitStack() as held:
            body = question.body(question.dialect)
            async with until(question.deadline):
                response = await held.enter_async_context(self._endpoint.opened(body))
            raw, parser = response.iter_bytes(), EventParser()
            answer = Answer(
                shows_thoughts=self._shows_thoughts,
                tools=body.get("tools", ()),
                unmarked=question.dialect.reasoning == "unmarked",
            )
            last_sign = began = loop.time()
            deadline: float | None = None  # of the read that is to come
            while True:
                try:
                    event = parser.next()
                    if event is None:
                        if parser.ended:
                            break
                        if deadline is None:
                            deadline = self._allowed(question, answer, began, last_sign)
                        piece = await read(raw, deadline)
                        if piece is None:
                            parser.close()
                        else:
                            parser.feed(piece)
                        continue
                    had_begun, had_reasoned = answer.begun, answer.reasoned
                    text = answer.take(event)
                except Failed:
                    if answer.reason is not None:  # it has ended: only its trailer is missing
                        break
                    self._record_usage("answer", answer.usage)
                    raise
                deadline = None
                if not had_begun:
                    last_sign = loop.time()
                    if answer.begun or (answer.reasoned and not had_reasoned):
                        await self._succeeded(question)
                if answer.thought:
                    yield Thought(answer.thought)
                    answer.thought = ""
                if text:
                    yield text
                    if answer.characters > MAX_ANSWER_CHARACTERS:
                        self._record_usage("answer", answer.usage)
                        yield Finished("length", answer.usage)
                        return
            if text := answer.end():
                yield text
            if answer.thought:
                yield Thought(answer.thought)
            self._record_usage("answer", answer.usage)
            finished = answer.finished(announced=parser.announced_end, request_id=request_id(response.headers))
            if (reasoning := answer.reasoning()) is not None and "reasoning" not in self._fixed:
                await self._adopt({"reasoning": reasoning})
            yield finished
            await drained(raw, loop.time() + TRAILER_S)

    def _allowed(self, question: Question, answer: Answer, began: float, last_sign: float) -> float:
        """Until when the next event may take, at this point of the answer."""
        if answer.begun:
            allowed_s = self._stall_s if answer.reason is None else TRAILER_S
            return asyncio.get_running_loop().time() + allowed_s
        if answer.reason is not None:
            return asyncio.get_running_loop().time() + TRAILER_S
        if answer.reasoned:
            return max(question.deadline, min(last_sign + self._first_token_s, began + self._reasoning_s))
        return question.deadline

    async def _answered(self, question: Question) -> tuple[dict[str, Any], Any, int]:
        """The message of a whole answer with its end, its usage, and how many bytes it took."""
        read = bytearray()
        async with self._endpoint.opened(question.body(question.dialect)) as response:
            with translated():
                async for piece in response.iter_bytes():
                    read += piece
                    if len(read) > MAX_JSON_BYTES:
                        raise Failed(again=False)
        parser = EventParser()
        parser.feed(bytes(read))
        parser.close()
        answer, said, message = Answer(), "", dict[str, Any]()
        while (event := parser.next()) is not None:  # some servers stream whatever they are asked
            choice = choice_of(event)
            message = choice.get("message") or message
            if isinstance(choice.get("delta"), dict):
                said += parts_of(choice["delta"])[0]
                message = {"content": said}
            answer.take(event)
        if (instead := answer.instead()) is not None:
            raise instead
        if not isinstance(message, dict) or not (parser.announced_end or answer.reason or message):
            raise Failed(again=False)
        await self._succeeded(question)
        return {**message, "finish_reason": answer.reason}, answer.usage, len(read)

    async def _complete(self, question: Question, schema: Json, name: str, call: Span) -> Json | None:
        # What is not reported is estimated by its length: a user's share counts either way.
        asked = sum(len(one["content"]) for one in question.body(question.dialect)["messages"])
        try:
            message, usage, size = await self._answered(question)
        except BaseException:
            count_tokens({}, asked)
            raise
        reported = self._record_usage(name, usage)
        count_tokens(reported, asked + size)
        call.set(**reported)
        found = await _searched(message, schema, size)
        if found is None and message["finish_reason"] == "length" and not self._thinks and not parts_of(message)[0]:
            self._thinks = True
            # Once: from now on there is room for it to think.
            raise Failed(ModelNoAnswer, again=True, wait_s=0.0)
        return found


async def _searched(message: dict[str, Any], schema: Json, size: int) -> Json | None:
    if size > _LARGE:
        return await asyncio.to_thread(object_in, message, schema)
    return object_in(message, schema)


def tokens(usage: object) -> dict[str, int]:
    """Tokens by kind (`read`, `written`), as far as `usage` tells them."""
    reported = usage if isinstance(usage, dict) else {}
    counts = {
        "read": reported.get("prompt_tokens", reported.get("input_tokens")),
        "written": reported.get("completion_tokens", reported.get("output_tokens")),
    }
    return {kind: count for kind, count in counts.items() if isinstance(count, int) and count >= 0}

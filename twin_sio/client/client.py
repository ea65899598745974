"""`TwinClient`: one user's session, kept alive over as many connections as it takes."""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import aiohttp

from twin_sio.client.changes import (
    AuthExpiring,
    Draining,
    Failed,
    Message,
    Resumed,
    Settled,
    StateChange,
    WantsHistory,
    WantsResume,
)
from twin_sio.client.connection import (
    TOLD_TO_LEAVE,
    ClientError,
    Connection,
    HandshakeRefused,
    RequestFailed,
    ResponseTimeout,
    SessionClosed,
    Unreachable,
)
from twin_sio.client.state import NEEDS_ANSWER, ClientState
from twin_sio.client.subscription import Change, Changes, Disconnected, Ended, Reconnecting
from twin_sio.clock import iso, monotonic, new_id, now
from twin_sio.domain import DEFAULT_CONVERSATION, Json
from twin_sio.protocol import PAGE_DEFAULT, PAGE_MAX, merge_patch

T = TypeVar("T")
Token = str | Callable[[], Awaitable[str]]
Hook = Callable[[Literal["in", "out"], Json], None]


def _given(fields: Json) -> dict[str, Any]:
    """The fields that have a value."""
    return {key: value for key, value in fields.items() if value is not None}


def _envelope(type: str, payload: Json, message_id: str, conversation_id: str = DEFAULT_CONVERSATION) -> Json:
    metadata = {"timestamp": iso(now()), "message_id": message_id, "conversation_id": conversation_id}
    return {"type": type, "payload": payload, "metadata": metadata}


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, with full jitter: attempt n waits a random time up to `base_s * 2**n`, at most `max_s`."""

    base_s: float = 0.2
    max_s: float = 10.0

    def delay(self, attempt: int, at_least_ms: int | None = None) -> float:
        jittered = random.uniform(0, min(self.max_s, self.base_s * 2 ** min(attempt, 32)))
        return max(jittered, (at_least_ms or 0) / 1000)


class TwinClient:
    """One session of one user. Connect with `async with` or `connect()`; `state` is what it knows.

    `token` is the JWT, or an async function that gives a fresh one for every connection (and when one expires).
    `on_envelope` sees every envelope as it comes and goes. `answer_timeout` (seconds) bounds the methods that wait
    for the twin, `ack_timeout` is the time after which an unanswered request is sent again. With `acks` Socket.IO
    acknowledgements are asked for too; the events come all the same, and are enough.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        device: Json | None = None,
        context: Json | None = None,
        last_seq: int | None = None,
        transports: Sequence[str] = ("websocket",),
        backoff: Backoff = Backoff(),
        connect_timeout: float = 10.0,
        ack_timeout: float = 5.0,
        answer_timeout: float = 120.0,
        heartbeat: bool = True,
        acks: bool = False,
        on_envelope: Hook | None = None,
    ) -> None:
        self.url = url
        self.session_id = session_id or new_id()
        self.state = ClientState(last_seq=last_seq)
        self.on_envelope = on_envelope
        self.device = dict(device or {})
        self._token = token
        self._user_id = user_id
        self._context = context
        self._transports = transports
        self._backoff = backoff
        self._connect_timeout = connect_timeout
        self._ack_timeout = ack_timeout
        self._answer_timeout = answer_timeout
        self._heartbeats = heartbeat
        self._acks = acks

        self._http: aiohttp.ClientSession | None = None
        self._link: Connection | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: weakref.WeakSet[Changes] = weakref.WeakSet()
        self._nudge = asyncio.Event()
        self._moved = asyncio.Event()
        self._due: dict[str, float] = {}
        self._resume_due: float | None = None
        self._heartbeat_due: float | None = None
        self._leave: asyncio.TimerHandle | None = None
        self._expected: dict[str, Json | None] = {}
        self._failures: dict[str, Json] = {}
        self._ended: Ended | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_connected(self) -> bool:
        return self._link is not None and not self._link.lost.done()

    async def connect(self, patience: float = 0.0) -> Json:
        """Connect, and stay connected from then on; the payload of `session_ready`.

        Raises `Unreachable` or `HandshakeRefused` where the first attempt fails. With `patience` (seconds) an attempt
        that may be repeated is repeated for so long.
        """
        self._http = aiohttp.ClientSession()
        try:
            await self._open_until(monotonic() + patience, first_delay=0.0)
        except BaseException:
            await self._http.close()
            raise
        self._start(self._supervise())
        self._start(self._timer_loop())
        return self.state.session

    async def close(self) -> None:
        """Leave, and end everything that was started. Safe to call twice."""
        self._end(None)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._leave is not None:
            self._leave.cancel()
        if self._link is not None:
            await self._link.close()
        if self._http is not None:
            await self._http.close()

    async def drop(self) -> None:
        """Lose the connection as a bad network does; it is made again by itself. For tests and demonstrations."""
        if self._link is not None:
            await self._link.drop()

    def changes(self) -> Changes:
        """What changes from now on, as a stream of its own for every caller."""
        stream = Changes()
        self._streams.add(stream)
        if self._ended is not None:
            stream.put(self._ended)
        return stream

    async def until(self, check: Callable[[ClientState], T | None], timeout: float | None = None) -> T:
        """The first result of `check` that is neither None nor False, asked again after every change.

        Raises `NoAnswer` after `timeout` seconds (None: `answer_timeout`), `Gone` or what else ended the client.
        """
        try:
            async with asyncio.timeout(self._answer_timeout if timeout is None else timeout):
                while True:
                    found = check(self.state)
                    if found is not None and found is not False:
                        return found
                    if self._ended is not None:
                        raise self._ended.error or SessionClosed("The client was closed.")
                    await self._moved.wait()
        except TimeoutError:
            raise ResponseTimeout("The time for an answer is up.") from None

    # -- talking -------------------------------------------------------------------------------------------------------

    async def send(
        self,
        text: str,
        *,
        context: Json | None = None,
        conversation_id: str = DEFAULT_CONVERSATION,
        message_id: str | None = None,
    ) -> str:
        """Say something; returns its id at once. It is sent until it is stored; `receipt` and `answer` wait."""
        payload = _given({"text": text, "context": context})
        return await self.submit("user_message", payload, conversation_id=conversation_id, message_id=message_id)

    async def receipt(self, message_id: str, timeout: float | None = None) -> Message:
        """Wait until an own message is stored; raises `RequestFailed` where it was refused."""

        def stored(state: ClientState) -> Message | None:
            if message_id in state.outbox:
                return None
            self._raise_failure(message_id)
            return state.messages.get(message_id)

        return await self.until(stored, timeout)

    async def answer(self, message_id: str, timeout: float | None = None, *, newer_than: int = 0) -> Message:
        """Wait for the twin's final answer to a message (for the one after the first `newer_than` answers).

        An answer that could not be made is one too: look at its `status`, and at `failure`. Raises `RequestFailed`
        where the message itself was refused.
        """

        def answered(state: ClientState) -> Message | None:
            answers = state.answers(message_id)
            if len(answers) > newer_than:
                return answers[-1]
            message = state.messages.get(message_id)
            if message is not None and message.status == "refused":
                self._raise_failure(message_id)
            return None

        return await self.until(answered, timeout)

    def failure(self, message_id: str) -> RequestFailed | None:
        """What the server said went wrong with this message or its answer."""
        return RequestFailed(self._failures[message_id]) if message_id in self._failures else None

    async def ask(self, text: str, timeout: float | None = None, **more: Any) -> Message:
        """`send`, then `answer`."""
        return await self.answer(await self.send(text, **more), timeout)

    async def stop(self, message_id: str) -> None:
        """End the running answer to an own message; it comes as a `twin_message` with status `stopped`."""
        await self.submit(
            "stop_generation", {"message_id": message_id}, conversation_id=self._conversation_of(message_id)
        )

    async def regenerate(self, message_id: str, timeout: float | None = None) -> Message:
        """Ask for another answer to a message of the user, and wait for it; the older ones are kept."""
        before = len(self.state.answers(message_id))
        request = await self.submit(
            "regenerate", {"message_id": message_id}, conversation_id=self._conversation_of(message_id)
        )

        def another(state: ClientState) -> Message | None:
            answers = state.answers(message_id)
            if len(answers) > before:
                return answers[-1]
            self._raise_failure(request)
            return None

        return await self.until(another, timeout)

    async def feedback(
        self,
        message_id: str,
        rating: Literal["up", "down", "none"],
        *,
        comment: str | None = None,
        tags: Sequence[str] | None = None,
        correction: str | None = None,
    ) -> list[Json]:
        """Rate an answer of the twin; returns when it is stored, with the traits that it changed."""
        said = {"message_id": message_id, "rating": rating, "comment": comment, "correction": correction}
        payload = _given({**said, "tags": None if tags is None else list(tags)})
        receipt = await self._request("feedback", payload, conversation_id=self._conversation_of(message_id))
        return list(receipt.get("traits", ()))

    async def typing(self, is_typing: bool, *, conversation_id: str = DEFAULT_CONVERSATION) -> None:
        await self.submit("typing_indicator", {"is_typing": is_typing}, conversation_id=conversation_id)

    async def read(self, message_id: str) -> None:
        """Tell the other devices that all up to and with this message was read."""
        await self.submit("read_receipt", {"message_id": message_id}, conversation_id=self._conversation_of(message_id))

    async def update_context(self, context: Json, *, mode: Literal["merge", "replace"] = "merge") -> None:
        """Change the host context of this session; it is said again with every reconnect."""
        await self._request("context_update", {"context": context, "mode": mode})
        self._context = merge_patch(self._context, context) if mode == "merge" else context

    # -- asking --------------------------------------------------------------------------------------------------------

    async def history(
        self,
        *,
        before: str | None = None,
        after: str | None = None,
        limit: int = PAGE_DEFAULT,
        conversation_id: str = DEFAULT_CONVERSATION,
    ) -> Json:
        """A page of a conversation, oldest first: `{messages, has_more, conversation_id}`; the state takes it in."""
        asked = _given({"before": before, "after": after, "limit": limit})
        return await self._request("history", asked, conversation_id=conversation_id)

    async def conversations(self) -> list[Json]:
        """`{conversation_id, title, last_message, unread}` of each, the newest first; of the last message the
        beginning of its text."""
        found: list[Json] = []
        asked: dict[str, Any] = {"limit": PAGE_MAX}
        while True:
            page = await self._request("conversations", asked)
            found += page["conversations"]
            if not page.get("has_more"):
                return found
            asked["before"] = page["next"]

    async def profile(self) -> Json:
        """What the twin believes of its user: `{version, traits}`."""
        return await self._request("profile_get", {})

    async def why(self, trait_id: str) -> Json:
        """What a trait's number is made of, from `GET /v1/profile/{trait_id}/why` with this session's token."""
        if self._http is None:
            raise SessionClosed("connect() comes first.")
        base = "http" + self.url.removeprefix("ws") if self.url.startswith("ws") else self.url
        url = f"{base.rstrip('/')}/v1/profile/{quote(trait_id, safe='')}/why"
        headers = {"Authorization": f"Bearer {(await self._auth())['token']}"}
        try:
            async with self._http.get(url, headers=headers) as response:
                told: Json = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            raise Unreachable(self.url) from None
        if response.status != 200:
            raise RequestFailed(told)
        return told

    async def correct(
        self, trait_id: str, action: Literal["confirm", "reject", "edit"], value: str | None = None
    ) -> Json:
        """Confirm, reject or edit a trait; returns what the server answered."""
        return await self._request("profile_correct", _given({"trait_id": trait_id, "action": action, "value": value}))

    async def heartbeat(self) -> int:
        """The newest seq of the log. Sent by itself at the interval the server names; this is for asking now."""
        head: int = (await self._request("heartbeat", {}))["head_seq"]
        return head

    async def refresh(self, token: str) -> None:
        """Put a fresh token in force, for this connection and the ones to come."""
        await self._request("auth_refresh", {"token": token})
        if not callable(self._token):
            self._token = token

    # -- sending -------------------------------------------------------------------------------------------------------

    async def _request(self, type: str, payload: Json, **more: Any) -> Json:
        message_id = new_id()
        self._expected[message_id] = None
        try:
            await self.submit(type, payload, message_id=message_id, **more)
            envelope = await self.until(lambda _: self._expected[message_id], self._ack_timeout * 4)
        finally:
            del self._expected[message_id]
            self.state.outbox.pop(message_id, None)
        answer: Json = envelope["payload"]
        if envelope["type"] == "error":
            raise RequestFailed(answer)
        return answer

    async def submit(
        self,
        type: str,
        payload: Json,
        *,
        conversation_id: str = DEFAULT_CONVERSATION,
        message_id: str | None = None,
    ) -> str:
        """Send any event of the protocol; its id at once. What the service answers is sent until it has an answer."""
        message_id = message_id or new_id()
        envelope = _envelope(type, payload, message_id, conversation_id)
        self._failures.pop(message_id, None)
        self._publish(self.state.sending(envelope))
        await self._emit(envelope)
        self._nudge.set()
        return message_id

    async def _emit(self, envelope: Json) -> None:
        link, message_id = self._link, envelope["metadata"]["message_id"]
        if envelope["type"] in NEEDS_ANSWER:
            self._due[message_id] = monotonic() + self._ack_timeout
        if link is None or link.lost.done():
            return
        if self.on_envelope is not None:
            self.on_envelope("out", envelope)
        await link.emit(envelope, self._on_ack if self._acks and envelope["type"] in NEEDS_ANSWER else None)

    def _conversation_of(self, message_id: str) -> str:
        known = self.state.messages.get(message_id)
        return known.conversation_id if known is not None else DEFAULT_CONVERSATION

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _on_ack(self, envelope: object = None, *_: object) -> None:
        if isinstance(envelope, dict):
            self._apply(self.state.acknowledged(envelope))

    def _on_envelope(self, envelope: Json) -> None:
        if self.on_envelope is not None:
            self.on_envelope("in", envelope)
        self._apply(self.state.receive(envelope))

    def _apply(self, changes: Sequence[StateChange]) -> None:
        for change in changes:
            self._react(change)
        self._publish(changes)

    def _react(self, change: Change) -> None:
        match change:
            case Settled(message_id, envelope):
                self._due.pop(message_id, None)
                if message_id in self._expected:
                    self._expected[message_id] = envelope
            case Failed(error, str(in_response_to)):
                self._failures[in_response_to] = error
            case WantsResume():
                self._resume_due = monotonic()
                self._nudge.set()
            case Resumed():
                self._resume_due = None
            case WantsHistory():
                self._start(self._catch_up())
            case Draining(after_ms) if self._link is not None:
                self._leave = asyncio.get_running_loop().call_later(after_ms / 1000, self._link.leave)
            case AuthExpiring() if callable(self._token):
                self._start(self._renew())
            case _:
                pass

    def _publish(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        for stream in tuple(self._streams):
            for change in changes:
                stream.put(change)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _raise_failure(self, message_id: str) -> None:
        if failure := self.failure(message_id):
            raise failure

    # -- staying connected ---------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._end(task.exception())

    def _end(self, error: BaseException | None) -> None:
        if self._ended is None:
            self._ended = Ended(error)
            self._publish([self._ended])

    async def _supervise(self) -> None:
        """Make the connection again whenever it is lost, until the server says not to."""
        while (link := self._link) is not None:
            since = monotonic()
            reason = await link.lost
            await link.close()
            self._publish([Disconnected(reason)])
            if reason == TOLD_TO_LEAVE:
                return self._end(SessionClosed("The server ended this session: it was replaced, or its user is gone."))
            # A server that accepts and drops at once must not be hammered without any pause.
            await self._open_until(float("inf"), self._first_delay(monotonic() - since))
        return None

    def _first_delay(self, lasted_s: float) -> float:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave.cancel()
            return max(0.0, leave.when() - asyncio.get_running_loop().time())
        return self._backoff.delay(0 if lasted_s > 5 else 2)

    async def _open_until(self, deadline: float, first_delay: float) -> None:
        """Try until it succeeds; raises the last failure where it may not be repeated, or at the deadline."""
        delay, attempt, why = first_delay, 0, None
        while True:
            if attempt or delay:
                self._publish([Reconnecting(attempt, delay, why)])
                await asyncio.sleep(delay)
            try:
                return await self._open()
            except (Unreachable, HandshakeRefused) as failure:
                if not self._may_repeat(failure) or monotonic() >= deadline:
                    raise
                attempt, why = attempt + 1, failure
                delay = self._backoff.delay(attempt, getattr(failure, "retry_after_ms", None))

    def _may_repeat(self, failure: ClientError) -> bool:
        if not isinstance(failure, HandshakeRefused):
            return True
        if failure.code.startswith("auth_"):
            # "Retryable" means with another token, and one that was given as a text stays what it is.
            return failure.code == "auth_expired" and callable(self._token)
        return failure.retryable

    async def _open(self) -> None:
        if self._http is None:
            raise SessionClosed("connect() comes first.")
        link = Connection(self._http, self._on_envelope)
        await link.open(self.url, await self._auth(), self._transports, self._connect_timeout)
        self._link = link
        self._heartbeat_due = monotonic() + self._heartbeat_s()
        if self.state.resuming:
            self._resume_due = monotonic() + 2 * self._ack_timeout
        for envelope in tuple(self.state.outbox.values()):
            await self._emit(envelope)
        self._nudge.set()

    async def _auth(self) -> Json:
        token = await self._token() if callable(self._token) else self._token
        return _given(
            {
                "token": token,
                "session_id": self.session_id,
                "user_id": self._user_id,
                "last_seq": self.state.last_seq,
                "context": self._context,
                "device": self.device,
            }
        )

    async def _timer_loop(self) -> None:
        """Send what is due: unanswered requests again, resumes, heartbeats. Sleeps until the next of them."""
        while True:
            dues = [*self._due.values(), self._resume_due, self._heartbeat_due if self._heartbeats else None]
            next_due = min((due for due in dues if due is not None), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if next_due is None else max(0.0, next_due - monotonic())):
                    await self._nudge.wait()
            self._nudge.clear()
            if self.is_connected:
                await self._send_due(monotonic())
            else:
                # Nothing can be sent now; whoever connects sends all of it and nudges.
                await self._nudge.wait()

    async def _send_due(self, at: float) -> None:
        for message_id in [message_id for message_id, due in self._due.items() if due <= at]:
            envelope = self.state.outbox.get(message_id)
            if envelope is None:
                del self._due[message_id]
            else:
                await self._emit(envelope)
        if self._resume_due is not None and self._resume_due <= at:
            self._resume_due = at + 2 * self._ack_timeout
            await self.submit("resume", {"last_seq": self.state.last_seq or 0})
        if self._heartbeats and self._heartbeat_due is not None and self._heartbeat_due <= at:
            self._heartbeat_due = at + self._heartbeat_s()
            # Past the outbox: a heartbeat that was lost is worth nothing later.
            await self._emit(_envelope("heartbeat", {}, new_id()))

    def _heartbeat_s(self) -> float:
        return float(self.state.session.get("heartbeat_interval_ms", 25_000)) / 1000

    async def _catch_up(self) -> None:
        """What a resume could not give: the newest page, from which a shell may page back."""
        with suppress(RequestFailed, ResponseTimeout):
            await self.history()

    async def _renew(self) -> None:
        if callable(self._token):
            with suppress(RequestFailed, ResponseTimeout):
                await self.refresh(await self._token())

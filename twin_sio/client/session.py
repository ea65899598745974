"""A session of a client: its state, its requests, its connection, and the changes that an app follows."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import aiohttp

from twin_sio.background import BackgroundTasks
from twin_sio.client.changes import (
    AuthExpiring,
    Draining,
    Failed,
    Ready,
    Resumed,
    Settled,
    StateChange,
    ToolCalled,
    WantsHistory,
    WantsResume,
)
from twin_sio.client.connection import RequestFailed, ResponseTimeout, SessionClosed, TokenFailed, Unreachable
from twin_sio.client.envelopes import NEEDS_ANSWER, new_envelope, refusal, size_of, without_none
from twin_sio.client.host_tools import HostTools
from twin_sio.client.requests import Requests
from twin_sio.client.state import ClientState
from twin_sio.client.subscription import Change, Changes, Ended
from twin_sio.client.supervisor import DEFAULT_BACKOFF, Backoff, Hooks, Supervisor
from twin_sio.clock import new_id
from twin_sio.domain import DEFAULT_CONVERSATION, Json
from twin_sio.errors import ServiceError
from twin_sio.protocol import PAGE_DEFAULT, bare_token, merge_patch

FEATURES = ("approvals",)
"""What this client knows beside the first of the protocol's version 1."""

T = TypeVar("T")
Token = str | Callable[[], Awaitable[str]]
Hook = Callable[[Literal["in", "out"], Json], None]


class ClientSession:
    """One session of one user. Connect with `async with` or `connect()`; `state` has everything it received.

    `url` is where the service is, with the path where it is below one. `token` is the JWT, or an async function that
    gives a fresh one for every connection (and when one expires).
    `on_envelope` is called with every envelope received and sent. `answer_timeout` (seconds) bounds the methods that
    wait for the twin, `ack_timeout` is the time after which a request without a reply is sent again. With `acks`
    Socket.IO acknowledgements are requested, too; the events arrive all the same, and are enough.
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
        backoff: Backoff = DEFAULT_BACKOFF,
        connect_timeout: float = 10.0,
        ack_timeout: float = 5.0,
        answer_timeout: float = 120.0,
        heartbeat: bool = True,
        acks: bool = False,
        on_envelope: Hook | None = None,
    ) -> None:
        self.url = url.strip()
        self.session_id = session_id or new_id()
        self.state = ClientState(last_seq=last_seq)
        self.on_envelope = on_envelope
        self.device = dict(device or {})
        self._token = token
        self._user_id = user_id
        # The host context, sent with every connect.
        self._context = context
        self._ack_timeout = ack_timeout
        self._answer_timeout = answer_timeout
        self._acks = acks
        self._tasks = BackgroundTasks()
        self._requests = Requests(self.state, self._transmit, ack_timeout, heartbeats=heartbeat)
        self._host_tools = HostTools(self.request)
        self._supervisor = Supervisor(
            lambda: self.url,
            transports=transports,
            backoff=backoff,
            connect_timeout=connect_timeout,
            renews_token=callable(token),
            hooks=Hooks(
                auth=self._auth,
                on_envelope=self._on_envelope,
                on_connected=self._requests.on_connected,
                on_change=lambda change: self._publish([change]),
                on_not_taken=self._on_not_taken,
            ),
        )
        # The streams that `changes` gave out, as long as their owners keep them.
        self._streams: weakref.WeakSet[Changes] = weakref.WeakSet()
        # Set, and replaced by a fresh one, after every change: `until` waits for it.
        self._changed = asyncio.Event()
        # How the session ended; None while it lives.
        self._ended: Ended | None = None

    # -- connecting ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_connected(self) -> bool:
        return self._supervisor.is_connected

    async def connect(self, timeout: float = 0.0) -> Json:
        """Connect, and stay connected from then on; the payload of `session_ready`.

        Raises `Unreachable`, `TokenFailed` or `HandshakeRefused` if the first attempt fails. With `timeout` (seconds)
        an attempt that may be retried is retried for so long.
        """
        await self._supervisor.connect(timeout)
        self._start(self._supervisor.run())
        self._start(self._requests.run(lambda: self.is_connected))
        return self.state.session

    async def close(self) -> None:
        """Disconnect, and end everything that was started. Safe to call twice."""
        self._end(None)
        await self._tasks.stop()
        await self._supervisor.close()

    async def drop(self) -> None:
        """Lose the connection as a bad network does; the client reconnects. For tests and demonstrations."""
        await self._supervisor.drop()

    def changes(self) -> Changes:
        """The changes from now on, as a stream of its own for every caller."""
        stream = Changes()
        self._streams.add(stream)
        if self._ended is not None:
            stream.put(self._ended)
        return stream

    async def until(self, check: Callable[[ClientState], T | None], timeout: float | None = None) -> T:
        """The first result of `check` that is neither None nor False, asked again after every change.

        Raises `ResponseTimeout` after `timeout` seconds (None: `answer_timeout`), or the error that ended the session.
        """
        try:
            async with asyncio.timeout(self._answer_timeout if timeout is None else timeout):
                while True:
                    result = check(self.state)
                    if result is not None and result is not False:
                        return result
                    if self._ended is not None:
                        raise self._ended.error or SessionClosed("The client was closed.")
                    await self._changed.wait()
        except TimeoutError:
            raise ResponseTimeout("The time for an answer is up.") from None

    # -- sending -------------------------------------------------------------------------------------------------------

    async def request(self, type: str, payload: Json, *, message_id: str | None = None, **more: Any) -> Json:
        """Send any request of the protocol and wait for its reply's payload; raises `RequestFailed`."""
        message_id = message_id or new_id()
        with self._requests.expected(message_id) as reply:
            await self.submit(type, payload, message_id=message_id, **more)
            envelope = await self.until(lambda _: reply(), self._ack_timeout * 4)
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
        """Send any event of the protocol; its id at once. An event that needs a reply is sent until it has one; what no
        server would take (over 64 KiB, no JSON, half of an emoji) is refused here, as a server refuses."""
        message_id = message_id or new_id()
        envelope = new_envelope(type, payload, message_id, conversation_id)
        self._publish(self.state.sending(envelope))
        try:
            size_of(envelope)
        except ServiceError as error:  # a server would close the connection over it, time and again
            self._apply(self.state.receive(refusal(envelope, error)))
        else:
            await self._requests.send(envelope)
        return message_id

    async def _transmit(self, envelope: Json) -> None:
        """Write to the open connection; without one the envelope waits in the outbox, if it needs a reply."""
        if not self.is_connected:
            return
        if self.on_envelope is not None:
            self.on_envelope("out", envelope)
        wants_ack = self._acks and envelope["type"] in NEEDS_ANSWER
        await self._supervisor.send(envelope, self._on_ack if wants_ack else None)

    async def refresh(self, token: str) -> None:
        """Use a fresh token, for this connection and later ones."""
        await self.request("auth_refresh", {"token": token})
        if not callable(self._token):
            self._token = token

    async def get_json(self, path: str) -> Json:
        """GET a path of the REST API with this session's token; raises `RequestFailed` unless it is found."""
        http = self._supervisor.http
        if http is None:
            raise SessionClosed("connect() comes first.")
        base = "http" + self.url.removeprefix("ws") if self.url.startswith("ws") else self.url
        headers = {"Authorization": f"Bearer {(await self._auth())['token']}"}
        try:
            async with http.get(base.rstrip("/") + path, headers=headers) as response:
                body: Json = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            raise Unreachable(self.url) from None
        if response.status != 200:
            raise RequestFailed(body)
        return body

    def failure(self, message_id: str) -> RequestFailed | None:
        """The error that the server sent for this message or its answer."""
        error = self._requests.failures.get(message_id)
        return RequestFailed(error) if error is not None else None

    async def update_context(self, context: Json, *, mode: Literal["merge", "replace"] = "merge") -> None:
        """Change the host context of this session; it is sent again with every reconnect."""
        await self.request("context_update", {"context": context, "mode": mode})
        self._context = merge_patch(self._context, context) if mode == "merge" else context

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _on_ack(self, envelope: object = None, *_: object) -> None:
        if isinstance(envelope, dict):
            self._apply(self.state.acknowledged(envelope))

    def _on_envelope(self, envelope: Json) -> None:
        if self.on_envelope is not None:
            self.on_envelope("in", envelope)
        self._apply(self.state.receive(envelope))

    def _on_not_taken(self) -> None:
        if (refused := self._requests.on_not_taken()) is not None:
            self._apply(self.state.receive(refused))

    def _apply(self, changes: Sequence[StateChange]) -> None:
        for change in changes:
            self._react(change)
        self._publish(changes)

    def _react(self, change: Change) -> None:
        match change:
            case Settled(message_id, envelope):
                self._requests.on_reply(message_id, envelope)
            case Failed(error, str(in_response_to)):
                self._requests.on_failure(in_response_to, error)
            case WantsResume():
                self._requests.resume()
            case Resumed():
                self._requests.on_resumed()
            case WantsHistory():
                self._start(self._load_newest_page())
            case Ready():
                self._start(self._host_tools.offer_again())
            case ToolCalled():
                self._start(self._host_tools.on_call(change))
            case Draining(after_ms):
                self._supervisor.leave_in(after_ms / 1000)
            case AuthExpiring() if callable(self._token):
                self._start(self._renew_token())
            case _:
                pass

    def _publish(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        for stream in tuple(self._streams):
            for change in changes:
                stream.put(change)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # -- session -------------------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.start(work).add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._end(task.exception())

    def _end(self, error: BaseException | None) -> None:
        if self._ended is None:
            self._ended = Ended(error)
            self._publish([self._ended])

    async def _auth(self) -> Json:
        token = await self._new_token()
        return without_none(
            {
                "token": token,
                "session_id": self.session_id,
                "user_id": self._user_id,
                "last_seq": self.state.last_seq,
                "context": self._context,
                "device": self.device,
                "features": FEATURES,
            }
        )

    async def _new_token(self) -> str:
        if not callable(self._token):
            return bare_token(self._token)
        try:
            return bare_token(await self._token())
        except Exception as fault:  # whatever the app's function may raise
            raise TokenFailed("The function that gives the token failed.") from fault

    async def _renew_token(self) -> None:
        with suppress(RequestFailed, ResponseTimeout, TokenFailed):
            await self.refresh(await self._new_token())

    async def _load_newest_page(self) -> None:
        """Where a resume is incomplete: load the newest page, from which an app may page back."""
        with suppress(RequestFailed, ResponseTimeout):
            await self.request("history", {"limit": PAGE_DEFAULT})

"""Requests: sent again until their replies arrive; and the resumes and heartbeats that are sent beside them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from twin_sio.client.envelopes import NEEDS_ANSWER, new_envelope, refusal, size_of
from twin_sio.client.state import ClientState
from twin_sio.clock import monotonic, new_id
from twin_sio.domain import Json
from twin_sio.errors import TooLarge

_TIMES_NOT_TAKEN = 2
_FAILURES_MAX = 1_000  # that are kept: of the newest messages

Transmit = Callable[[Json], Awaitable[None]]


class Requests:
    """Sends each envelope of the outbox until the server has replied. `transmit` writes to the open connection, if any.

    `ack_timeout`: seconds after which a request without a reply is sent again.
    """

    def __init__(self, state: ClientState, transmit: Transmit, ack_timeout: float, *, heartbeats: bool) -> None:
        self._state = state
        self._transmit = transmit
        self._ack_timeout = ack_timeout
        self._heartbeats = heartbeats
        # Message id -> when its request is sent again, in seconds of the monotonic clock.
        self._due: dict[str, float] = {}
        # When the next resume and the next heartbeat are sent; None: not at all.
        self._resume_due: float | None = None
        self._heartbeat_due: float | None = None
        # Message id -> the reply, None until it arrives; of the requests that a caller waits for.
        self._expected: dict[str, Json | None] = {}
        # Message id -> the payload of the `error` that the server sent for it.
        self.failures: dict[str, Json] = {}
        # Message id -> how often the connection was closed because of it, as far as one can tell.
        self._not_taken: Counter[str] = Counter()
        # Set when something may be due earlier than the timer loop wakes up.
        self._wake = asyncio.Event()

    async def send(self, envelope: Json) -> None:
        """Send an envelope, now and, where it needs a reply, until it has one."""
        self.failures.pop(envelope["metadata"]["message_id"], None)
        await self._send(envelope)
        self._wake.set()

    async def _send(self, envelope: Json) -> None:
        if envelope["type"] in NEEDS_ANSWER:
            self._due[envelope["metadata"]["message_id"]] = monotonic() + self._ack_timeout
        await self._transmit(envelope)

    @contextmanager
    def expected(self, message_id: str) -> Iterator[Callable[[], Json | None]]:
        """Keep the reply to this request, which the function returns once it has arrived."""
        self._expected[message_id] = None
        try:
            yield lambda: self._expected[message_id]
        finally:
            del self._expected[message_id]
            self._state.outbox.pop(message_id, None)

    def on_failure(self, message_id: str, error: Json) -> None:
        """The server sent an `error` for a message or its answer."""
        self.failures[message_id] = error
        while len(self.failures) > _FAILURES_MAX:
            del self.failures[next(iter(self.failures))]

    def on_reply(self, message_id: str, envelope: Json) -> None:
        """A request has its reply."""
        self._due.pop(message_id, None)
        if message_id in self._expected:
            self._expected[message_id] = envelope

    def on_not_taken(self) -> Json | None:
        """The connection was closed because of something that was sent, the longest as a rule: its refusal, where that
        happened before, so that it holds up nothing any more."""
        if not self._state.outbox:
            return None
        longest = max(self._state.outbox.values(), key=size_of)
        message_id = longest["metadata"]["message_id"]
        self._not_taken[message_id] += 1
        if self._not_taken[message_id] < _TIMES_NOT_TAKEN:
            return None
        del self._not_taken[message_id]
        return refusal(longest, TooLarge("The server does not take it: each time it closed the connection."))

    def resume(self) -> None:
        """Ask for missed events at once, and again until the server has replied."""
        self._resume_due = monotonic()
        self._wake.set()

    def on_resumed(self) -> None:
        """The server has replied to the resume."""
        self._resume_due = None

    async def on_connected(self) -> None:
        """Send everything in the outbox on a new connection."""
        self._heartbeat_due = monotonic() + self._heartbeat_s()
        if self._state.resuming:
            self._resume_due = monotonic() + 2 * self._ack_timeout
        for envelope in tuple(self._state.outbox.values()):
            await self._send(envelope)
        self._wake.set()

    async def run(self, is_connected: Callable[[], bool]) -> None:
        """Send what is due: unanswered requests again, resumes, heartbeats. Sleeps until the next of them."""
        while True:
            dues = [*self._due.values(), self._resume_due, self._heartbeat_due if self._heartbeats else None]
            next_due = min((due for due in dues if due is not None), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if next_due is None else max(0.0, next_due - monotonic())):
                    await self._wake.wait()
            self._wake.clear()
            if is_connected():
                await self._send_due(monotonic())
            else:
                # Nothing can be sent now; `on_connected` sends all of it and wakes this loop.
                await self._wake.wait()

    async def _send_due(self, at: float) -> None:
        for message_id in [message_id for message_id, due in self._due.items() if due <= at]:
            envelope = self._state.outbox.get(message_id)
            if envelope is None:
                del self._due[message_id]
            else:
                await self._send(envelope)
        if self._resume_due is not None and self._resume_due <= at:
            self._resume_due = at + 2 * self._ack_timeout
            await self._transmit(new_envelope("resume", {"last_seq": self._state.last_seq or 0}, new_id()))
        if self._heartbeats and self._heartbeat_due is not None and self._heartbeat_due <= at:
            self._heartbeat_due = at + self._heartbeat_s()
            # Not through the outbox: there is no use in sending a lost heartbeat again.
            await self._transmit(new_envelope("heartbeat", {}, new_id()))

    def _heartbeat_s(self) -> float:
        return float(self._state.session.get("heartbeat_interval_ms", 25_000)) / 1000

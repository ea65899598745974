"""Keeps a session connected: connects, reconnects with backoff, and leaves a draining server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from twin_sio.client.connection import (
    SENT_AWAY,
    ClientError,
    Connection,
    HandshakeRefused,
    SessionClosed,
    TokenFailed,
    Unreachable,
)
from twin_sio.client.subscription import Change, Disconnected, Reconnecting
from twin_sio.clock import monotonic
from twin_sio.domain import Json

_STABLE_S = 5.0  # a connection that lasted longer is reconnected with the shortest delay


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, with full jitter: attempt n waits a random time up to `base_s * 2**n`, at most `max_s`."""

    base_s: float = 0.2
    max_s: float = 10.0

    def delay(self, attempt: int, at_least_ms: int | None = None) -> float:
        jittered = random.uniform(0, min(self.max_s, self.base_s * 2 ** min(attempt, 32)))
        return max(jittered, (at_least_ms or 0) / 1000)


DEFAULT_BACKOFF: Final = Backoff()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the supervisor calls: for the payload of a handshake, and when something happens."""

    auth: Callable[[], Awaitable[Json]]
    on_envelope: Callable[[Json], None]
    on_connected: Callable[[], Awaitable[None]]
    on_change: Callable[[Change], None]
    on_not_taken: Callable[[], None]


class Supervisor:
    """One connection after the other, as long as the session lives.

    `renews_token`: `hooks.auth` gives a fresh token for each connection, so an expired one is worth another attempt,
    unless the same comes again.
    """

    def __init__(
        self,
        url: Callable[[], str],
        *,
        transports: Sequence[str],
        backoff: Backoff,
        connect_timeout: float,
        renews_token: bool,
        hooks: Hooks,
    ) -> None:
        self._url = url  # read for every attempt: where the client is sent may change
        self._transports = transports
        self._backoff = backoff
        self._connect_timeout = connect_timeout
        self._renews_token = renews_token
        self._hooks = hooks
        # Made by `connect`, closed by `close`; the client's HTTP requests use it, too.
        self.http: aiohttp.ClientSession | None = None
        # The newest connection, which may be lost by now.
        self._connection: Connection | None = None
        # The token of the last attempt, None where that succeeded; and whether the attempt now has the same.
        self._tried: str | None = None
        self._is_same_token = False
        # Leaves a draining server when the time that it named is up.
        self._leave: asyncio.TimerHandle | None = None

    @property
    def is_connected(self) -> bool:
        return self._connection is not None and not self._connection.lost.done()

    async def connect(self, timeout: float) -> None:
        """Open the first connection. Raises `Unreachable`, `TokenFailed` or `HandshakeRefused`; retries for `timeout`
        seconds."""
        self.http = aiohttp.ClientSession()
        try:
            await self._open_until(monotonic() + timeout, first_delay=0.0)
        except BaseException:
            await self.http.close()
            raise

    async def run(self) -> None:
        """Reconnect whenever the connection is lost. Raises `SessionClosed` once the server ended the session."""
        while (connection := self._connection) is not None:
            since = monotonic()
            reason = await connection.lost
            await connection.close()
            self._hooks.on_change(Disconnected(reason))
            if connection.is_not_taken:
                self._hooks.on_not_taken()
            if reason == SENT_AWAY:
                raise SessionClosed(connection.why_ended or "The server ended this session.")
            await self._open_until(float("inf"), self._first_delay(monotonic() - since))

    async def send(self, envelope: Json, on_ack: Callable[[Json], None] | None) -> None:
        """Send over the open connection, if there is one."""
        if self._connection is not None:
            await self._connection.emit(envelope, on_ack)

    def leave_in(self, delay_s: float) -> None:
        """The server is draining: reconnect after `delay_s`."""
        if self._connection is not None:
            self._leave = asyncio.get_running_loop().call_later(delay_s, self._connection.leave)

    async def drop(self) -> None:
        """Lose the connection as a bad network does."""
        if self._connection is not None:
            await self._connection.drop()

    async def close(self) -> None:
        """Close the connection and everything beside it."""
        if self._leave is not None:
            self._leave.cancel()
        if self._connection is not None:
            await self._connection.close()
        if self.http is not None:
            await self.http.close()

    def _first_delay(self, lasted_s: float) -> float:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave.cancel()
            return max(0.0, leave.when() - asyncio.get_running_loop().time())
        # A server that accepts and drops at once must not be tried again without a pause.
        return self._backoff.delay(0 if lasted_s > _STABLE_S else 2)

    async def _open_until(self, deadline: float, first_delay: float) -> None:
        """Try until it succeeds; raises the last failure if it is final, or at the deadline."""
        delay, attempt, why = first_delay, 0, None
        while True:
            if attempt or delay:
                self._hooks.on_change(Reconnecting(attempt, delay, why))
                await asyncio.sleep(delay)
            try:
                return await self._open()
            except (Unreachable, TokenFailed, HandshakeRefused) as failure:
                if not self._is_retryable(failure) or monotonic() >= deadline:
                    raise
                attempt, why = attempt + 1, failure
                delay = self._backoff.delay(attempt, getattr(failure, "retry_after_ms", None))

    def _is_retryable(self, failure: ClientError) -> bool:
        if not isinstance(failure, HandshakeRefused):
            return True
        if failure.code.startswith("auth_"):
            # "Retryable" means with another token, and a token that was given as a text never changes.
            return failure.code == "auth_expired" and self._renews_token and not self._is_same_token
        return failure.retryable

    async def _open(self) -> None:
        if self.http is None:
            raise SessionClosed("connect() comes first.")
        connection = Connection(self.http, self._hooks.on_envelope)
        auth = await self._hooks.auth()
        self._is_same_token, self._tried = auth["token"] == self._tried, auth["token"]
        await connection.open(self._url(), auth, self._transports, self._connect_timeout)
        self._connection, self._tried = connection, None
        await self._hooks.on_connected()

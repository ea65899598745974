"""Limits: how much a user or an address may ask for. Raises the error that the client gets; a repeat of an accepted
message is never counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from twin_sio.config import LimitSettings
from twin_sio.errors import HandshakeRefused, Overloaded, RateLimited
from twin_sio.store.ports import Quota, Quotas

_MINUTE_S = 60
_DAY_S = 86_400
_DATA_PER_MINUTE = 10  # each reads, or removes, everything that there is of a user
SHED_AT, CONNECTS_AT, MESSAGES_AT = 0.75, 0.9, 1.0
"""The order in which work is refused as the load grows: ephemera, then connections, then messages."""

_COME_BACK_MS = 3_000  # what is too much now is usually over by then
_BACKGROUND = Quota("background", 600, 3_600)  # calls of the model by a user's jobs: a title, extraction and folds each
_CORRECTIONS = Quota("corrections", 60, _MINUTE_S)  # a person clicks no faster; each has the whole profile computed


class Limits:
    """Counts what users and addresses ask for, and knows when this instance has enough."""

    def __init__(self, bounds: LimitSettings, quotas: Quotas, load: Callable[[], float]) -> None:
        """`load()`: the load of this instance; 1.0 is the watermark."""
        self._quotas = quotas
        self._load = load  # of this instance, as a share of what it can bear
        self.hit: Counter[str] = Counter()  # refusals by the bound, for the operator
        self._messages = Quota("messages", bounds.messages_per_minute, _MINUTE_S)
        self._connects = Quota("connects", bounds.connects_per_minute, _MINUTE_S)
        self._from_address = Quota("address", bounds.connects_per_address, _MINUTE_S)
        self._requests = Quota("requests", bounds.requests_per_minute, _MINUTE_S)
        self._writes = Quota("writes", bounds.writes_per_minute, _MINUTE_S)
        self._data = Quota("data", _DATA_PER_MINUTE if bounds.requests_per_minute else 0, _MINUTE_S)
        self._tokens = Quota("tokens", bounds.tokens_per_day, _DAY_S)

    async def message(self, user_id: str) -> None:
        """A message that is to be answered; raises `Overloaded` or `RateLimited`."""
        if self._load() >= MESSAGES_AT:
            self.hit["overload"] += 1
            raise Overloaded(retry_after_ms=_COME_BACK_MS)
        spent_ms = await self._quotas.retry_after_ms(self._tokens, user_id)
        if spent_ms is not None:
            self.hit["tokens"] += 1
            raise RateLimited("The model's tokens of the day are used up.", retry_after_ms=spent_ms)
        await self._limited(self._messages, user_id)

    async def record_tokens(self, user_id: str, tokens: int) -> None:
        """An answer, or a job, took so many of the model's tokens."""
        await self._quotas.spend(self._tokens, user_id, tokens)

    async def background(self, user_id: str) -> int | None:
        """Count a call of the model by a job; None. Where the user's share is used up: ms until it would not be."""
        spent_ms = await self._quotas.retry_after_ms(self._tokens, user_id)
        if spent_ms is None:
            spent_ms = await self._quotas.take(_BACKGROUND, user_id)
        self.hit["background"] += spent_ms is not None
        return spent_ms

    async def correction(self, user_id: str) -> None:
        """A correction of the profile; raises `RateLimited`."""
        await self._limited(_CORRECTIONS, user_id)

    async def request(self, user_id: str) -> None:
        """A request over HTTP; raises `RateLimited`."""
        await self._limited(self._requests, user_id)

    async def write(self, user_id: str) -> None:
        """Something durable that is no message (feedback, a read mark, a correction); raises `RateLimited`."""
        await self._limited(self._writes, user_id)

    async def data(self, user_id: str) -> None:
        """An export or an erasure, which reads or removes everything; raises `RateLimited`."""
        await self._limited(self._data, user_id)

    async def connection_attempt(self, address: str) -> None:
        """Somebody at `address` wants to connect, or asks over HTTP; raises `Refused`."""
        await self._refused(self._from_address, address)

    async def connect(self, user_id: str) -> None:
        """A user who has shown a token connects; raises `Refused`."""
        if self._load() >= CONNECTS_AT:
            self.hit["overload"] += 1
            raise HandshakeRefused(
                "overloaded", "Too busy: try again later.", retryable=True, retry_after_ms=_COME_BACK_MS
            )
        await self._refused(self._connects, user_id)

    @property
    def is_shedding(self) -> bool:
        """Whether what may be lost is not sent any more."""
        return self._load() >= SHED_AT

    async def _limited(self, quota: Quota, who: str) -> None:
        if (wait_ms := await self._wait_ms(quota, who)) is not None:
            raise RateLimited(retry_after_ms=wait_ms)

    async def _refused(self, quota: Quota, who: str) -> None:
        if (wait_ms := await self._wait_ms(quota, who)) is not None:
            raise HandshakeRefused("rate_limited", "Too many connects: wait.", retryable=True, retry_after_ms=wait_ms)

    async def _wait_ms(self, quota: Quota, who: str) -> int | None:
        wait_ms = await self._quotas.take(quota, who)
        self.hit[quota.name] += wait_ms is not None
        return wait_ms

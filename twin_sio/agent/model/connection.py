"""The way to an endpoint, over the raw stream of the official client.

Reading the stream is the dearest thing on the whole path, so the client's typed events are not used. What is asked goes
as `extra_body`, which is sent as it is: the client walks through all else by its types, which took 9 ms of CPU for
sixty messages.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx2
import openai
import structlog

from twin_sio.agent.model.events import loads
from twin_sio.agent.model.failures import Failed, of_status
from twin_sio.clock import now
from twin_sio.errors import (
    ModelKeyRefused,
    ModelNotFound,
    ModelQuotaGone,
    ModelTimeout,
    ModelUnavailable,
    causes,
)

log = structlog.get_logger("model")

# These write URLs at INFO and whole requests at DEBUG, and both hold what users said.
for _chatty in ("openai", "httpx2", "httpcore2"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)


_OPEN_S: Final = 300.0
_LASTING: Final = (ModelKeyRefused, ModelNotFound, ModelQuotaGone)


class CircuitBreaker:
    """Of an endpoint: every failure is a line in the log. Where it refuses everybody (a wrong key, no such model, no
    quota) the breaker is open for five minutes, or until a request succeeds that did not ask: background work asks
    before it begins, answers to users are always tried."""

    def __init__(self, host: str, model: str) -> None:
        self._host = host
        self._model = model
        # While it is open: until when, and what the endpoint failed with.
        self._open: tuple[float, Failed] | None = None

    def check(self) -> None:
        """Raise what the endpoint failed with last, while the breaker is open."""
        if self._open is not None and asyncio.get_running_loop().time() < self._open[0]:
            raise self._open[1].for_caller()

    def succeeded(self) -> None:
        """The endpoint has answered: close the breaker."""
        self._open = None

    def failed(self, failed: Failed, tries: int = 1) -> ModelUnavailable:
        """The failure for the caller, once it stands in the log."""
        if issubclass(failed.kind, _LASTING):
            self._open = asyncio.get_running_loop().time() + _OPEN_S, failed
        seen = failed.failure
        log.warning(
            "model_failed",
            code=seen.code,
            status=seen.status,
            error=seen.error,
            request_id=seen.request_id,
            host=self._host,
            model=self._model,
            tries=tries,
        )
        return failed.for_caller()


class Endpoint:
    """One model's `chat/completions`."""

    def __init__(self, base_url: str, api_key: str, model: str, *, connect_s: float, concurrency: int) -> None:
        self._model = model
        self._client = api_client(
            base_url,
            api_key,
            timeout=httpx2.Timeout(None, connect=connect_s),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency),
        )
        self._completions: Any = self._client.chat.completions  # its overloads know no plain mappings

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    @asynccontextmanager
    async def opened(self, body: dict[str, Any]) -> AsyncIterator[openai.AsyncAPIResponse[Any]]:
        """The response to a request, once it is known to be one of the API. Raises `Failed`."""
        request = self._completions.with_streaming_response.create(model=self._model, messages=(), extra_body=body)
        with translated():
            response = await request.__aenter__()
        try:
            if "html" in response.headers.get("content-type", ""):  # a page, whatever its status
                raise Failed(ModelNotFound, again=False, error="Page", status=response.status_code)
            yield response
        finally:
            await request.__aexit__(None, None, None)


def host_of(base_url: str) -> str:
    """Its name, without a port."""
    return urlsplit(base_url).hostname or ""


@cache
def trusted() -> ssl.SSLContext:
    """What every client of HTTP trusts, as the environment has it. Made once: to read the certificates takes 50 ms of
    CPU. Raises OSError where there are none."""
    return httpx2.create_ssl_context()


def api_client(base_url: str, api_key: str, *, timeout: float | httpx2.Timeout, **http: Any) -> openai.AsyncOpenAI:
    """The official client of an endpoint, which retries nothing by itself. The query of a base URL goes with every
    request; where it is the one that only Azure asks for, so does Azure's own header for a key."""
    parts = urlsplit(base_url)
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    query: dict[str, object] = dict(parse_qsl(parts.query))
    key = api_key or "none"  # local servers need no key, the client insists on one
    headers = {"api-key": key} if "api-version" in query else None
    return openai.AsyncOpenAI(
        base_url=url,
        api_key=key,
        default_query=query,
        default_headers=headers,
        max_retries=0,
        timeout=timeout,
        http_client=openai.DefaultAsyncHttpxClient(verify=trusted(), **http),
    )


async def read(raw: AsyncIterator[bytes], deadline: float) -> bytes | None:
    """The next bytes, None after the last. Raises `Failed`, at `deadline` too."""
    try:  # for every token: as a context manager of its own this would cost a tenth more
        async with asyncio.timeout_at(deadline):
            return await anext(raw, None)
    except _RAISED as error:
        raise _failed(error) from None


async def drained(raw: AsyncIterator[bytes], deadline: float) -> None:
    """Read on to the end, so that the connection can serve the next request; best effort."""
    with suppress(Failed):
        while await read(raw, deadline) is not None:
            pass


@asynccontextmanager
async def until(deadline: float, error: str = "TimeoutError") -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise Failed(ModelTimeout, again=False, error=error) from None


@contextmanager
def translated() -> Iterator[None]:
    """What the client raises, as `Failed`; its own texts hold URLs and answers and go no further."""
    try:
        yield
    except _RAISED as error:
        raise _failed(error) from None


def _root(error: BaseException) -> str:
    """The name of what was behind an error, which says most to an operator."""
    telling = (one for one in causes(error) if isinstance(one, ssl.SSLError | socket.gaierror | ConnectionError))
    return type(next(telling, error.__cause__ or error)).__name__


# What is raised on the way to an endpoint.
_RAISED: Final = (TimeoutError, openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError, UnicodeError)


def _failed(error: Exception) -> Failed:
    name = _root(error)
    if isinstance(error, openai.APIStatusError):
        return of_status(error.status_code, error.response.headers, _body(error), type(error).__name__, now())
    if isinstance(error, TimeoutError):
        return Failed(ModelTimeout, again=False, error=name)
    # Half a character in a message is a UnicodeError, which holds the text that it could not encode.
    return Failed(again=not isinstance(error, UnicodeError), error=name)


def _body(error: openai.APIStatusError) -> object:
    """All of its body: the client gives what is under `error` alone, which may be a bare title, or null."""
    try:
        return loads(error.response.content)
    except (ValueError, httpx2.StreamError):
        return error.body

"""The REST API: what a user may do with their data beside the conversation, with a token in `Authorization`.

`openapi.ROUTES` has the routes: the check of the token, the errors and the OpenAPI document follow from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import cache
from typing import Any

import orjson
import structlog
from aiohttp import web
from pydantic import ValidationError
from structlog.contextvars import bind_contextvars, clear_contextvars

from twin_sio.auth import Authenticator
from twin_sio.clock import NewId
from twin_sio.domain import Identity
from twin_sio.errors import Forbidden, HandshakeRefused, ServiceError, StorageUnavailable
from twin_sio.http import openapi
from twin_sio.http.exports import Exports, NotRead, line_of, stream
from twin_sio.http.openapi import JSON_LINES, ROUTES, STATUS
from twin_sio.observability.tracing import span
from twin_sio.protocol import Scope, Search, asyncapi, error_payload
from twin_sio.protocol.field_rules import refused_field
from twin_sio.services.erasure import ErasureService
from twin_sio.services.limits import Limits
from twin_sio.services.profile import ProfileService
from twin_sio.services.search import MessageSearch
from twin_sio.services.statistics import StatisticsService
from twin_sio.store.ports import TICKET_S, PersonalData, Tickets
from twin_sio.transport.aiohttp_socket import bearer
from twin_sio.transport.client_address import TrustedProxies

log = structlog.get_logger("rest")
audit = structlog.get_logger("audit")

Handler = Callable[[web.Request, Identity], Awaitable[web.StreamResponse]]


_DOCUMENTS: Mapping[str, Callable[[], dict[str, Any]]] = {"openapi": openapi.document, "asyncapi": asyncapi.document}


class Rest:
    """Answers the routes. Errors are JSON: `{code, message, retryable, retry_after_ms?, error_id?}`."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        limits: Limits,
        proxies: TrustedProxies,
        personal: PersonalData,
        erasure: ErasureService,
        tickets: Tickets,
        profile: ProfileService,
        statistics: StatisticsService,
        searched: MessageSearch,
        new_id: NewId,
    ) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._proxies = proxies
        self._personal = personal
        self._erasure = erasure
        # One at a time for each user: each reads everything that there is of them.
        self._exports = Exports()
        self._tickets = tickets
        self._profile_service = profile
        self._statistics_service = statistics
        self._searched = searched
        self._new_id = new_id
        self._handlers: Mapping[str, Handler] = {
            "profile": self._profile,
            "why": self._why,
            "statistics": self._statistics,
            "search": self._search,
            "ticket": self._ticket,
            "export": self._export,
            "erase": self._erase,
        }

    def routes(self) -> list[web.RouteDef]:
        """The routes, each behind the check of the token, and their description."""
        described = [web.get(f"/{name}.json", _document(make)) for name, make in _DOCUMENTS.items()]
        return [
            *described,
            *(web.route(route.method, route.path, self._guarded(name)) for name, route in ROUTES.items()),
        ]

    def _guarded(self, name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        route, answer = ROUTES[name], self._handlers[name]

        async def handle(request: web.Request) -> web.StreamResponse:
            clear_contextvars()  # left by an earlier request on this connection, maybe of another user
            number = self._new_id()
            bind_contextvars(request=number, route=name)
            with span(f"http {name}", parent="", request=number):
                return await guarded(request)

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                return await answer(request, await self._authenticate(request, route.scope))
            except HandshakeRefused as refused:
                return _json(refused.as_data(), STATUS.get(refused.reason, 401))
            except ServiceError as error:
                return _json(error_payload(error), STATUS[error.code])
            except web.HTTPException:
                raise
            except Exception:
                error_id = self._new_id()
                log.exception("request_failed", error_id=error_id)
                return _json(error_payload(ServiceError(), error_id), 500)

        return handle

    async def _authenticate(self, request: web.Request, scope: Scope) -> Identity:
        # Before the token is looked at: to try tokens is what this bound is for.
        await self._limits.connection_attempt(self._proxies.of(request))
        identity = await self._authenticator.authenticate(bearer(request))
        bind_contextvars(user=identity.user_id)
        if scope not in identity.scopes:
            raise Forbidden(f"The token lacks the scope {scope}.")
        await self._limits.request(identity.user_id)
        return identity

    async def _profile(self, request: web.Request, identity: Identity) -> web.StreamResponse:  # noqa: ARG002
        return _json(await self._profile_service.read(identity.user_id), 200)

    async def _why(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        return _json(await self._profile_service.why(identity.user_id, request.match_info["trait_id"]), 200)

    async def _statistics(self, request: web.Request, identity: Identity) -> web.StreamResponse:  # noqa: ARG002
        return _json(await self._statistics_service.read(identity.user_id), 200)

    async def _search(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        try:
            asked = Search.model_validate(dict(request.query), strict=False)
        except ValidationError as error:
            return _json(error_payload(refused_field(error, "query")), 400)
        return _json(await self._searched.read(identity.user_id, asked.text, asked.limit), 200)

    async def _ticket(self, request: web.Request, identity: Identity) -> web.StreamResponse:  # noqa: ARG002
        return _json({"ticket": await self._tickets.issue(identity), "expires_in_s": TICKET_S}, 200)

    async def _export(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        await self._limits.data(identity.user_id)
        with self._exports.place(identity.user_id):
            async with aclosing(self._personal.export(identity.user_id)) as values:
                first = await anext(values, None)  # an unreachable store is a 503, not a broken stream
                response = web.StreamResponse(headers={"Content-Type": JSON_LINES, "Cache-Control": "no-store"})
                await response.prepare(request)
                try:
                    await stream(request, response, self._exported(identity.user_id, first, values))
                except NotRead:
                    log.info("export_not_read")
                return response

    async def _exported(
        self, user_id: str, first: Mapping[str, Any] | None, values: AsyncIterator[Mapping[str, Any]]
    ) -> AsyncIterator[bytes]:
        lines = 0
        try:
            while first is not None:
                yield line_of(first)
                lines += 1
                first = await anext(values, None)
        except StorageUnavailable as error:
            # The status was sent long ago: only a last line can still say that it is not whole.
            yield line_of({"kind": "error", **error_payload(error)})
            return
        yield line_of({"kind": "end", "lines": lines})
        audit.info("exported", user=user_id, lines=lines)

    async def _erase(self, request: web.Request, identity: Identity) -> web.StreamResponse:  # noqa: ARG002
        await self._limits.data(identity.user_id)
        counts = await self._erasure.erase(identity.user_id)
        audit.info("erased", user=identity.user_id, **counts)
        return _json({"erased": counts}, 200)


@cache
def _document(make: Callable[[], Mapping[str, object]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that serves the document: made once a process, as it takes 50 ms of CPU, with an ETag for clients that
    have it already."""
    body = orjson.dumps(make())
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}

    async def serve(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    return serve


def _json(payload: Mapping[str, object], status: int) -> web.Response:
    return web.Response(
        body=orjson.dumps(payload),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )

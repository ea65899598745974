"""The HTTP edge: what a user may do with their data beside the conversation, with a token in `Authorization`.

A route is one entry of a table: its check, its errors and its place in the OpenAPI document follow from that.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import structlog
from aiohttp import web
from structlog.contextvars import bind_contextvars, clear_contextvars

from twin_sio.auth import Authenticator
from twin_sio.clock import NewId, iso
from twin_sio.domain import Identity
from twin_sio.errors import Forbidden, HandshakeRefused, ServiceError, StorageUnavailable
from twin_sio.http.exports import Exports, NotRead, stream
from twin_sio.observability.tracing import span
from twin_sio.protocol import PROTOCOL_VERSION, Scope, asyncapi, error_payload
from twin_sio.services.erasure import ErasureService
from twin_sio.services.limits import Limits
from twin_sio.services.profile import ProfileService
from twin_sio.services.statistics import StatisticsService
from twin_sio.store.ports import TICKET_S, PersonalData, Tickets
from twin_sio.transport.aiohttp_socket import bearer
from twin_sio.transport.client_address import TrustedProxies

log = structlog.get_logger("rest")
audit = structlog.get_logger("audit")

Answering = Callable[[web.Request, Identity], Awaitable[web.StreamResponse]]
_JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked: `answer` is the JSON schema of what a 200 holds, of each line where it streams."""

    method: str
    path: str
    scope: Scope
    summary: str
    answer: Mapping[str, Any]
    streams: bool = False
    may_be_missing: bool = False  # 404 is among its answers

    def operation(self) -> dict[str, Any]:
        """Its place in the OpenAPI document."""
        statuses = [*_ERRORS] if self.may_be_missing else [one for one in _ERRORS if one != "404"]
        body = {_JSON_LINES if self.streams else "application/json": {"schema": dict(self.answer)}}
        names = [part[1:-1] for part in self.path.split("/") if part.startswith("{")]
        return {
            "summary": self.summary,
            "security": [{"token": [self.scope]}],
            "parameters": [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names],
            "responses": {
                "200": {"description": "What was asked for.", "content": body},
                **{status: {"$ref": f"#/components/responses/{status}"} for status in statuses},
            },
        }


_COUNTS: Mapping[str, Any] = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
_NUMBER: Mapping[str, Any] = {"type": "number"}
_TEXT: Mapping[str, Any] = {"type": "string"}
_TIME: Mapping[str, Any] = {"type": "string", "format": "date-time"}
_TRAIT: Mapping[str, Any] = {
    "trait_id": _TEXT,
    "key": _TEXT,
    "value": _TEXT,
    "status": {"type": "string", "enum": ["applied", "tentative", "unused", "rejected", "superseded"]},
    "confidence": _NUMBER,
    "supporting": _NUMBER,
    "opposing": _NUMBER,
    "valid_from": _TIME,
    "valid_to": _TIME,
    "pinned": {"type": "boolean"},
}
_REASON: Mapping[str, Any] = {
    "side": {"type": "string", "enum": ["supports", "opposes", "set_aside"]},
    **dict.fromkeys(("kind", "value", "quote", "message_id", "session_id", "extractor"), _TEXT),
    **dict.fromkeys(("weight", "decay", "repeat", "effective", "age_days"), _NUMBER),
    "polarity": {"type": "integer", "enum": [1, -1]},
    "observed_at": _TIME,
}
_SHARE: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "count": {"type": "integer"},
        "of": {"type": "integer"},
        "rate": {"type": ["number", "null"]},
        "low": _NUMBER,
        "high": _NUMBER,
    },
}
_SOURCE: Mapping[str, Any] = {
    "kind": _TEXT,
    "extractor": _TEXT,
    **{name: {"type": "integer"} for name in ("applied", "held", "rejected", "superseded")},
    "reject_rate": _SHARE,
}
ROUTES: Mapping[str, Route] = {
    "profile": Route(
        "GET",
        "/v1/profile",
        "twin:profile",
        "What the twin believes of its user, scored as of now.",
        {
            "type": "object",
            "properties": {
                "version": {"type": "integer"},
                "as_of": _TIME,
                "traits": {"type": "array", "items": {"type": "object", "properties": _TRAIT}},
            },
        },
    ),
    "why": Route(
        "GET",
        "/v1/profile/{trait_id}/why",
        "twin:profile",
        "The evidence whose effective weights add up to a trait's number, exactly; numbers are not rounded.",
        {
            "type": "object",
            "properties": {
                **_TRAIT,
                "as_of": _TIME,
                "formula": _TEXT,
                "evidence": {"type": "array", "items": {"type": "object", "properties": _REASON}},
            },
        },
        may_be_missing=True,
    ),
    "statistics": Route(
        "GET",
        "/v1/profile/statistics",
        "twin:profile",
        "What became of what was learnt of the user, by kind and extractor; shares with their 95 % interval (Wilson).",
        {
            "type": "object",
            "properties": {
                "as_of": _TIME,
                "traits": {"type": "object", "additionalProperties": {"type": "integer"}},
                "sources": {"type": "array", "items": {"type": "object", "properties": _SOURCE}},
                "reject_rate": _SHARE,
                "contradiction_rate": _SHARE,
                "time_to_apply_s": {"type": "object"},
                "answers_using_traits": _SHARE,
            },
        },
    ),
    "ticket": Route(
        "POST",
        "/v1/ticket",
        "twin:chat",
        "A ticket that opens `/ws/chat/{user_id}?ticket=` once, for clients that can set no headers.",
        {
            "type": "object",
            "required": ["ticket", "expires_in_s"],
            "properties": {"ticket": _TEXT, "expires_in_s": {"type": "integer"}},
        },
    ),
    "export": Route(
        "GET",
        "/v1/export",
        "twin:data",
        "Everything about the user, as JSON Lines; the last line is `end` with the number of lines before it.",
        {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}}},
        streams=True,
    ),
    "erase": Route(
        "DELETE",
        "/v1/data",
        "twin:data",
        "Remove everything about the user and end their sessions; how much there was, per store.",
        {"type": "object", "required": ["erased"], "properties": {"erased": _COUNTS}},
    ),
}
_ERRORS: Mapping[str, str] = {
    "401": "The token is missing, not accepted or expired.",
    "403": "The token lacks the scope.",
    "404": "There is no such thing of this user's.",
    "413": "The body is too long, or its length is not told.",
    "415": "The body is compressed.",
    "429": "Too many requests; `retry_after_ms` says when the next is taken.",
    "500": "A defect on our side; `error_id` is in the log.",
    "503": "A store cannot be reached; nothing was changed.",
}
_STATUS: Mapping[str, int] = {
    "auth_missing": 401,
    "auth_invalid": 401,
    "auth_expired": 401,
    "forbidden": 403,
    "not_found": 404,
    "too_large": 413,
    "invalid_message": 415,
    "rate_limited": 429,
    "overloaded": 503,
    "unavailable": 503,
    "storage_unavailable": 503,
}
_ERROR_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["code", "message", "retryable"],
    "properties": {
        "code": {"type": "string", "enum": [*_STATUS, "internal"]},
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
        "retry_after_ms": {"type": "integer", "minimum": 0},
        "field": {"type": "string"},
        "error_id": {"type": "string"},
    },
}


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all routes."""
    paths: dict[str, dict[str, Any]] = {}
    for name, route in ROUTES.items():
        paths.setdefault(route.path, {})[route.method.lower()] = {"operationId": name, **route.operation()}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "twin_sio",
            "version": str(PROTOCOL_VERSION),
            "description": "What a user may do with their data beside the conversation, which runs over Socket.IO.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": {"Error": dict(_ERROR_SCHEMA)},
            "responses": {status: {"description": text, "content": error} for status, text in _ERRORS.items()},
        },
    }


_DOCUMENTS: Mapping[str, Callable[[], dict[str, Any]]] = {"openapi": openapi, "asyncapi": asyncapi.document}


class Rest:
    """Answers the routes. Errors are JSON: `{code, message, retryable, retry_after_ms?, error_id?}`."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        limits: Limits,
        peers: TrustedProxies,
        personal: PersonalData,
        eraser: ErasureService,
        tickets: Tickets,
        keeper: ProfileService,
        statistician: StatisticsService,
        new_id: NewId,
    ) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._peers = peers
        self._personal = personal
        self._eraser = eraser
        self._exports = Exports()
        self._tickets = tickets
        self._keeper = keeper
        self._statistician = statistician
        self._new_id = new_id
        self._answering: Mapping[str, Answering] = {
            "profile": self._profile,
            "why": self._why,
            "statistics": self._statistics,
            "ticket": self._ticket,
            "export": self._export,
            "erase": self._erase,
        }

    def routes(self) -> list[web.RouteDef]:
        """The routes, each behind the check of the token, and their description."""
        described = [web.get(f"/{name}.json", _document(make())) for name, make in _DOCUMENTS.items()]
        return [*described, *(web.route(one.method, one.path, self._guarded(name)) for name, one in ROUTES.items())]

    def _guarded(self, name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        route, answer = ROUTES[name], self._answering[name]

        async def handle(request: web.Request) -> web.StreamResponse:
            clear_contextvars()  # of the connection's request before, which may have been another user's
            number = self._new_id()
            bind_contextvars(request=number, route=name)
            with span(f"http {name}", parent="", request=number):
                return await guarded(request)

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                return await answer(request, await self._identify(request, route.scope))
            except HandshakeRefused as refused:
                return _json(refused.as_data(), _STATUS.get(refused.reason, 401))
            except ServiceError as error:
                return _json(error_payload(error), _STATUS[error.code])
            except web.HTTPException:
                raise
            except Exception:
                error_id = self._new_id()
                log.exception("request_failed", error_id=error_id)
                return _json(error_payload(ServiceError(), error_id), 500)

        return handle

    async def _identify(self, request: web.Request, scope: Scope) -> Identity:
        await self._limits.connection_attempt(self._peers.of(request))
        identity = await self._authenticator.authenticate(bearer(request))
        bind_contextvars(user=identity.user_id)
        if scope not in identity.scopes:
            raise Forbidden(f"The token lacks the scope {scope}.")
        await self._limits.request(identity.user_id)
        return identity

    async def _profile(self, request: web.Request, identity: Identity) -> web.StreamResponse:  # noqa: ARG002
        return _json(await self._keeper.read(identity.user_id), 200)

    async def _why(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        return _json(await self._keeper.why(identity.user_id, request.match_info["trait_id"]), 200)

    async def _statistics(self, request: web.Request, identity: Identity) -> web.StreamResponse:  # noqa: ARG002
        return _json(await self._statistician.read(identity.user_id), 200)

    async def _ticket(self, request: web.Request, identity: Identity) -> web.StreamResponse:  # noqa: ARG002
        return _json({"ticket": await self._tickets.issue(identity), "expires_in_s": TICKET_S}, 200)

    async def _export(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        await self._limits.data(identity.user_id)
        with self._exports.place(identity.user_id):
            async with aclosing(self._personal.export(identity.user_id)) as values:
                first = await anext(values, None)  # an unreachable store is a 503, not a broken stream
                response = web.StreamResponse(headers={"Content-Type": _JSON_LINES, "Cache-Control": "no-store"})
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
                yield _line(first)
                lines += 1
                first = await anext(values, None)
        except StorageUnavailable as error:
            yield _line({"kind": "error", **error_payload(error)})
            return
        yield _line({"kind": "end", "lines": lines})
        audit.info("exported", user=user_id, lines=lines)

    async def _erase(self, request: web.Request, identity: Identity) -> web.StreamResponse:  # noqa: ARG002
        await self._limits.data(identity.user_id)
        counts = await self._eraser.erase(identity.user_id)
        audit.info("erased", user=identity.user_id, **counts)
        return _json({"erased": counts}, 200)


def _document(document: Mapping[str, object]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that serves it: its bytes are made once, and sent to who does not have them yet."""
    body = orjson.dumps(document)
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}

    async def serve(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    return serve


def _line(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME) + b"\n"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return iso(value)
    raise TypeError


def _json(payload: Mapping[str, object], status: int) -> web.Response:
    return web.Response(
        body=orjson.dumps(payload),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )

"""The HTTP edge: what a user may do with all of their data, with a token of the scope `twin:data`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import orjson
import structlog
from aiohttp import web

from twin_sio.auth import Authenticator
from twin_sio.clock import Clock, iso
from twin_sio.delivery import Delivery
from twin_sio.domain import Identity
from twin_sio.errors import Forbidden, Refused, StorageUnavailable
from twin_sio.jobs import Queue
from twin_sio.protocol import error_payload
from twin_sio.store import PersonalData, Presence

log = structlog.get_logger("audit")

_REFUSALS = {"unavailable": 503}


class Rest:
    """`GET /v1/export` and `DELETE /v1/data`. Errors are JSON: `{code, message, retryable}`."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        personal: PersonalData,
        presence: Presence,
        delivery: Delivery,
        queue: Queue,
        clock: Clock,
    ) -> None:
        self._authenticator = authenticator
        self._personal = personal
        self._presence = presence
        self._delivery = delivery
        self._queue = queue
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """The routes, each behind the check of the token."""
        return [
            web.get("/v1/export", self._guarded(self._export)),
            web.delete("/v1/data", self._guarded(self._erase)),
        ]

    def _guarded(
        self, handler: Callable[[web.Request, Identity], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request, await self._identify(request))
            except Refused as refused:
                return _json(refused.as_data(), _REFUSALS.get(refused.reason, 401))
            except Forbidden as error:
                return _json(error_payload(error), 403)
            except StorageUnavailable as error:
                return _json(error_payload(error), 503)

        return handle

    async def _identify(self, request: web.Request) -> Identity:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        identity = await self._authenticator.identify(token.strip() if kind.lower() == "bearer" else None)
        if "twin:data" not in identity.scopes:
            raise Forbidden("The token lacks the scope twin:data.")
        return identity

    async def _export(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """Everything about the user as JSON Lines, streamed; the last line is `{"kind": "end", "lines": n}`."""
        values = self._personal.export(identity.user_id)
        first = await anext(values, None)  # an unreachable store is a 503, not a broken stream
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        lines = 0
        try:
            while first is not None:
                await response.write(_line(first))
                lines += 1
                first = await anext(values, None)
        except StorageUnavailable as error:
            await response.write(_line({"kind": "error", **error_payload(error)}))
            return response
        await response.write(_line({"kind": "end", "lines": lines}))
        log.info("exported", user=identity.user_id, lines=lines)
        return response

    async def _erase(self, request: web.Request, identity: Identity) -> web.StreamResponse:  # noqa: ARG002
        """Remove everything, end the sessions; how much there was, per store. Running it again returns zeros."""
        user_id = identity.user_id
        counts: dict[str, int] = dict(await self._personal.erase(user_id, self._clock()))
        self._delivery.control(kind="erased", user_id=user_id)
        counts["jobs"] = await self._queue.erase(user_id)
        counts["redis"] = await self._delivery.erase(user_id) + await self._presence.erase(user_id)
        log.info("erased", user=user_id, **counts)
        return _json({"erased": counts}, 200)


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

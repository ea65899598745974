"""What the chat page of a development server asks for beside its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from aiohttp import web
from yarl import URL

from twin_sio.domain import Json

_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


@dataclass(frozen=True, slots=True)
class DevPage:
    """What the development page asks for beside its files, for a browser on this machine alone: others, and requests
    from another page, get 403 `{code, message, retryable}`. For development only.

    `POST /dev/token`: `{token}`; one button signs in with it. `GET /dev/models`: `{found: [{server, models,
    command}]}`, model servers of this machine in place of the tiny model.
    """

    create_token: Callable[[], str]
    models: Callable[[], Sequence[Json]]

    def routes(self) -> Iterable[web.RouteDef]:
        """The routes."""
        return [web.post("/dev/token", self._token), web.get("/dev/models", self._models)]

    async def _token(self, request: web.Request) -> web.Response:
        return _reply({"token": self.create_token()}) if _is_own(request) else _refusal()

    async def _models(self, request: web.Request) -> web.Response:
        return _reply({"found": list(self.models())}) if _is_own(request) else _refusal()


def _reply(body: Json) -> web.Response:
    return web.json_response(body, headers={"Cache-Control": "no-store"})


def _refusal() -> web.Response:
    text = "Only a browser on the service's own machine may."
    return web.json_response({"code": "forbidden", "message": text, "retryable": False}, status=403)


def _is_own(request: web.Request) -> bool:
    """From this machine, by a name of it (another name may be made to lead here), through no proxy (which would be on
    this machine for everybody), and from the page itself."""
    origin = request.headers.get("Origin")
    return (
        _is_loopback(request.remote)
        and not any(name in request.headers for name in _PROXIED)
        and _is_loopback(request.url.host)
        and (origin is None or URL(origin).authority == request.url.authority)
        and request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    )


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback

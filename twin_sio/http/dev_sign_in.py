"""`POST /dev/token`: one button of the development page signs in, for a browser on the service's own machine alone."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from aiohttp import web
from yarl import URL

_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


def dev_sign_in(create_token: Callable[[], str]) -> web.RouteDef:
    """The route: `{token}`, or 403 `{code, message, retryable}` for whom is not on this machine, or came from another
    page. For development only."""

    async def sign_in(request: web.Request) -> web.Response:
        if not _is_own(request):
            text = "Only a browser on the service's own machine may."
            return web.json_response({"code": "forbidden", "message": text, "retryable": False}, status=403)
        return web.json_response({"token": create_token()}, headers={"Cache-Control": "no-store"})

    return web.post("/dev/token", sign_in)


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

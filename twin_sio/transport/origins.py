"""Which pages may connect from a browser: one rule for every transport."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from aiohttp import web

from twin_sio.config.origins import ANY, sent_origin
from twin_sio.observability.limited_log import LimitedLog

_LOGGED_CHARACTERS = 100  # of an origin, which a stranger chooses
_refused = LimitedLog("transport", "origin_refused")


class Origins:
    """The service's own origin, and those that the operator has named (`config.origins.normal_origin`)."""

    def __init__(self, named: Collection[str]) -> None:
        self._any = ANY in named
        self._named = frozenset(named)
        self._below = tuple(tuple(one.split("*", 1)) for one in named if "://*." in one)

    def may_connect(self, origin: str | None, *, host: str, scheme: str, forwarded_proto: str) -> bool:
        """Whether a page of `origin` may connect to the service at `host`; a client that is no browser sends no origin.
        What is refused is logged, once a minute for each origin."""
        if origin is None or self._any:
            return True
        try:
            normal = sent_origin(origin)
        except ValueError:  # as the `null` of a page in a sandbox
            normal = ""
        if normal in self._named or self._is_own(normal, host, scheme, forwarded_proto):
            return True
        if any(normal.startswith(before) and normal.endswith(after) for before, after in self._below):
            return True
        _refused(origin[:_LOGGED_CHARACTERS], advice="name it in TWIN_CORS_ORIGINS if it is yours")
        return False

    def _is_own(self, origin: str, host: str, scheme: str, forwarded_proto: str) -> bool:
        at = origin.partition("://")[0]
        if at not in ("http", "https"):  # an app's or an extension's host is no host of the network
            return False
        try:
            if sent_origin(f"{at}://{host}") != origin:  # some proxies pass the default port on, as nginx' $server_port
                return False
        except ValueError:
            return False
        # An attacker who can change a page on its way must not connect from a page that is not encrypted. A page cannot
        # set this header itself; a proxy without it leaves the question open.
        proxied = forwarded_proto.partition(",")[0].strip().lower()
        return at == "https" or (proxied or scheme) not in ("https", "wss")

    def allows(self, request: web.Request) -> bool:
        """The same of a request."""
        return self.may_connect(
            request.headers.get("Origin"),
            host=request.host,
            scheme=request.scheme,
            forwarded_proto=request.headers.get("X-Forwarded-Proto", ""),
        )

    def for_library(self) -> Callable[[str | None, Mapping[str, Any]], bool]:
        """The rule as python-engineio asks for it: with the origin and the WSGI-like environment of a request."""

        def allowed(origin: str | None, environ: Mapping[str, Any]) -> bool:
            return self.may_connect(
                origin,
                host=str(environ.get("HTTP_HOST", "")),
                scheme=str(environ.get("wsgi.url_scheme", "http")),
                forwarded_proto=str(environ.get("HTTP_X_FORWARDED_PROTO", "")),
            )

        return allowed

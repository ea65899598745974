"""The chat page and the widget, as files."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

WEB = Path(__file__).parents[1] / "web"
# No script and no style within the page, and nothing from elsewhere: what a twin writes can only be shown.
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
WIDGET = ("/widget.js", "/math.js")
"""What pages of other origins load: the widget, and what it fetches where a message holds a formula."""


async def page(request: web.Request) -> web.StreamResponse:
    """A file of the chat page, whose policy allows files of the same origin only."""
    headers = {
        "Content-Security-Policy": _CSP,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        # Asked for again each time, and answered with 304: a new version counts at the next load.
        "Cache-Control": "no-cache",
    }
    return web.FileResponse(WEB / (request.path[1:] or "index.html"), headers=headers)


async def widget(request: web.Request) -> web.StreamResponse:
    """A file of the drop-in widget: public, for pages of any origin; TWIN_CORS_ORIGINS lists those that may connect."""
    headers = {
        # A file without secrets; who may connect is decided at the socket.
        "Access-Control-Allow-Origin": "*",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "public, max-age=300",
    }
    return web.FileResponse(WEB / request.path[1:], headers=headers)

"""The page in a real browser, behind what ends TLS in front of the service and tells it nothing of that."""

from __future__ import annotations

import ssl
from pathlib import Path

from playwright.async_api import WebSocket

from tests.faults.tcp_proxy import TcpProxy
from tests.scripted_model import ScriptedModel
from tests.test_browser import (  # noqa: F401 - its fixtures
    Opened,
    Server,
    answered,
    browser,
    model,
    opened,
    say,
    server,
    shown,
    user,
)
from tests.test_service_edges import certificate


async def test_the_page_works_behind_what_ends_tls(
    opened: Opened,  # noqa: F811
    server: Server,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
    user: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Its own origin is not the one that the service sees; nobody has named it."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate(tmp_path))
    async with TcpProxy(lambda: [server.port], tls) as proxy:
        url = f"https://localhost:{proxy.port}/"
        page = await opened(user, at=url, ignore_https_errors=True)
        await say(page, "hello")
        await answered(page, 1)
        assert "hello" in (await shown(page))[1]["text"]
        sockets: list[WebSocket] = []
        page.on("websocket", lambda socket: sockets.append(socket))
        await page.reload()
        await answered(page, 1)
        assert all(socket.url.startswith(url.replace("https:", "wss:")) for socket in sockets)
        assert sockets
        await page.close()

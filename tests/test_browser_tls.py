"""The page in a real browser, behind what ends TLS in front of the service and tells it nothing of that."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.async_api import WebSocket

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


def certificate(folder: Path) -> ssl.SSLContext:
    """Of nobody whom a browser knows."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "t")])
    at = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, at - timedelta(days=1), at + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pem += key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "pair.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    return context


async def copied(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(65_536):
            target.write(piece)
            await target.drain()
    target.close()


@asynccontextmanager
async def ending_tls(port: int, folder: Path) -> AsyncIterator[str]:
    """The address of one that passes on what it decrypts."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copied(reader, far_writer), copied(far_reader, writer))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificate(folder))
    try:
        yield f"https://localhost:{listening.sockets[0].getsockname()[1]}/"
    finally:
        listening.close()


async def test_the_page_works_behind_what_ends_tls(
    opened: Opened,  # noqa: F811
    server: Server,  # noqa: F811
    model: ScriptedModel,  # noqa: F811
    user: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Its own origin is not the one that the service sees; nobody has named it."""
    async with ending_tls(server.port, tmp_path) as url:
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

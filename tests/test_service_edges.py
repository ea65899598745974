"""The edges: TLS, origins, headers of the pages, and a start that says what is wrong."""

from __future__ import annotations

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import settings_for
from tests.processes import Process, environment
from tests.scripted_model import ScriptedModel
from twin_sio.clock import now
from twin_sio.config import Settings
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import service


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody but this test trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))
    return cert, private


async def test_tls_is_served_with_a_certificate_of_ones_own(settings: Settings, folder: Path) -> None:
    cert, key = certificate(folder)
    trust = ssl.create_default_context(cafile=str(cert))
    async with service(settings.changed(server={"tls_cert": cert, "tls_key": key})) as running:
        url = f"https://localhost:{running.port}"
        async with aiohttp.ClientSession() as http, http.get(f"{url}/healthz", ssl=trust) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [(None, 200), ("https://app.example", 200), ("https://evil.example", 400), ("null", 400)],
)
async def test_only_listed_origins_connect_and_native_clients_pass(
    origin: str | None, status: int, mongod: Mongod, redis_server: RedisServer, model: ScriptedModel
) -> None:
    settings = settings_for(mongod.url, redis_server.url, model.base_url, server__cors_origins="https://app.example")
    headers = {"Origin": origin} if origin else {}
    async with service(settings) as running, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{running.port}/socket.io/?EIO=4&transport=polling"
        async with http.get(url, headers=headers) as response:
            assert response.status == status
            assert response.headers.get("Access-Control-Allow-Origin") in (None, "https://app.example")


async def test_only_the_widget_is_public(url: str, settings: Settings) -> None:
    """The chat page allows nothing but its own and only the widget is public."""
    async with aiohttp.ClientSession() as http:
        for path in ("/", "/chat.js", "/chat.css", "/twin-client.js", "/markdown.js"):
            async with http.get(url + path) as response:
                assert response.status == 200
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                assert "unsafe" not in response.headers["Content-Security-Policy"]
                assert "require-trusted-types-for 'script'" in response.headers["Content-Security-Policy"]
                assert response.headers["X-Content-Type-Options"] == "nosniff"
        in_production = settings.changed(process={"env": "production"})
        async with service(in_production) as running:
            url = f"http://127.0.0.1:{running.port}"
            async with http.get(f"{url}/") as response:
                assert response.status == 404
            for path in ("/widget.js", "/math.js"):  # for the pages of other apps
                async with http.get(url + path) as response:
                    assert response.status == 200
                    assert response.headers["Access-Control-Allow-Origin"] == "*"
                    assert response.content_type.endswith("/javascript")


@pytest.mark.parametrize(
    ("host", "reached", "shown"),
    [("::1", ("[::1]",), "http://[::1]:"), ("[::1]", ("[::1]",), "http://[::1]:"),
     ("::", ("[::1]", "127.0.0.1"), "http://[::]:")],
)  # fmt: skip
async def test_ipv6_addresses_are_listened_on(
    host: str, reached: tuple[str, ...], shown: str, mongod: Mongod, redis_server: RedisServer, model: ScriptedModel,
    folder: Path,
) -> None:  # fmt: skip
    """`::` is IPv4, too; what is printed can be opened."""
    process = Process("server", folder, environment(mongod.url, redis_server.url, model.base_url, TWIN_HOST=host))
    process.start()
    try:
        await process.listening()
        assert f"listening on {shown}{process.port}" in process.printed()
        async with aiohttp.ClientSession() as http:
            for address in reached:
                async with http.get(f"http://{address}:{process.port}/healthz") as response:
                    assert response.status == 200
    finally:
        await asyncio.to_thread(process.stop)


@pytest.mark.parametrize(
    ("module", "env", "received"),
    [
        ("server", {"TWIN_ENV": "production"}, "TWIN_MONGODB_URL"),
        ("server", {"TWIN_PORT": "many"}, "PORT"),
        ("server", {"TWIN_TLS_CERT": "x.pem"}, "TWIN_TLS_KEY"),
        ("worker", {}, "TWIN_REDIS_URL"),
    ],
)
async def test_a_refused_start_names_the_variable(
    module: str, env: dict[str, str], received: str, folder: Path
) -> None:
    """A start that cannot be says which variable in one line."""
    process = Process(module, folder, env)
    process.start()
    assert await process.wait() == 2
    assert received in process.printed()
    assert len(process.printed().strip().splitlines()) == 1


async def test_an_unreachable_database_is_named(redis_server: RedisServer, model: ScriptedModel, folder: Path) -> None:
    """A database that is not there is named at the start."""
    env = {
        "TWIN_MONGODB_URL": "mongodb://127.0.0.1:9/?replicaSet=none",
        "TWIN_REDIS_URL": redis_server.url,
        "OPENAI_BASE_URL": model.base_url,
        "TWIN_MONGODB_TIMEOUT_MS": "300",
        "PORT": "0",
    }
    process = Process("server", folder, env)
    process.start()
    assert await process.wait() == 1
    assert "TWIN_MONGODB_URL" in process.printed()
    assert "Traceback" not in process.printed()

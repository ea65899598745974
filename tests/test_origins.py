"""Origins as operators write them and browsers send them: one rule for every door."""

from __future__ import annotations

import pytest

from twin_sio.config import ConfigError, Settings
from twin_sio.config.origins import normal_origin
from twin_sio.transport.origins import Origins


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://App.Example.COM/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://straße.de", "https://xn--strae-oqa.de"),
        ("https://Faß.example:8443", "https://xn--fa-hia.example:8443"),
        ("https://φάος.example", "https://xn--hxa2bjn.example"),
        ("https://*.Straße.de", "https://*.xn--strae-oqa.de"),
        ("https://日本語。jp", "https://xn--wgv71a119e.jp"),
        ("https://i❤.example", "https://xn--i-7iq.example"),
        ("https://my_ü.example", "https://xn--my_-joa.example"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://app.example.com.", "https://app.example.com"),
        ("HTTPS://APP.EXAMPLE.COM.:443/", "https://app.example.com"),
        ("https://[::1]:443", "https://[::1]"),
        ("HTTPS://[2001:DB8:0:0:0:0:0:1]:8443", "https://[2001:db8::1]:8443"),
        ("https://*.Example.com.", "https://*.example.com"),
        ("https://*.example.com:8443", "https://*.example.com:8443"),
        ("https://*.example.com", "https://*.example.com"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("tauri://localhost/", "tauri://localhost"),
        ("Chrome-Extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("moz-extension://0f1e-22", "moz-extension://0f1e-22"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("*", "*"),
    ],
)
def test_origins_are_brought_into_the_form_that_browsers_send(written, sent):
    assert normal_origin(written) == sent


@pytest.mark.parametrize(
    "written",
    ["app.example.com", "localhost:3000", "ftp://a.example", "https://", "https://a.example/path", "https://u:p@a.example",
     "https://a.example:port", "https://.", "https://[::1", "https://::1", "https://[::1%25eth0]",
     "https://*", "https://a.*.com", "https://*.com", "null", "file://", "file://host", "wss://a.example",
     "data:text/html,x", "https://a\u2028ü.example", "chrome-extension://*", "capacitor://"],
)  # fmt: skip
def test_what_is_no_origin_is_refused_at_the_start(written, monkeypatch):
    """In a sentence that names the setting."""
    monkeypatch.setenv("TWIN_CORS_ORIGINS", f"https://fine.example {written}")
    with pytest.raises(ConfigError, match="TWIN_CORS_ORIGINS is refused"):
        Settings.from_environment()


HERE = {"host": "twin.example.com", "scheme": "http", "forwarded_proto": ""}


@pytest.mark.parametrize(
    ("named", "origin", "may"),
    [
        ((), None, True),
        ((), "http://twin.example.com", True),
        ((), "https://twin.example.com", True),
        ((), "https://other.example.com", False),
        (("https://app.example.com",), "https://app.example.com", True),
        (("https://app.example.com",), "https://twin.example.com", True),
        (("https://app.example.com",), "https://app.example.com.evil.example", False),
        (("https://*.example.org",), "https://a.example.org", True),
        (("https://*.example.org",), "https://a.b.example.org", True),
        (("https://*.example.org",), "https://example.org", False),
        (("https://*.example.org",), "https://evilexample.org", False),
        (("https://*.example.org",), "http://a.example.org", False),
        (("*",), "https://anything.example", True),
        (("capacitor://localhost",), "capacitor://localhost", True),
        (("capacitor://localhost",), "ionic://localhost", False),
        ((), "capacitor://twin.example.com", False),
        (("*",), "null", True),
        ((), "null", False),
    ],
)
def test_who_may_connect(named, origin, may):
    origins = Origins(named)
    assert origins.may_connect(origin, **HERE) is may
    environ = {"HTTP_HOST": HERE["host"], "wsgi.url_scheme": "http"}
    assert origins.for_library()(origin, environ) is may


@pytest.mark.parametrize(
    ("origin", "host", "may"),
    [
        ("https://twin.example.com", "twin.example.com:443", True),  # a proxy that passes the port on
        ("http://twin.example.com", "twin.example.com:80", True),
        ("https://twin.example.com", "Twin.Example.com", True),
        ("https://twin.example.com.", "twin.example.com.", True),
        ("https://[::1]", "[::1]:443", True),
        ("http://[::1]:8000", "[0:0:0:0:0:0:0:1]:8000", True),
        ("HTTPS://App.example.com:443", "twin.example.com", True),
        ("https://a.example.org.", "twin.example.com", True),
        ("https://[::2]", "[::1]:443", False),
        ("https://twin.example.com", "twin.example.com:80", False),
        ("https://twin.example.com", "", False),
        ("https://*.example.org.evil.example", "twin.example.com", False),
        ("https://", "", False),
        ("https://[::1", "[::1", False),
    ],
)
def test_origins_and_hosts_are_compared_in_one_form(origin, host, may):
    origins = Origins(("https://app.example.com", "https://*.example.org"))
    assert origins.may_connect(origin, host=host, scheme="http", forwarded_proto="") is may


def test_an_encrypted_service_takes_no_page_that_is_not():
    assert not Origins(()).may_connect("http://twin.example.com", **{**HERE, "forwarded_proto": "WSS, http"})
    assert not Origins(()).may_connect("http://twin.example.com", **{**HERE, "forwarded_proto": "https"})
    assert not Origins(()).may_connect("http://twin.example.com", **{**HERE, "scheme": "https"})


def test_a_refused_origin_is_logged_once(logged):
    for origin in ("https://once.example", "https://once.example", "https://twice.example" + "x" * 500):
        Origins(()).may_connect(origin, **HERE)
    assert [(line["event"], len(line["kind"]) <= 100) for line in logged] == [("origin_refused", True)] * 2
    assert "TWIN_CORS_ORIGINS" in logged[0]["advice"]

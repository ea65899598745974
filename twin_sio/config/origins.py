"""Origins of browsers, as operators write them: brought into the form that browsers send, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address
from urllib.parse import urlsplit

import idna

_DEFAULT_PORTS = {"http": 80, "https": 443}
ANY = "*"
# Schemes of no page that a browser names as an origin. Others there are: those of apps and of browsers' extensions, as
# capacitor://localhost, tauri://localhost, chrome-extension://….
_OF_NO_PAGE = frozenset(("about", "blob", "data", "file", "ftp", "javascript", "null", "ws", "wss"))


def normal_origin(text: str) -> str:
    """An origin as an operator writes it in the form that browsers send: see `sent_origin`. `*` is any origin,
    `https://*.example.com` any host below one. Raises `ValueError` with a sentence for what is none."""
    if text == ANY:
        return text
    origin = sent_origin(text)
    host = origin.partition("://")[2].partition(":")[0]
    if "*" in host and not (host.startswith("*.") and "*" not in host[1:] and host.count(".") > 1):
        raise ValueError("a wildcard stands for the first part of a host, as https://*.example.com")
    return origin


def sent_origin(text: str) -> str:
    """Scheme and host in lower case, without a default port, a path, or the dot of the root at the host's end; an IPv6
    address in its short form. Raises `ValueError` with a sentence for what is no origin."""
    example = "an origin is a scheme and a host, as https://app.example.com"
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(f"{example}: an IPv6 address stands in brackets") from None
    if not parts.scheme or parts.scheme in _OF_NO_PAGE or not parts.hostname:
        raise ValueError(example if "://" in text else f"{example}: a scheme is missing")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{example}, without a path or a login")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{example}: its port is no number") from None
    host = _host(parts.hostname)
    if not host or "%" in host:
        raise ValueError(example)
    return f"{parts.scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{port}")


def _host(name: str) -> str:
    if ":" in name:
        return f"[{IPv6Address(name).compressed}]"
    name = name.removesuffix(".")
    if name.isascii():
        return name
    # As browsers do it. Python's own codec is of 2003 and makes other hosts of some letters (ß, ς); `idna.encode`
    # refuses some that browsers take, as those with an emoji.
    try:
        labels = idna.uts46_remap(name, std3_rules=False).split(".")
    except idna.IDNAError:
        raise ValueError("its host has a character that is of no host") from None
    return ".".join(one if one.isascii() else "xn--" + one.encode("punycode").decode() for one in labels)


def normal_origins(texts: Sequence[str]) -> tuple[str, ...]:
    """Each as `normal_origin` has it, none twice."""
    return tuple(dict.fromkeys(map(normal_origin, texts)))

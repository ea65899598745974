"""Origins of browsers, as operators write them: brought into the form that browsers send, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
ANY = "*"


def normal_origin(text: str) -> str:
    """An origin as browsers send it: scheme and host in lower case, no default port, no path. `*` is any origin,
    `https://*.example.com` any host below one. Raises `ValueError` with a sentence for what is none."""
    text = text.strip().strip("'\"")
    if text == ANY:
        return text
    example = "an origin is a scheme and a host, as https://app.example.com"
    parts = urlsplit(text)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(example if "://" in text else f"{example}: a scheme is missing")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{example}, without a path or a login")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{example}: its port is no number") from None
    host = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
    if "*" in host and not (host.startswith("*.") and "*" not in host[1:] and host.count(".") > 1):
        raise ValueError("a wildcard stands for the first part of a host, as https://*.example.com")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}")


def normal_origins(texts: Sequence[str]) -> tuple[str, ...]:
    """Each as `normal_origin` has it, none twice."""
    return tuple(dict.fromkeys(map(normal_origin, texts)))

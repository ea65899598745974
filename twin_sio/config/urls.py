"""Addresses of engines and endpoints as operators write them: in one form, or refused in a sentence that quotes
nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
# Why an address cannot be read, as a rule; the address itself is never quoted, since the password is in it.
_ESCAPES = "a password with / ? # % [ ] or @ in it is percent-encoded (%2F %3F %23 %25 %5B %5D %40)"
_REDIS: Mapping[str, int | None] = {
    "redis": 6379,
    "rediss": 6379,
    "redis+sentinel": 26379,
    "rediss+sentinel": 26379,
    "redis+cluster": 6379,
    "rediss+cluster": 6379,
    "unix": None,
}
_SEVERAL = ("+sentinel", "+cluster")


def redis_url(text: str) -> str:
    """A Redis URL; Valkey's schemes, and Celery's words for certificates, as Redis has them. Raises `ValueError` with a
    sentence for what is none."""
    text = re.sub(r"^valkey(s?)(?=[:+])", lambda found: f"redi{found[1]}s", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<=[?&]ssl_cert_reqs=)CERT_[A-Z]+", lambda found: found[0].removeprefix("CERT_").lower(), text)
    return _engine_url(text, _REDIS, "redis://host:6379/0")


def graph_url(text: str) -> str:
    """The URL of a FalkorDB. Raises `ValueError` with a sentence for what is none."""
    return _engine_url(text, {"redis": 6379, "rediss": 6379, "falkor": 6379, "falkors": 6379}, "falkor://host:6379")


def mongodb_url(text: str) -> str:
    """A MongoDB URL. Raises `ValueError` with a sentence for what is none; its options the driver reads."""
    url = _scheme_lowered(text)
    if not url:
        return url
    scheme, parts = _split(url, ("mongodb", "mongodb+srv"), "mongodb://host:27017/?replicaSet=rs0")
    _check_login(parts)
    _check_hosts(parts, several=scheme == "mongodb")
    return url


def http_url(text: str) -> str:
    """The URL of an endpoint. Raises `ValueError` with a sentence for what is none."""
    url = _scheme_lowered(text)
    if url:
        _, parts = _split(url, ("http", "https"), "https://host/path")
        _check_login(parts)
        _check_hosts(parts, several=False)
    return url


def _scheme_lowered(text: str) -> str:
    return _SCHEME.sub(lambda found: found[0].lower(), text)


def _split(url: str, schemes: Mapping[str, int | None] | tuple[str, ...], example: str) -> tuple[str, SplitResult]:
    found = _SCHEME.match(url)
    if found is None:
        raise ValueError(f"a scheme is missing: it is written as {example}")
    if found[1] not in schemes:
        raise ValueError(f"its scheme must be one of {', '.join(schemes)}: it is written as {example}")
    if re.search(r"\s", url) or not url.isprintable():
        raise ValueError("it holds a blank, a line's end, or a sign that is not shown")
    try:
        return found[1], urlsplit(url)
    except ValueError:
        raise ValueError(f"it cannot be read: {_ESCAPES}, and an IPv6 address stands in brackets") from None


def _engine_url(text: str, schemes: Mapping[str, int | None], example: str) -> str:
    url = _scheme_lowered(text)
    if not url:
        return url
    scheme, parts = _split(url, schemes, example)
    _check_login(parts)
    if scheme == "unix":
        if not parts.path.strip("/"):
            raise ValueError("it names no socket: it is written as unix:///run/redis.sock")
        return url
    _check_hosts(parts, several=scheme.endswith(_SEVERAL))
    if parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ValueError(f"what stands after its host is the number of a database: it is written as {example}")
    return url


def _check_login(parts: SplitResult) -> None:
    """A `/`, `?` or `#` in a password ends the host part too early: then the `@` stands after it."""
    login, at, _ = parts.netloc.rpartition("@")
    # What the parser took for the host is the login then, and the password would end up in a log.
    late = "@" in parts.path or (not at and "@" in parts.query + parts.fragment)
    if late or parts.fragment or "@" in login or re.search(r"%(?![0-9A-Fa-f]{2})", login):
        raise ValueError(f"it cannot be read: {_ESCAPES}")


def _check_hosts(parts: SplitResult, *, several: bool) -> None:
    places = parts.netloc.rpartition("@")[2]
    for place in places.split(",") if several else [places]:
        try:
            one = urlsplit(f"//{place}")
            host, _ = one.hostname, one.port
        except ValueError:
            raise ValueError(f"its port is no number up to 65535, or {_ESCAPES}") from None
        if not host:
            raise ValueError("it names no host")
        if not several and "," in place:
            raise ValueError("it names several hosts where one is taken")


RedisUrl = Annotated[str, AfterValidator(redis_url)]
GraphUrl = Annotated[str, AfterValidator(graph_url)]
MongoUrl = Annotated[str, AfterValidator(mongodb_url)]
HttpUrl = Annotated[str, AfterValidator(http_url)]

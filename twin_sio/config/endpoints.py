"""Values that name an endpoint of the OpenAI API: in the form that its client takes, or refused in a sentence that does
not hold them."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from twin_sio.config.group import cleaned

DEFAULT_MODEL: Final = "gpt-4o-mini"  # where an endpoint is set, and no model

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_METHODS: Final = re.compile(r"/+(chat/completions|completions|embeddings|responses|models)/*$", re.IGNORECASE)


def endpoint_url(text: str) -> str:
    """The base URL that is meant: with a scheme, without the method's path and slashes at its end, its query kept.

    Raises `ValueError` for what can be no such URL.
    """
    if not text:
        return text
    if re.search(r"\s", text) or not text.isprintable():
        raise ValueError("there are blanks within it")
    if not _SCHEME.match(text):
        text = f"{'http' if _is_near(text) else 'https'}://{text.lstrip('/')}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("it is no URL") from None
    if parts.scheme.lower() not in ("http", "https"):
        raise ValueError("it must begin with http:// or https://")
    if not parts.hostname or port == 0:
        raise ValueError("it names no host")
    if parts.hostname in ("http", "https"):  # a colon or a slash too few, or the scheme twice
        raise ValueError("it must begin with http:// or https://, once")
    if not re.fullmatch(r"[\w.:%-]+", parts.hostname):
        raise ValueError("its host is no name and no address")
    path = _METHODS.sub("", parts.path).rstrip("/")
    return urlunsplit((parts.scheme.lower(), parts.netloc, path, parts.query, ""))


def _is_near(address: str) -> bool:
    """Whether an address without a scheme is of this machine or this network, where nobody has certificates."""
    host, _, port = re.split(r"[/?#]", address.rpartition("@")[2])[0].partition(":")
    if address.startswith("["):
        return True
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or (port != "" and port != "443") or host.endswith((".local", ".internal", ".lan"))


def api_key(value: object) -> object:
    """A key as it is sent. Raises `ValueError` where no header could carry it."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if not isinstance(value, str):
        return value
    text = str(cleaned(re.sub(r"^bearer\s+", "", str(cleaned(value)), flags=re.IGNORECASE)))
    if not re.fullmatch(r"[\x20-\x7e]*", text):
        raise ValueError("it holds line breaks or letters that no key has")
    return text


def json_object(value: object) -> object:
    """What a text holds as JSON. Raises `ValueError` where it is no JSON object."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value) if value.strip() else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


EndpointUrl = Annotated[str, AfterValidator(endpoint_url)]
ApiKey = Annotated[SecretStr, BeforeValidator(api_key)]


class Dialect(BaseModel):
    """In which form an endpoint takes what it is asked: the first form of each, unless it refuses that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: Literal["max_tokens", "max_completion_tokens", "none"] = Field(
        "max_tokens", description="the parameter for the longest answer"
    )
    temperature: bool = Field(True, description="whether background questions are asked with temperature 0")
    stream: bool = Field(True, description="whether answers are asked for as a stream")
    stream_options: bool = Field(True, description="whether a stream is asked for its usage")
    response_format: Literal["json_schema", "json_object", "text"] = Field(
        "json_schema", description="how JSON is asked for"
    )
    system: Literal["system", "developer", "user"] = Field(
        "system", description="the role of the instructions; user: they begin the first message"
    )
    tools: bool = Field(True, description="whether the model is offered tools, where there are any")
    reasoning: Literal["marked", "unmarked"] = Field(
        "marked", description="unmarked: an answer begins with what the model thinks, up to a lone `</think>`"
    )

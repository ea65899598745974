"""Envelopes: a client's is parsed and checked, the server's is made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from twin_sio.clock import iso
from twin_sio.domain import Event
from twin_sio.errors import InvalidMessage, ServiceError, TooLarge, UnknownType
from twin_sio.pasted import PASTED_AROUND, strip_pasted
from twin_sio.protocol.client_events import (
    CLIENT_EVENTS,
    Auth,
    Metadata,
    Payload,
    clean,
)
from twin_sio.protocol.field_rules import refused_field
from twin_sio.protocol.limits import (
    AUTH_MAX_BYTES,
    DEPTH_MAX,
    ID_PATTERN,
    INT_MAX,
    RESERVED_ID_PREFIXES,
)

P = TypeVar("P", bound=Payload)

_SCHEME = re.compile(rf"(authorization\s*:\s*)?(bearer[:{re.escape(PASTED_AROUND)}]+)+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Incoming(Generic[P]):
    """A client's event that has passed validation."""

    type: str
    payload: P
    message_id: str | None
    conversation_id: str
    session_id: str | None
    raw: Mapping[str, Any]  # the payload as it was sent, with fields that this version does not know

    @property
    def required_id(self) -> str:
        """The id of an event whose type requires one; `parse` has seen to it."""
        if self.message_id is None:
            raise InvalidMessage("A message_id is required.", field="metadata.message_id")
        return self.message_id


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event to send to clients. `message_id` and `at` are set by the component that makes it."""

    type: str
    payload: Mapping[str, Any]
    message_id: str
    at: datetime
    session_id: str | None = None
    in_response_to: str | None = None
    conversation_id: str | None = None
    seq: int | None = None

    @classmethod
    def of(cls, event: Event) -> Outgoing:
        """A durable event as every device sees it, live or resumed."""
        return cls(
            event.type,
            event.payload,
            event.message_id,
            event.at,
            event.session_id,
            event.in_response_to,
            event.conversation_id,
            event.seq,
        )

    def envelope(self) -> dict[str, Any]:
        """The wire's form; fields without a value are left out."""
        metadata: dict[str, Any] = {"timestamp": iso(self.at), "message_id": self.message_id}
        if self.session_id is not None:
            metadata["session_id"] = self.session_id
        if self.in_response_to is not None:
            metadata["in_response_to"] = self.in_response_to
        if self.conversation_id is not None:
            metadata["conversation_id"] = self.conversation_id
        if self.seq is not None:
            metadata["seq"] = self.seq
        return {"type": self.type, "payload": self.payload, "metadata": metadata}


def error_payload(error: ServiceError, error_id: str | None = None) -> dict[str, Any]:
    """`{code, message, retryable, retry_after_ms?, field?, error_id?}`."""
    payload: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable}
    if error.retry_after_ms is not None:
        payload["retry_after_ms"] = error.retry_after_ms
    if error.field is not None:
        payload["field"] = error.field
    if error_id is not None:
        payload["error_id"] = error_id
    return payload


def parse(event: str, args: Sequence[object]) -> Incoming[Any]:
    """What a client sent under `event`, typed.

    Raises `UnknownType`, `TooLarge` (over 64 KiB, or 4 KiB where the event needs no more) or `InvalidMessage` with the
    field's path; the texts never hold what the client sent.
    """
    known = CLIENT_EVENTS.get(event)
    if known is None:
        raise UnknownType()
    if len(args) != 1 or not isinstance(args[0], dict):
        raise InvalidMessage("An event carries exactly one argument: the envelope, an object.", field="envelope")
    # Encoded once more: the length on the wire is not known here, and JSON of other clients has blanks in it.
    envelope = args[0]
    data = _encoded(envelope)
    if data is not None and len(data) > known.max_bytes:  # before the values are looked at: that takes ten times longer
        raise TooLarge(f"An envelope of this event has at most {known.max_bytes} bytes.")
    if data is None or _needs_full_check(data):
        _check_values(envelope, "", 1)
    if data is None:
        raise TooLarge(f"An envelope of this event has at most {known.max_bytes} bytes.")
    # Clients may leave it out: Socket.IO says the name already.
    if envelope.get("type") not in (None, event):
        raise InvalidMessage("The type must equal the event's name.", field="type")
    metadata = _validated(Metadata, envelope.get("metadata"), "metadata")
    if known.needs_id and metadata.message_id is None:
        raise InvalidMessage("A message_id is required.", field="metadata.message_id")
    # An answer's id follows from its message's: a client that could choose it would stand in its way.
    if metadata.message_id is not None and metadata.message_id.startswith(RESERVED_ID_PREFIXES):
        raise InvalidMessage("Ids that begin so are the service's own.", field="metadata.message_id")
    # Events without a payload may leave it out; where one is needed its fields are found missing.
    payload = _validated(known.payload, envelope.get("payload"), "payload")
    return Incoming(
        event,
        payload,
        metadata.message_id,
        metadata.conversation_id,
        metadata.session_id,
        envelope.get("payload") or {},
    )


def parse_auth(auth: object) -> Auth:
    """The handshake's `auth`; nothing at all counts as an empty object. Raises `InvalidMessage`."""
    if auth is None:
        return Auth()
    if not isinstance(auth, dict):
        raise InvalidMessage("The auth payload must be an object.", field="auth")
    data = _encoded(auth)
    if data is not None and len(data) > AUTH_MAX_BYTES:
        raise InvalidMessage(f"The auth payload has at most {AUTH_MAX_BYTES} bytes.", field="auth")
    if data is None or _needs_full_check(data):
        _check_values(auth, "auth", 1)
    return _validated(Auth, auth, "auth")


def token_of(auth: object) -> str | None:
    """The token of a handshake's `auth`, before anything else in it is looked at. Raises `InvalidMessage`."""
    if auth is None:
        return None
    # 0: neither a token nor none, so that it is refused like any other value that is no text.
    token = auth.get("token") if isinstance(auth, dict) else 0
    if token is not None and not isinstance(token, str):
        raise InvalidMessage("The auth payload must be an object, its token a text.", field="auth")
    return token


def bare_token(text: str) -> str:
    """The token alone, of one as people copy it: without the blanks, the quotation marks and the word `Bearer` around
    it."""
    text = strip_pasted(text)
    scheme = _SCHEME.match(text)
    return text[scheme.end() if scheme else 0 :]


def is_id(text: str) -> bool:
    """Whether the text fits an id field."""
    return re.fullmatch(ID_PATTERN, text) is not None


M = TypeVar("M", bound=BaseModel)


def _validated(model: type[M], value: object, where: str) -> M:
    """Null is absent: many clients write every field that they know."""
    if value is None:
        value = {}
    elif isinstance(value, dict) and None in value.values():
        # Of the first level only: within a context null has a meaning, that of a merge patch.
        value = {name: one for name, one in value.items() if one is not None}
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise refused_field(error, where) from None


# NUL, numbers of sixteen digits and more, and large exponents, as they stand in JSON.
_ODD = re.compile(rb"\\u0000|[0-9]{16}|[eE][+-]?[0-9]{3}")


def _encoded(envelope: object) -> bytes | None:
    """None: it cannot be encoded, for a reason that `_check_values` names."""
    try:
        return orjson.dumps(envelope)
    except TypeError:
        return None


def _needs_full_check(data: bytes) -> bool:
    """Whether something may be in it that `_check_values` refuses: deep nesting, NUL, large numbers. A look over the
    bytes costs a tenth of that, and as a rule there is nothing."""
    return data.count(b"{") + data.count(b"[") >= DEPTH_MAX or _ODD.search(data) is not None


def check_storable(value: dict[str, Any], name: str) -> None:
    """Raise `InvalidMessage` for what no client may be sent, and no store can hold; `name` is the value's path."""
    _check_values(value, name, 0)


# A dict or list on the way to a value: itself, its depth, the step above it and its key or index there. So the path of
# a value is written down where the value is refused, and never otherwise.
_Step = tuple[Any, int, Any, object]


def _check_values(value: dict[str, Any], name: str, depth: int) -> None:
    """Refuse what cannot be stored or encoded again: too deep, not finite, too large a number, NUL, lone surrogates.

    Linear, and some 50 ns for each value.
    """
    todo: list[_Step] = [(value, depth, None, name)]
    while todo:
        step = todo.pop()
        found, level = step[0], step[1]
        # `found` is what is refused, so its first key is named; an empty one nests no deeper.
        if level >= DEPTH_MAX and found:
            first = next(iter(found)) if type(found) is dict else 0
            raise _refused_value(f"Values nest at most {DEPTH_MAX} deep.", step, first)
        if type(found) is dict:
            for key in found:
                if "\x00" in key or not (key.isascii() or _is_storable(key)):
                    raise _refused_value("Text holds a character that cannot be stored.", step)
        for key, child in found.items() if type(found) is dict else enumerate(found):
            kind = type(child)
            if kind is str:
                if "\x00" in child or not (child.isascii() or _is_storable(child)):
                    raise _refused_value("Text holds a character that cannot be stored.", step, key)
            # `type is`, not `isinstance`: a bool is an int, and this runs for each value.
            elif kind is int:
                if not -INT_MAX <= child <= INT_MAX:
                    raise _refused_value("A number is out of range.", step, key)
            elif kind is dict or kind is list:
                if child:
                    todo.append((child, level + 1, step, key))
            elif kind is float:
                if not math.isfinite(child):
                    raise _refused_value("A number is out of range.", step, key)
            elif kind is not bool and child is not None:
                raise _refused_value("Only JSON values are taken, no binary.", step, key)


def _refused_value(text: str, step: _Step, *key: object) -> InvalidMessage:
    parts = [str(one) for one in reversed(key)]
    at: _Step | None = step
    while at is not None:
        parts.append(str(at[3]))
        at = at[2]
    return InvalidMessage(text, field=".".join(part for part in reversed(parts) if part)[:200] or "envelope")


def _is_storable(text: str) -> bool:
    try:
        clean(text)
    except ValueError:
        return False
    return True


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386 JSON Merge Patch; neither argument is changed."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result

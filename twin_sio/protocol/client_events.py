"""What a client may send: the payload of each event, the scope it takes, and the event that answers it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from twin_sio.domain import DEFAULT_CONVERSATION, MessageMode, Scope
from twin_sio.protocol.limits import (
    AUTH_MAX_BYTES,
    ENVELOPE_MAX_BYTES,
    HOST_TOOLS_MAX,
    ID_PATTERN,
    INT_MAX,
    PAGE_DEFAULT,
    PAGE_MAX,
    SEARCH_DEFAULT,
    SEARCH_MAX,
    SEARCH_TEXT_MAX,
    SMALL_MAX_BYTES,
    TEXT_MAX,
    TOOL_NAME_PATTERN,
)


def clean(value: str) -> str:
    """Text that every store and every encoder can hold: no NUL, no lone surrogate."""
    if "\x00" in value:
        raise ValueError("NUL")
    # Raises for a lone surrogate: half of an emoji, as a cut text has it.
    value.encode("utf-8")
    return value


def _said(value: str) -> str:
    """Text in which there is something to see."""
    if not clean(value).strip() or all(_is_blank(one) for one in value):
        raise ValueError("blank")
    return value


# Letters by their category that are drawn as nothing: Hangul's fillers, and Braille's empty cell.
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# Controls, formats and every kind of blank.
_BLANK = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})


def _is_blank(character: str) -> bool:
    return unicodedata.category(character) in _BLANK or character in _FILLERS


# Said in the schema, too, since a validator is not to be seen there.
_WITHOUT_NUL = Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT_MAX), AfterValidator(_said), _WITHOUT_NUL]
Short = Annotated[str, StringConstraints(max_length=200), AfterValidator(clean), _WITHOUT_NUL]
# What is in it has been looked at with the whole: by `parse`, and by `parse_auth`.
Context = dict[str, Any]
Timestamp = Annotated[AwareDatetime, Field(strict=False)]


class Payload(BaseModel):
    """Base of every payload: frozen, strict about types, lenient about unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Metadata(Payload):
    """What a client may say around its payload; the server stamps its own time."""

    # Only looked at, never used: clocks of devices are wrong.
    timestamp: Timestamp | None = None
    session_id: Id | None = None
    message_id: Id | None = None
    conversation_id: Id = DEFAULT_CONVERSATION


class UserMessage(Payload):
    text: Text
    context: Context | None = None
    mode: MessageMode = "queue"


class ContextUpdate(Payload):
    context: Context
    mode: Literal["merge", "replace"] = "merge"


class Feedback(Payload):
    message_id: Id
    rating: Literal["up", "down", "none"]
    comment: Annotated[str, StringConstraints(max_length=2_000), AfterValidator(clean), _WITHOUT_NUL] | None = None
    tags: Annotated[list[Short], Field(max_length=20)] | None = None
    correction: Annotated[str, StringConstraints(max_length=TEXT_MAX), AfterValidator(clean), _WITHOUT_NUL] | None = (
        None
    )


class TypingIndicator(Payload):
    is_typing: bool


class ReadReceipt(Payload):
    message_id: Id


class Heartbeat(Payload):
    pass


class Resume(Payload):
    last_seq: Annotated[int, Field(ge=0, le=INT_MAX)]


class StopGeneration(Payload):
    message_id: Id


class Regenerate(Payload):
    message_id: Id


class History(Payload):
    before: Id | None = None
    after: Id | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT


class Conversations(Payload):
    before: Annotated[int, Field(ge=1, le=INT_MAX)] | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT


class Search(Payload):
    text: Annotated[
        str, StringConstraints(min_length=1, max_length=SEARCH_TEXT_MAX), AfterValidator(clean), _WITHOUT_NUL
    ]
    limit: Annotated[int, Field(ge=1, le=SEARCH_MAX)] = SEARCH_DEFAULT


class AuthRefresh(Payload):
    token: Annotated[str, StringConstraints(min_length=1, max_length=16_384)]


class HostTool(Payload):
    """What the app on this device can do for the twin. `parameters` is the JSON schema of its arguments."""

    name: Annotated[str, StringConstraints(pattern=TOOL_NAME_PATTERN)]
    description: Annotated[str, StringConstraints(min_length=1, max_length=1_000), AfterValidator(clean), _WITHOUT_NUL]
    parameters: dict[str, Any] = Field(default_factory=dict)
    needs_approval: bool = False


class HostTools(Payload):
    """All that the session offers from now on, until its connection ends."""

    tools: Annotated[list[HostTool], Field(max_length=HOST_TOOLS_MAX)]


class ToolResult(Payload):
    call_id: Id
    output: Any = None
    error: Annotated[str, StringConstraints(max_length=2_000), AfterValidator(clean), _WITHOUT_NUL] | None = None


class Approval(Payload):
    approval_id: Id
    decision: Literal["approve", "reject", "edit"]
    arguments: dict[str, Any] | None = None
    comment: Annotated[str, StringConstraints(max_length=2_000), AfterValidator(clean), _WITHOUT_NUL] | None = None


class ProfileGet(Payload):
    pass


class ProfileCorrect(Payload):
    trait_id: Id
    action: Literal["confirm", "reject", "edit"]
    value: (
        Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_said), _WITHOUT_NUL] | None
    ) = None


_FEATURES_MAX = 16


def _split(features: object) -> object:
    """SDKs whose auth holds texts only send one, with commas between the features."""
    given = features.split(",") if isinstance(features, str) else features
    if isinstance(given, list) and len(given) > _FEATURES_MAX:  # pydantic looks at all of them before it counts
        raise ValueError("too many")
    return given


class DeviceInfo(Payload):
    name: Short | None = None
    platform: Short | None = None
    app_version: Short | None = None


class Auth(Payload):
    """The Socket.IO `auth` payload of a connect."""

    token: Annotated[str, StringConstraints(max_length=16_384)] | None = None
    session_id: Id | None = None
    user_id: Annotated[str, StringConstraints(max_length=255)] | None = None
    last_seq: Annotated[int, Field(ge=0, le=INT_MAX)] | None = None
    context: Context | None = None
    device: DeviceInfo = Field(default_factory=DeviceInfo)
    features: Annotated[
        list[Short],
        BeforeValidator(_split),
        Field(
            max_length=_FEATURES_MAX, description="What this client knows beside the first of version 1: `approvals`."
        ),
    ] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """What a client may send under a name: its payload, whether an id is required, the scope it takes, the event that
    answers it where one does, how long its envelope may be, and what it costs us (`cost_of`)."""

    payload: type[Payload]
    answer: str | None = None
    needs_id: bool = False
    scope: Scope | None = "twin:chat"
    max_bytes: int = SMALL_MAX_BYTES
    weight: int = 1


CLIENT_EVENTS: Mapping[str, ClientEvent] = {
    "user_message": ClientEvent(
        UserMessage, "message_received", needs_id=True, max_bytes=ENVELOPE_MAX_BYTES, weight=10
    ),
    "context_update": ClientEvent(ContextUpdate, "message_received", max_bytes=ENVELOPE_MAX_BYTES, weight=10),
    "feedback": ClientEvent(Feedback, "message_received", needs_id=True, max_bytes=ENVELOPE_MAX_BYTES, weight=10),
    "typing_indicator": ClientEvent(TypingIndicator, weight=2),
    "read_receipt": ClientEvent(ReadReceipt, weight=10),
    "heartbeat": ClientEvent(Heartbeat, "heartbeat_ack", scope=None),
    "resume": ClientEvent(Resume, "resumed", weight=10),
    "stop_generation": ClientEvent(StopGeneration, weight=5),
    "regenerate": ClientEvent(Regenerate, "message_received", needs_id=True, weight=10),
    "history": ClientEvent(History, "history", weight=20),
    "conversations": ClientEvent(Conversations, "conversations", weight=20),
    "search": ClientEvent(Search, "search", weight=100),
    "host_tools": ClientEvent(HostTools, "message_received", max_bytes=ENVELOPE_MAX_BYTES, weight=10),
    "tool_result": ClientEvent(ToolResult, "message_received", needs_id=True, max_bytes=ENVELOPE_MAX_BYTES, weight=10),
    "approval": ClientEvent(Approval, "message_received", needs_id=True, max_bytes=ENVELOPE_MAX_BYTES, weight=10),
    "auth_refresh": ClientEvent(AuthRefresh, "auth_refreshed", scope=None, max_bytes=AUTH_MAX_BYTES, weight=5),
    "profile_get": ClientEvent(ProfileGet, "profile", scope="twin:profile", weight=20),
    "profile_correct": ClientEvent(ProfileCorrect, "profile_update", needs_id=True, scope="twin:profile", weight=20),
}

_BYTES_A_UNIT = 1024


def cost_of(name: str, size: int) -> float:
    """What an event of `size` bytes costs us, in units of about 0.1 ms of a core. A user has so many of them a second,
    over all connections: so a client that sends costly events can send fewer of them."""
    known = CLIENT_EVENTS.get(name)
    return (known.weight if known is not None else 1) + size / _BYTES_A_UNIT

"""The AsyncAPI 3 document of the protocol, made from the models that the service parses with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from twin_sio.protocol import (
    CLIENT_EVENTS,
    PROTOCOL_VERSION,
    SERVER_EVENTS,
    Auth,
    Metadata,
)
from twin_sio.protocol.server_events import Refusal, ServerMetadata

Json = dict[str, Any]
_SCHEMAS = "#/components/schemas/"
_CHANNEL = "#/channels/conversation"


def document() -> Json:
    """The whole document: from the service's side, so what clients send it `receive`s."""
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "twin_sio",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "description": "Realtime chat between people and their AI digital twins, over Socket.IO 5 / Engine.IO 4. "
            "The event's name is the message's `name`; each event carries exactly one argument, the envelope.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"service": {"host": "localhost:8000", "pathname": "/socket.io/", "protocol": "socketio"}},
        "channels": {
            "conversation": {
                "address": "/",
                "description": "The default namespace. `auth` of the CONNECT packet is the schema Auth; a refused one "
                "is answered by CONNECT_ERROR with the schema Refusal as its data.",
                "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in _messages()},
            }
        },
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def _messages() -> Json:
    # Both sides have a `user_message`: the prefix keeps them apart.
    sent = {f"client_{name}": _client_message(name) for name in CLIENT_EVENTS}
    return {**sent, **{f"server_{name}": _server_message(name) for name in SERVER_EVENTS}}


def _client_message(name: str) -> Json:
    event = CLIENT_EVENTS[name]
    metadata: Json = {"$ref": _SCHEMAS + Metadata.__name__}
    if event.needs_id:
        metadata = {"allOf": [metadata, {"type": "object", "required": ["message_id"]}]}
    # As `parse` has it: what has no required field may be left out.
    required = [*(["payload"] if _needs_payload(event.payload) else []), *(["metadata"] if event.needs_id else [])]
    return _message(name, event.payload, metadata, required)


def _server_message(name: str) -> Json:
    event = SERVER_EVENTS[name]
    metadata: Json = {"$ref": _SCHEMAS + ServerMetadata.__name__}
    if event.is_durable:
        metadata = {"allOf": [metadata, {"type": "object", "required": ["seq"]}]}
    return {
        **_message(name, event.payload, metadata, ["type", "payload", "metadata"]),
        "summary": event.meaning,
    }


def _message(name: str, payload: type[BaseModel], metadata: Json, required: list[str]) -> Json:
    envelope = {
        "type": "object",
        "required": required,
        "properties": {
            "type": {"type": "string", "const": name},
            "payload": {"$ref": _SCHEMAS + payload.__name__},
            "metadata": metadata,
        },
    }
    return {"name": name, "payload": envelope}


def _needs_payload(model: type[BaseModel]) -> bool:
    return any(field.is_required() for field in model.model_fields.values())


def _operations() -> Json:
    received = {f"receive_{name}": _receive(name) for name in CLIENT_EVENTS}
    return {**received, **{f"send_{name}": _operation("send", f"server_{name}") for name in SERVER_EVENTS}}


def _receive(name: str) -> Json:
    event = CLIENT_EVENTS[name]
    operation = _operation("receive", f"client_{name}")
    if event.scope is not None:
        operation["description"] = f"Takes the scope `{event.scope}`."
    # Any event may be refused.
    answers = [f"server_{one}" for one in (event.answer, "error") if one is not None]
    references = [{"$ref": f"{_CHANNEL}/messages/{one}"} for one in answers]
    return {**operation, "reply": {"channel": {"$ref": _CHANNEL}, "messages": references}}


def _operation(action: str, message: str) -> Json:
    return {
        "action": action,
        "channel": {"$ref": _CHANNEL},
        "messages": [{"$ref": f"{_CHANNEL}/messages/{message}"}],
    }


def _schemas() -> Json:
    models: list[type[BaseModel]] = [Auth, Metadata, Refusal, ServerMetadata]
    models += [event.payload for event in CLIENT_EVENTS.values()]
    models += [event.payload for event in SERVER_EVENTS.values()]
    wanted: list[tuple[Any, Literal["validation"]]] = [(model, "validation") for model in models]
    _, made = models_json_schema(wanted, ref_template=_SCHEMAS + "{model}")
    return {name: lenient(schema) for name, schema in sorted(made["$defs"].items())}


def lenient(schema: Any) -> Any:
    """The schema for readers: unknown fields are allowed (readers ignore them), and there are no generated titles."""
    if isinstance(schema, Mapping):
        # A property may itself be called `title`: names are kept, whatever they are.
        names = schema.get("properties")
        kept = {
            key: lenient(value)
            for key, value in schema.items()
            if (key, value) != ("additionalProperties", False) and not (key == "title" and isinstance(value, str))
        }
        if isinstance(names, Mapping):
            kept["properties"] = {name: lenient(value) for name, value in names.items()}
        return kept
    return [lenient(one) for one in schema] if isinstance(schema, list) else schema

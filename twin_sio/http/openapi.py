"""The routes of the REST API, and the OpenAPI document made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from twin_sio.http import schemas
from twin_sio.protocol import PROTOCOL_VERSION, Scope, Search
from twin_sio.protocol.asyncapi import lenient

JSON_LINES = "application/x-ndjson"
_SCHEMAS = "#/components/schemas/"
ERRORS: Mapping[str, str] = {
    "400": "The query is refused; `field` says where.",
    "401": "The token is missing, not accepted or expired.",
    "403": "The token lacks the scope.",
    "404": "This user has no such object.",
    "413": "The body is too long, or has no Content-Length.",
    "415": "The body is compressed.",
    "429": "Too many requests; `retry_after_ms` says when the next one is accepted.",
    "500": "A defect on our side; `error_id` is in the log.",
    "503": "A store cannot be reached; nothing was changed.",
}
STATUS: Mapping[str, int] = {
    "auth_missing": 401,
    "auth_invalid": 401,
    "auth_expired": 401,
    "forbidden": 403,
    "not_found": 404,
    "too_large": 413,
    # Of a body; a query that is refused is answered with 400 by its route.
    "invalid_message": 415,
    "rate_limited": 429,
    "overloaded": 503,
    "unavailable": 503,
    "storage_unavailable": 503,
}
_ERROR_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["code", "message", "retryable"],
    "properties": {
        "code": {"type": "string", "enum": [*STATUS, "internal"]},
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
        "retry_after_ms": {"type": "integer", "minimum": 0},
        "field": {"type": "string"},
        "error_id": {"type": "string"},
    },
}


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `answer` is what a 200 holds, or each line of it where it streams."""

    method: str
    path: str
    scope: Scope
    summary: str
    answer: type[BaseModel]
    streams: bool = False
    may_be_missing: bool = False  # it may answer 404
    query: type[BaseModel] | None = None  # what it takes in the query

    def operation(self) -> dict[str, Any]:
        """Its place in the OpenAPI document."""
        # Those that every route may answer with, and of the rest what this one can.
        statuses = [s for s in ERRORS if (s != "404" or self.may_be_missing) and (s != "400" or self.query is not None)]
        media_type = JSON_LINES if self.streams else "application/json"
        names = [part[1:-1] for part in self.path.split("/") if part.startswith("{")]
        return {
            "summary": self.summary,
            "security": [{"token": [self.scope]}],
            "parameters": [
                *({"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names),
                *(_parameters(self.query) if self.query is not None else ()),
            ],
            "responses": {
                "200": {
                    "description": "The requested object.",
                    "content": {media_type: {"schema": {"$ref": _SCHEMAS + self.answer.__name__}}},
                },
                **{status: {"$ref": f"#/components/responses/{status}"} for status in statuses},
            },
        }


def _parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    schema = query.model_json_schema()
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": lenient(value)}
        for name, value in schema["properties"].items()
    ]


ROUTES: Mapping[str, Route] = {
    "profile": Route("GET", "/v1/profile", "twin:profile", "The user's profile, scored as of now.", schemas.Profile),
    "why": Route(
        "GET",
        "/v1/profile/{trait_id}/why",
        "twin:profile",
        "The evidence whose effective weights add up to a trait's number, exactly; numbers are not rounded.",
        schemas.Explanation,
        may_be_missing=True,
    ),
    "statistics": Route(
        "GET",
        "/v1/profile/statistics",
        "twin:profile",
        "What became of the user's traits, by kind and extractor; shares with their 95 % interval (Wilson).",
        schemas.Statistics,
    ),
    "search": Route(
        "GET",
        "/v1/search",
        "twin:chat",
        "Messages of all the user's conversations that have to do with the text, the best first.",
        schemas.SearchResults,
        query=Search,
    ),
    "ticket": Route(
        "POST",
        "/v1/ticket",
        "twin:chat",
        "A ticket that opens `/ws/chat/{user_id}?ticket=` once, for clients that can set no headers.",
        schemas.Ticket,
    ),
    "export": Route(
        "GET",
        "/v1/export",
        "twin:data",
        "Everything about the user, as JSON Lines; the last line is `end` with the number of lines before it.",
        schemas.ExportLine,
        streams=True,
    ),
    "erase": Route(
        "DELETE",
        "/v1/data",
        "twin:data",
        "Remove everything about the user and end their sessions; how much there was, per store.",
        schemas.Erased,
    ),
}


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all routes."""
    paths: dict[str, dict[str, Any]] = {}
    for name, route in ROUTES.items():
        paths.setdefault(route.path, {})[route.method.lower()] = {"operationId": name, **route.operation()}
    error = {"application/json": {"schema": {"$ref": _SCHEMAS + "Error"}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "twin_sio",
            "version": str(PROTOCOL_VERSION),
            "description": "What a user may do with their data beside the conversation, which runs over Socket.IO.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": {"Error": dict(_ERROR_SCHEMA), **_answer_schemas()},
            "responses": {status: {"description": text, "content": error} for status, text in ERRORS.items()},
        },
    }


def _answer_schemas() -> dict[str, Any]:
    models: list[tuple[Any, Literal["validation"]]] = [(route.answer, "validation") for route in ROUTES.values()]
    _, made = models_json_schema(models, ref_template=_SCHEMAS + "{model}")
    return {name: lenient(schema) for name, schema in sorted(made["$defs"].items())}

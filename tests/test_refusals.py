"""What is learnt from the refusals of endpoints, in the words that they use, and from nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from twin_sio.agent.model.dialect import asking_for_json, body_of, learnt
from twin_sio.agent.model.failures import of_status, refusal_of, retry_after
from twin_sio.config import Dialect

ASKED = [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
JSON = asking_for_json(Dialect(), ASKED, {"type": "object"}, "x", 100)
STREAM = {**body_of(Dialect(), ASKED, 100), "stream": True, "stream_options": {"include_usage": True}}


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


@pytest.mark.parametrize(
    ("asked", "status", "body", "field", "form"),
    [
        (STREAM, 400, error("Unrecognized request argument supplied: stream_options"), "stream_options", False),
        (STREAM, 422, {"object": "error", "message": {"detail": [{"loc": ["body", "stream_options"],
            "msg": "Extra inputs are not permitted"}]}}, "stream_options", False),
        (STREAM, 400, 'json: unknown field "stream_options"', "stream_options", False),
        (STREAM, 400, error("Invalid", param="stream_options.include_usage"), "stream_options", False),
        (STREAM, 400, error("'stream' does not support true with this model", param="stream"), "stream", False),
        (JSON, 400, error("This model does not support response format `json_schema`."), "response_format",
            "json_object"),
        (JSON, 400, error("This response_format type is unavailable now"), "response_format", "json_object"),
        (JSON, 404, error("No endpoints found that support: response_format"), "response_format", "json_object"),
        (JSON, 501, {"error": "guided decoding is not implemented"}, "response_format", "json_object"),
        (JSON, 400, error("Failed to generate JSON.", code="json_validate_failed"), "response_format", "json_object"),
        (JSON, 400, {"errors": [{"message": "additionalProperties is not allowed"}]}, "response_format", "json_object"),
        (JSON, 400, error("`temperature` is deprecated for this model."), "temperature", False),
        (JSON, 400, {"detail": "temperature must be greater than 0"}, "temperature", False),
        (JSON, 400, error("Unsupported parameter: max_tokens", code="unsupported_parameter"), "max_tokens",
            "max_completion_tokens"),
        (STREAM, 400, error("max_tokens is too large: 800. This model supports at most 512"), "max_tokens",
            "max_completion_tokens"),
        (STREAM, 500, error("Jinja Exception: System role not supported"), "system", "developer"),
        (STREAM, 400, error("Invalid value: 'system'. Supported values are: 'user' and 'assistant'."), "system",
            "developer"),
        (STREAM, 422, {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Input should be 'user'"}]}, "system",
            "developer"),
        (STREAM, 400, error("Only user and assistant roles are supported!"), "system", "developer"),
        (STREAM, 400, error("Conversation roles must alternate user/assistant/user/assistant/..."), "system", "user"),
    ],
)  # fmt: skip
def test_a_refusal_names_what_is_changed(asked, status, body, field, form):
    failed = of_status(status, {}, body, "", datetime.now(UTC))
    assert failed.refusal is not None
    found = learnt(Dialect(), failed.refusal, asked, set(), ())
    assert found is not None
    assert found == Dialect().model_copy(update={field: form})


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, error("no key, and no temperature")),
        (429, error("stream too often")),
        (400, error("I do not want to")),
        (400, None),
        (400, []),
        (400, [[[]]]),
        (500, {"error": 5}),
        (400, {"error": {"message": {"a": []}, "param": 5, "code": None}}),
        (400, "x" * 1_000_000),
    ],
)
def test_what_names_nothing_changes_nothing(status, body):
    assert learnt(Dialect(), refusal_of(status, body), STREAM, set(), ()) is None


def test_every_form_is_tried_once_and_what_is_set_never():
    tried: set[tuple[str, Any]] = set()
    dialect: Dialect | None = Dialect()
    forms = []
    refusal = refusal_of(400, error("max_tokens and max_completion_tokens are both wrong"))
    while dialect is not None and len(forms) < 9:
        forms.append(dialect.max_tokens)
        dialect = learnt(dialect, refusal, body_of(dialect, ASKED, 100), tried, ())
    assert forms == ["max_tokens", "max_completion_tokens", "none"]
    assert learnt(Dialect(), refusal, STREAM, set(), ("max_tokens",)) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": " 0.25 "}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Mon, 01 Jun 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Mon, 01 Jun 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "9" * 400}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait_is_read(headers, seconds):
    assert retry_after(headers, datetime(2026, 6, 1, 12, tzinfo=UTC)) == seconds

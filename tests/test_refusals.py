"""What is learnt from the refusals of endpoints, in the words that they use, and from nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from twin_sio.agent.model.dialect import asking_for_json, body_of, learnt
from twin_sio.agent.model.failures import of_status
from twin_sio.agent.model.refusals import refusal_of, retry_after
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
        (STREAM, 400, error("Please ensure that the role is one of user, model"), "system", "developer"),
        (STREAM, 422, {"detail": [{"loc": ["body", "messages", 0, "system", "role"], "msg": "Input should be 'user'"}]},
            "system", "developer"),
        (STREAM, 400, {"message": "The maximum tokens you requested exceeds the model limit of 512."}, "max_tokens",
            "max_completion_tokens"),
        (STREAM, 400, error("max output tokens must be <= 512"), "max_tokens", "max_completion_tokens"),
        (STREAM, 400, {"statusCode": 400, "error": "Bad Request", "message": "no property stream_options, please"},
            "stream_options", False),
        (STREAM, 400, {"error": None, "errors": ["stream_options: not known"]}, "stream_options", False),
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
        (500, error("stream error: stream ID 5; INTERNAL_ERROR; received from peer")),  # it fails: nothing is refused
        (503, error("the tool call timed out")),
        (0, error("The stream was closed by the upstream")),
        (400, {"detail": [{"msg": "Wrong", "input": {"messages": [{"content": "temperature and stream_options"}]}}]}),
        (500, {"error": 5}),
        (400, {"error": {"message": {"a": []}, "param": 5, "code": None}}),
        (400, "x" * 1_000_000),
    ],
)
def test_what_names_nothing_changes_nothing(status, body):
    assert learnt(Dialect(), refusal_of(status, body), STREAM, set(), ()) is None


TOOLS = {**STREAM, "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}]}


@pytest.mark.parametrize(
    ("message", "code", "again"),
    [
        ("Failed to call a function. Please adjust your prompt.", "tool_use_failed", True),
        ("Function call is missing a thought_signature in functionCall parts.", "", False),
        ("Missing `reasoning_content` field in the assistant message: see thinking_mode#tool-calls", "", False),
    ],
)
def test_a_call_that_went_wrong_takes_the_tools_from_nobody(message, code, again):
    """What the model wrote may be better the next time; of an earlier call nothing is learnt."""
    failed = of_status(400, {}, error(message, code=code), "BadRequest", datetime.now(UTC))
    assert failed.refusal is not None
    assert learnt(Dialect(), failed.refusal, TOOLS, set(), set()) is None
    assert failed.again is again


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


NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, {"error": {"details": [{"@type": "google.rpc.RetryInfo", "retryDelay": "34.5s"}]}}, 34.5),
        ({"retry-after": "2"}, {"error": {"details": [{"retryDelay": "34s"}]}}, 2),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m2.5s"}, {}, 62.5),
        ({"x-ratelimit-reset-requests": "120ms", "x-ratelimit-reset-tokens": "6s"}, {}, 6),
        ({"x-ratelimit-remaining-tokens": "900", "x-ratelimit-reset-tokens": "6s"}, {}, None),
        ({"x-ratelimit-reset": f"{NOW.timestamp() * 1000 + 9000:.0f}"}, {}, 9),
        ({"ratelimit-reset": "12"}, {}, 12),
        ({"x-ratelimit-reset": "tomorrow"}, {}, None),
        ({"x-ratelimit-reset": "9" * 400}, {}, None),
    ],
)
def test_a_limit_says_when_it_is_lifted(headers, body, seconds):
    failed = of_status(429, headers, body, "", NOW)
    assert (failed.kind.code, failed.wait_s) == ("model_rate_limited", seconds)


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
    assert retry_after(headers, NOW) == seconds


TOO_LONG = "This model's maximum context length is 4096 tokens"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        # What is too long, in other words; the parameter for the longest answer is named beside it.
        (422, {"error": "Input error: `inputs` tokens + `max_new_tokens` must be <= 4096"}, "context_too_long"),
        (400, error("input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000"), "context_too_long"),
        (400, {"code": "x", "error": "This model's maximum prompt length is 131072."}, "context_too_long"),
        (400, error("Your request exceeded model token limit: 8192"), "context_too_long"),
        (400, error("Range of input length should be [1, 30720]"), "context_too_long"),
        (400, error("Prompt length (5000) exceeds maximum input length (4096)."), "context_too_long"),
        (429, error("Request too large for gpt-4o: Limit 30000, Requested 40000."), "context_too_long"),
        # Bodies of other shapes.
        (400, {"detail": [TOO_LONG]}, "context_too_long"),
        (400, {"detail": {"error": {"message": TOO_LONG}}}, "context_too_long"),
        (400, {"statusCode": 400, "error": "Bad Request", "message": TOO_LONG}, "context_too_long"),
        (400, {"error": None, "message": TOO_LONG}, "context_too_long"),
        (400, {"error": True, "reason": TOO_LONG}, "context_too_long"),
        (400, {"fault": {"faultstring": TOO_LONG, "detail": {"errorcode": "x"}}}, "context_too_long"),
        (400, [TOO_LONG], "context_too_long"),
        # Filters.
        (400, error("Content Exists Risk"), "filtered"),
        (400, error("Output rejected", code="data_inspection_failed"), "filtered"),
        (403, {"code": "x", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK"}, "filtered"),
        (446, error("The guardrail checks defined in the config failed"), "filtered"),
        # Money.
        (400, error("Budget has been exceeded! Current cost: 12.1, Max budget: 10"), "quota_gone"),
        (400, error("Please make sure your account is in good standing.", code="Arrearage"), "quota_gone"),
        (400, error("You have reached your specified API usage limits."), "quota_gone"),
        (403, error("You have exceeded your monthly included credits"), "quota_gone"),
        # Keys and models.
        (400, [error("API Key not found. Please pass a valid API key.")], "key_refused"),
        (400, error("API key expired. Please renew the API key."), "key_refused"),
        (400, {"errors": [{"code": 10000, "message": "Authentication error"}]}, "key_refused"),
        (400, {"message": "The provided model identifier is invalid."}, "not_found"),
        (400, {"message": "Invocation of model ID x with on-demand throughput isn\u2019t supported."}, "not_found"),
        (400, error("Unsupported model: x"), "not_found"),
        (400, error("The model x has been retired"), "not_found"),
        # What passes, under a status that says nothing of it.
        (498, error("Flex tier capacity exceeded"), "rate_limited"),
        (400, {"__type": "ThrottlingException", "message": "Please wait before trying again."}, "rate_limited"),
        (400, error("The engine is currently overloaded, please try again later"), "rate_limited"),
        (424, {"error": "Request failed during generation"}, "unavailable"),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "unavailable"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_for_what_it_is(status, body, code):
    failed = of_status(status, {}, body, "", NOW)
    assert failed.kind.code == f"model_{code}"
    assert failed.again is (code in ("rate_limited", "unavailable"))

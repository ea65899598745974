"""The model adapter against a real HTTP server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import orjson
import pytest
import structlog
from structlog.testing import capture_logs

from tests.scripted_model import ScriptedModel
from twin_sio.agent.model import Finished, OpenAIModel, RequestedCall, Thought
from twin_sio.config import Dialect
from twin_sio.errors import ModelTimeout, ModelUnavailable
from twin_sio.observability.logging import configure_logs

SECRET = "sk-very-secret"
TEXT = "my private words"
ASKED = [{"role": "system", "content": "be kind"}, {"role": "user", "content": TEXT}]
SCHEMA = {"type": "object", "properties": {"candidates": {"type": "array"}}}


@asynccontextmanager
async def opened(base_url: str, **fields: Any) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel(base_url=base_url, api_key=SECRET, model="scripted", **{"backoff_s": 0.001, **fields})
    try:
        yield model
    finally:
        await model.close()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest.fixture
async def model(server: ScriptedModel) -> AsyncIterator[OpenAIModel]:
    async with opened(server.base_url) as model:
        yield model


async def read(model: OpenAIModel) -> tuple[list[str], Finished]:
    """Everything one answer gives; the tokens, and how it ended."""
    pieces = [piece async for piece in model.stream(ASKED)]
    assert isinstance(pieces[-1], Finished)
    return [piece for piece in pieces if isinstance(piece, str)], pieces[-1]


async def read_broken(model: OpenAIModel) -> tuple[list[str], ModelUnavailable]:
    """What an answer gave before it failed, and the failure."""
    said: list[str] = []
    try:
        async for piece in model.stream(ASKED):
            assert isinstance(piece, str)
            said.append(piece)
    except ModelUnavailable as failure:
        return said, failure
    raise AssertionError("the answer did not fail")


async def test_an_answer_comes_token_by_token_and_tells_its_usage(server, model):
    server.script(tokens=("Hel", "lo", " ünï", " 🙂"))
    said, end = await read(model)
    assert said == ["Hel", "lo", " ünï", " 🙂"]
    assert end == Finished("stop", {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5})
    assert server.requests[0]["messages"] == ASKED
    assert server.requests[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "manners",
    [
        {"crlf": True},
        {"comments": True},
        {"usage": False},
        {"done": False},
        {"finish": False},
        {"crlf": True, "comments": True},
    ],
    ids=lambda manners: "+".join(manners),
)
async def test_servers_may_differ_in_manners(server, model, manners):
    """CRLF, comments, no usage, no [DONE], or no finish_reason: the answer is whole all the same."""
    server.script(tokens=("a", "b"), **manners)
    said, end = await read(model)
    assert said == ["a", "b"]
    assert (end.usage is None) is ("usage" in manners)


async def test_a_last_line_without_its_end_still_counts(server, model):
    server.script(tokens=("a",), rubbish_after=1, rubbish="data: [DONE]", end_after=1)
    assert await read(model) == (["a"], Finished("stop", None))


async def test_one_connection_serves_one_answer_after_the_other(server, model):
    """A new TLS handshake for each answer would be the larger part of the time to its first token."""
    for _ in range(3):
        await read(model)
    assert (server.completed, server.connections) == (3, 1)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_passing_refusal_is_tried_again(server, model, status):
    server.script(status=status)
    server.script(status=status)
    said, _ = await read(model)
    assert "".join(said) == server.answer_to(TEXT)
    assert len(server.requests) == 3


async def test_lasting_refusals_end_as_model_unavailable(server, model):
    server.default = server.default.of(status=500)
    said, failure = await read_broken(model)
    assert (said, failure.code, len(server.requests)) == ([], "model_unavailable", 3)


async def test_a_refused_key_is_not_tried_again(server, model):
    server.script(status=401)
    _, failure = await read_broken(model)
    assert (failure.code, len(server.requests)) == ("model_key_refused", 1)


async def test_nobody_listening_is_model_unavailable():
    async with ScriptedModel() as gone:
        url = gone.base_url
    async with opened(url) as model:
        _, failure = await read_broken(model)
    assert failure.code == "model_unavailable"


async def test_a_cut_before_the_first_token_is_tried_again(server, model):
    server.script(cut_after=0)
    said, _ = await read(model)
    assert "".join(said) == server.answer_to(TEXT)


@pytest.mark.parametrize("cut", ["cut_after", "end_after"])
async def test_a_cut_stream_is_not_retried(server, model, cut):
    """Also a stream that ends politely, but without a finish_reason or [DONE]."""
    server.script(tokens=("a", "b", "c"), token_delay_s=0.01, **{cut: 2})
    said, failure = await read_broken(model)
    assert (said, failure.code, len(server.requests)) == (["a", "b"], "model_unavailable", 1)


@pytest.mark.parametrize(
    "rubbish",
    ["data: {not json\n\n", "data: 5\n\n", 'data: {"choices": 3}\n\n', 'data: {"choices": [{"delta": "x"}]}\n\n',
     'data: {"choices": [{"delta": {"content": 5}}]}\n\n', "data: \udcff\udcfe\x00\n\n", "x" * 2_000_000],
    ids=["bad json", "no object", "no choices", "no delta", "no text", "bytes", "a line without end"],
)  # fmt: skip
async def test_rubbish_is_model_unavailable_and_what_was_said_stands(server, model, rubbish):
    server.script(tokens=("a", "b"), rubbish_after=1, rubbish=rubbish)
    said, failure = await read_broken(model)
    assert (said, failure.code) == (["a"], "model_unavailable")


async def test_an_error_object_within_the_stream_is_model_unavailable(server, model):
    server.script(tokens=("a", "b"), error_after=1)
    said, failure = await read_broken(model)
    assert (said, failure.code) == (["a"], "model_unavailable")


@pytest.mark.parametrize(
    ("error", "code", "asked"),
    [
        ({"message": "no", "code": "401"}, "model_key_refused", 1),
        ({"type": "server_error", "message": "The server had an error"}, "model_unavailable", 3),
        ("somehow", "model_unavailable", 1),
    ],
)
async def test_an_error_object_in_place_of_a_stream_is_told_for_what_it_is(server, model, error, code, asked):
    """A number in its code is the status that it should have had, as a text, too."""
    event = orjson.dumps({"error": error}).decode()
    server.default = server.default.of(tokens=(), rubbish_after=0, rubbish=f"data: {event}\n\n")
    said, failure = await read_broken(model)
    assert (said, failure.code, len(server.requests)) == ([], code, asked)


async def test_a_body_is_read_beside_its_bare_title(server, model):
    """Some servers say `error: Bad Request`, and what is wrong in a member beside it."""
    server.dialects = ("fastify",)
    assert "".join((await read(model))[0]) == server.answer_to(TEXT)
    assert "stream_options" not in server.requests[-1]


async def test_an_answer_that_says_nothing_is_no_answer(server, model):
    server.default = server.default.of(empty_choices=True)
    said, failure = await read_broken(model)
    assert (said, failure.code) == ([], "model_unavailable")


async def test_silence_before_the_first_token_is_model_timeout(server):
    server.script(hang=True)
    async with opened(server.base_url, first_token_s=0.1) as model:
        said, failure = await read_broken(model)
        assert (said, failure.code) == ([], "model_timeout")
        await server.until(lambda seen: seen.cancelled == 1)


async def test_silence_between_tokens_is_model_timeout(server):
    server.script(tokens=("a", "b"), hang_after=1)
    async with opened(server.base_url, stall_s=0.1) as model:
        said, failure = await read_broken(model)
        assert (said, failure.code) == (["a"], "model_timeout")
        await server.until(lambda seen: seen.cancelled == 1)


async def test_comments_do_not_count_as_tokens(server):
    """A server that only keeps the line alive has still not answered."""
    server.script(tokens=("",) * 10_000, token_delay_s=0.01, empty_choices=True, comments=True)
    async with opened(server.base_url, first_token_s=0.2) as model:
        said, failure = await read_broken(model)
    assert (said, failure.code) == ([], "model_timeout")


async def test_a_slow_reader_is_not_a_stalled_model(server):
    """Only the wait for the model counts, not the time that the reader takes between two tokens."""
    server.script(tokens=("a", "b", "c"))
    async with opened(server.base_url, stall_s=0.5) as model:
        said = []
        async for piece in model.stream(ASKED):
            said.append(piece)
            await asyncio.sleep(0.6)
    assert said[:3] == ["a", "b", "c"]


async def test_a_finished_answer_does_not_wait_for_a_lost_trailer(server, model):
    """The stream hangs after finish_reason: the answer is whole."""
    finish = 'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n'
    server.script(tokens=("a", "b"), rubbish_after=1, rubbish=finish, hang_after=1)
    assert await read(model) == (["a"], Finished("length", None))


async def test_leaving_early_closes_the_stream_at_once(server, model):
    server.script(count=10_000, token_delay_s=0.01)
    async with aclosing(model.stream(ASKED)) as pieces:
        assert await anext(pieces) == "You "
    await server.until(lambda seen: seen.cancelled == 1 and seen.running == 0)


async def test_cancelling_the_reader_closes_the_stream_and_frees_the_slot(server):
    server.script(hang=True)
    async with opened(server.base_url, concurrency=1) as model:
        reader = asyncio.create_task(read(model))
        await server.until(lambda seen: seen.running == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await server.until(lambda seen: seen.cancelled == 1 and seen.running == 0)
        assert "".join((await read(model))[0]) == server.answer_to(TEXT)


async def test_no_more_answers_run_at_once_than_allowed(server):
    server.default = server.default.of(count=4, token_delay_s=0.005)
    async with opened(server.base_url, concurrency=2) as model:
        await asyncio.gather(*(read(model) for _ in range(6)))
    assert (server.peak, server.completed) == (2, 6)


async def test_waiting_for_a_slot_ends_as_model_timeout(server):
    server.script(hang_after=1)  # it holds the slot for as long as it may be silent
    async with opened(server.base_url, concurrency=1, first_token_s=1.0, stall_s=60.0) as model:
        holder = asyncio.create_task(read_broken(model))
        await server.until(lambda seen: seen.tokens_sent == 1)
        _, failure = await read_broken(model)
        assert isinstance(failure, ModelTimeout)
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)


@pytest.mark.parametrize(
    "script", [{"status": 401}, {"status": 500}, {"rubbish_after": 0, "rubbish": f"data: {TEXT}\n\n"}]
)
async def test_failures_reveal_no_secret(server, model, caplog, script):
    """Failures and logs tell no key no address and no words."""
    caplog.set_level(logging.DEBUG)
    server.default = server.default.of(**script)
    _, failure = await read_broken(model)
    received = "".join(traceback.format_exception(failure)) + caplog.text + repr(failure) + failure.message
    for private in (SECRET, TEXT, server.base_url, f":{server.port}"):
        assert private not in received


async def test_a_json_answer_is_the_object_under_the_schema(server, model):
    server.script(json_answer='{"candidates": [1]}')
    assert await model.complete_json(ASKED, SCHEMA, name="found") == {"candidates": [1]}
    shape = server.requests[0]["response_format"]
    assert (shape["type"], shape["json_schema"]["name"], shape["json_schema"]["schema"]) == (
        "json_schema",
        "found",
        SCHEMA,
    )


@pytest.mark.parametrize("answer", ["I would say", '{"candidates": [', "[1]", "null", ""])
async def test_an_answer_that_is_no_object_is_none(server, model, answer):
    server.script(json_answer=answer)
    assert await model.complete_json(ASKED, SCHEMA, name="found") is None


@pytest.mark.parametrize("script", [{"rubbish_after": 0}, {"status": 400}])
async def test_a_json_call_that_fails_is_model_unavailable(server, model, script):
    server.script(**script)
    with pytest.raises(ModelUnavailable):
        await model.complete_json(ASKED, SCHEMA, name="found")


async def test_a_json_call_is_retried(server):
    """A json call is tried again and has its own time."""
    async with opened(server.base_url, complete_s=0.2) as model:
        server.script(status=503)
        server.script(cut_after=0)
        assert await model.complete_json(ASKED, SCHEMA, name="found") == {"candidates": []}
        server.script(hang=True)
        with pytest.raises(ModelTimeout):
            await model.complete_json(ASKED, SCHEMA, name="found")


# -- what an endpoint refuses, and for how long


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (401, {}, "model_key_refused"),
        (403, {"message": "no access to this project"}, "model_key_refused"),
        (404, {"code": "model_not_found", "message": "The model `x` does not exist"}, "model_not_found"),
        (404, {"message": "404 page not found"}, "model_not_found"),
        (400, {"message": "x is not a valid model ID"}, "model_not_found"),
        (405, {}, "model_not_found"),
        (400, {"code": "context_length_exceeded", "message": "too long"}, "model_context_too_long"),
        (400, {"message": "This model's maximum context length is 4096 tokens."}, "model_context_too_long"),
        (413, {"message": "Request too large"}, "model_context_too_long"),
        (400, {"message": "prompt is too long: 9000 tokens > 8192 maximum"}, "model_context_too_long"),
        (429, {"code": "insufficient_quota", "message": "You exceeded your current quota"}, "model_quota_gone"),
        (402, {"message": "Insufficient Balance"}, "model_quota_gone"),
        (400, {"code": "content_filter", "message": "The response was filtered"}, "model_filtered"),
        (400, {"innererror": {"code": "ResponsibleAIPolicyViolation"}}, "model_filtered"),
        (403, {"message": "Your input was flagged by moderation"}, "model_filtered"),
        (400, {"message": "nobody knows why"}, "model_refused"),
        (422, {"message": "nobody knows why"}, "model_refused"),
    ],
)
async def test_what_is_refused_for_good_is_asked_once(server, model, status, error, code):
    """Each with a code of its own, not to be tried again, whether an answer or an object was asked for."""
    server.script(status=status, error={"message": "", **error}, times=2)
    _, failure = await read_broken(model)
    assert (failure.code, failure.retryable, len(server.requests)) == (code, False, 1)
    async with opened(server.base_url) as other:
        with pytest.raises(ModelUnavailable) as refused:
            await other.complete_json(ASKED, SCHEMA, name="found")
    assert (refused.value.code, len(server.requests)) == (code, 2)


@pytest.mark.parametrize("status", [401, 404, 402])
async def test_who_refuses_everybody_is_left_alone(server, model, status):
    """The background asks no more for a while, until the endpoint answers somebody."""
    server.script(status=status)
    for _ in range(3):
        with pytest.raises(ModelUnavailable):
            await model.complete_json(ASKED, SCHEMA, name="found")
    assert len(server.requests) == 1
    await read(model)
    assert await model.complete_json(ASKED, SCHEMA, name="found") == {"candidates": []}


@pytest.mark.parametrize(
    "wait",
    [
        {"Retry-After": "0.3"},
        {"retry-after-ms": "300"},
        {"Retry-After": lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=1.3), usegmt=True)},
    ],
    ids=["seconds", "ms", "a date"],
)
async def test_retry_after_is_honoured(server, model, wait):
    headers = {name: value() if callable(value) else value for name, value in wait.items()}
    server.script(status=429, headers=headers)
    began = time.monotonic()
    said, _ = await read(model)
    assert "".join(said) == server.answer_to(TEXT)
    assert (time.monotonic() - began >= 0.25, len(server.requests)) == (True, 2)


async def test_a_wait_longer_than_the_turn_is_told(server):
    server.script(status=429, headers={"Retry-After": "30"})
    async with opened(server.base_url, first_token_s=1) as model:
        _, failure = await read_broken(model)
    assert (failure.code, failure.retryable, failure.retry_after_ms) == ("model_rate_limited", True, 30_000)
    assert len(server.requests) == 1


async def test_each_failure_is_a_line_in_the_log(server, model):
    """With all that an operator needs, and nothing of the far side's text."""
    server.script(status=401, error={"message": f"bad key {SECRET}"}, headers={"x-request-id": "req-7"})
    before = structlog.get_config()
    configure_logs("info")
    try:
        with capture_logs() as lines:
            await read_broken(model)
    finally:
        structlog.configure(**before)
    (line,) = lines
    assert line == {
        "event": "model_failed",
        "log_level": "warning",
        "code": "model_key_refused",
        "status": 401,
        "error": "AuthenticationError",
        "request_id": "req-7",
        "host": "127.0.0.1",
        "model": "scripted",
        "tries": 1,
    }


# -- reasoning, and how answers end


async def test_reasoning_is_a_sign_of_life(server):
    """The limit for the first token does not run out while it comes, and none of it is text."""
    server.script(reasoning=("hm",) * 30, tokens=("a", "b"), token_delay_s=0.05)
    async with opened(server.base_url, first_token_s=1) as model:
        assert (await read(model))[0] == ["a", "b"]


async def test_reasoning_has_a_bound_of_its_own(server):
    server.script(reasoning=("hm",) * 1000, token_delay_s=0.05)
    async with opened(server.base_url, first_token_s=0.2, reasoning_s=0.5) as model:
        _, failure = await read_broken(model)
    assert (failure.code, len(server.requests)) == ("model_timeout", 1)


async def test_silence_amid_reasoning_is_a_timeout(server):
    server.script(reasoning=("hm",), hang_after=0)
    async with opened(server.base_url, first_token_s=0.2) as model:
        _, failure = await read_broken(model)
    assert failure.code == "model_timeout"


@pytest.mark.parametrize("reasoning", [("hm", "so"), ("<think>so", " it goes")])
async def test_reasoning_without_an_answer_is_paid_once(server, model, reasoning):
    is_text = reasoning[0].startswith("<")
    fields = {"tokens": reasoning} if is_text else {"reasoning": reasoning, "tokens": ()}
    server.script(**fields, reason="length")
    said, failure = await read_broken(model)
    assert (said, failure.code, failure.retryable, len(server.requests)) == ([], "model_no_answer", False, 1)
    assert model.tokens["answer", "read"] == 1


@pytest.mark.parametrize(
    ("reason", "told"),
    [("length", "length"), ("max_tokens", "length"), ("MAX_TOKENS", "length"), ("content_filter", "content_filter"),
     ("SAFETY", "content_filter"), ("eos", "stop"), ("", "stop"), ("tool_calls", "stop"), ("stop_sequence", "stop"),
     ("max_new_tokens", "length"), ("model_context_window_exceeded", "length"), ("token_limit", "length"),
     ("content_filter: PROHIBITED_CONTENT", "content_filter"), ("guardrail_intervened", "content_filter"),
     ("refusal", "content_filter")],
)  # fmt: skip
async def test_how_an_answer_ends_is_told(server, model, reason, told):
    server.script(tokens=("a", "b"), reason=reason)
    said, end = await read(model)
    assert (said, end.reason) == (["a", "b"], told)


@pytest.mark.parametrize("reason", ["error", "server_error", "cancelled", "timeout", "function_call_filter: MALFORMED"])
async def test_an_answer_that_broke_off_is_not_whole(server, model, reason):
    server.script(tokens=("a", "b"), reason=reason)
    said, failure = await read_broken(model)
    assert (said, failure.code, len(server.requests)) == (["a", "b"], "model_unavailable", 1)


def events(*found: object) -> str:
    return "".join(f"data: {orjson.dumps(one).decode()}\n\n" for one in found) + "data: [DONE]\n\n"


def chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


CALL = {"index": 0, "id": "c", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize("ids", [("", ""), ("a", "b")])
async def test_whole_calls_under_one_index_are_several(server, ids):
    """And what came with a call, or was thought before it, is there to go back with it."""
    one, two = (
        {"index": 0, "id": wire_id, "function": {"name": "look", "arguments": arguments}}
        for wire_id, arguments in zip(ids, ('{"city":"Rome"}', '{"city":"Oslo"}'), strict=True)
    )
    signed = {**one, "extra_content": {"google": {"thought_signature": "s"}}}
    pieces = chunk(reasoning_content="h"), chunk(reasoning_content="m", tool_calls=[signed]), chunk(tool_calls=[two])
    server.script(tokens=(), rubbish_after=0, rubbish=events(*pieces))
    async with opened(server.base_url) as model:
        found = [one async for one in model.stream(ASKED, [{"type": "function", "function": {"name": "look"}}])]
    first = RequestedCall("look", '{"city":"Rome"}', signed["extra_content"])
    assert found == [Finished("stop", None, (first, RequestedCall("look", '{"city":"Oslo"}')), reasoning="hm")]


async def test_a_piece_may_hold_all_at_once(server):
    """Text, what was thought before it, and a call behind it."""
    piece = chunk(content="a", reasoning="hm", tool_calls=[CALL])
    server.script(tokens=(), rubbish_after=0, rubbish=events(piece))
    async with opened(server.base_url, shows_thoughts=True) as model:
        found = [one async for one in model.stream(ASKED, [{"type": "function", "function": {"name": "look"}}])]
    assert found == [Thought("hm"), "a", Finished("stop", None, (RequestedCall("look", "{}"),))]


@pytest.mark.parametrize("delta", [{}, {"delta": {}}, {"delta": None}])
async def test_a_whole_message_behind_its_pieces_is_not_said_again(server, model, delta):
    whole = {"choices": [{**delta, "message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}]}
    server.script(tokens=(), rubbish_after=0, rubbish=events(chunk(content="a"), chunk(content="b"), whole))
    assert await read(model) == (["a", "b"], Finished("stop", None))


async def test_events_without_a_choice_are_passed_over(server, model):
    empty = [{"type": "ping"}, {"choices": None}, {"choices": [None]}, {"choices": []}, None]
    server.script(tokens=(), rubbish_after=0, rubbish=events(*empty, chunk(content="a"), *empty))
    assert await read(model) == (["a"], Finished("stop", None))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"detail": "Invalid API key"}, "model_key_refused"),
        ({"code": 401, "msg": "token is invalid"}, "model_key_refused"),
        ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "no more credits"}}, "model_quota_gone"),
        ([{"error": {"code": 404, "message": "no"}}], "model_not_found"),
        ({"status": "ok"}, "model_not_found"),
        ({"choices": [{"finish_reason": "error", "error": {"code": 402, "message": "no"}}]}, "model_quota_gone"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_stream", [True, False])
async def test_what_is_no_answer_under_a_status_of_success(server, model, body, code, is_stream):
    """It is the failure that it names, or of something that is not the API; never a success, and asked once."""
    said = events(body) if is_stream else orjson.dumps(body).decode()
    server.script(tokens=(), rubbish_after=0, rubbish=said, end_after=0, times=9)
    _, failure = await read_broken(model)
    assert (failure.code, len(server.requests)) == (code, 1)
    assert (await model.check()).code == code


async def test_an_answer_filtered_whole_says_so(server, model):
    server.script(tokens=(), reason="content_filter")
    _, failure = await read_broken(model)
    assert (failure.code, len(server.requests)) == ("model_filtered", 1)


async def test_a_refusal_is_the_answer(server, model):
    refusal = 'data: {"choices": [{"delta": {"content": null, "refusal": "I will not."}}]}\n\n'
    server.script(tokens=(), rubbish_after=0, rubbish=refusal)
    assert (await read(model))[0] == ["I will not."]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("ok", "PlainText"),
        ("ok\r\n\r\nfine: yes\n", "PlainText"),
        ("Welcome to the API! See https://docs.example/", "PlainText"),
        ('"ok"', "PlainText"),
        ("<?xml version='1.0'?><Status>ok</Status>", "PlainText"),
        ("\n <!DOCTYPE html>\n<title>Welcome</title>\n", "Page"),
        ("<html><body>data</body></html>", "Page"),
        ('{"status": "ok"}', "OtherJson"),
        ("[]", "OtherJson"),
        ("[1, 2]", "OtherJson"),
        ("{}", "OtherJson"),
    ],
)
async def test_what_is_not_of_this_api_is_named_and_asked_once(server, model, body, error):
    """For an answer, an object and a check."""
    server.script(tokens=(), rubbish_after=0, rubbish=body, end_after=0, times=9)
    _, failure = await read_broken(model)
    assert (failure.code, len(server.requests)) == ("model_not_found", 1)
    seen = await model.check()
    assert seen is not None
    assert (seen.code, seen.error, len(server.requests)) == ("model_not_found", error, 2)
    async with opened(server.base_url) as other:
        with pytest.raises(ModelUnavailable) as failed:
            await other.complete_json(ASKED, SCHEMA, name="found")
    assert (failed.value.code, len(server.requests)) == ("model_not_found", 3)


async def test_a_page_is_no_model(server):
    async with opened(f"http://127.0.0.1:{server.port}/page") as model:
        _, failure = await read_broken(model)
    assert failure.code == "model_not_found"


async def test_a_model_that_thinks_gets_room_for_it(server, model):
    """An object's length was used up before it began: asked once more with room, and so from then on."""
    server.script(json_answer="", reason="length")
    for _ in range(2):
        assert await model.complete_json(ASKED, SCHEMA, name="found", max_tokens=100) == {"candidates": []}
    assert [one["max_tokens"] for one in server.requests] == [100, 4100, 4100]


# -- forms


async def test_a_setting_overrides_what_is_learnt(server):
    server.dialects = ("max_completion_tokens",)
    async with opened(server.base_url, dialect=Dialect(max_tokens="max_completion_tokens")) as model:
        await read(model)
    assert server.refused == 0
    async with opened(server.base_url, dialect=Dialect(max_tokens="max_tokens")) as model:
        _, failure = await read_broken(model)
    assert (failure.code, server.refused) == ("model_refused", 1)


async def test_a_whole_answer_may_take_longer_than_a_first_token(server):
    server.script(first_delay_s=0.8)
    async with opened(server.base_url, first_token_s=0.4, dialect=Dialect(stream=False)) as model:
        said, _ = await read(model)
    assert "".join(said) == server.answer_to(TEXT)


async def test_what_is_learnt_is_kept_once(server):
    kept: list[dict[str, object]] = []

    async def keep(learnt: Mapping[str, object]) -> None:
        kept.append(dict(learnt))

    server.dialects = ("max_completion_tokens", "developer", "no_stream_options")
    expected = {"max_tokens": "max_completion_tokens", "system": "developer", "stream_options": False}
    async with opened(server.base_url, keep=keep) as model:
        await read(model)
        await read(model)
    assert kept == [expected]
    async with opened(server.base_url, learnt=expected, keep=keep) as model:
        await read(model)
    assert (len(kept), server.refused) == (1, 3)


async def test_a_refusal_that_helps_nothing_is_not_learnt(server, model):
    """It names what can be changed, and refuses every form: the next question is asked as before."""
    server.script(status=400, error={"message": "temperature, response_format: I want neither"}, times=9)
    with pytest.raises(ModelUnavailable):
        await model.complete_json(ASKED, SCHEMA, name="found")
    bodies = [orjson.dumps(body, option=orjson.OPT_SORT_KEYS) for body in server.requests]
    assert len(bodies) == len({*bodies}) < 9
    server.reset()
    await model.complete_json(ASKED, SCHEMA, name="found")
    assert server.requests[0]["response_format"]["type"] == "json_schema"


async def test_a_conversation_comes_in_turns(server, model):
    lines = [("system", "S"), ("assistant", "x"), ("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]
    asked = [{"role": role, "content": text} for role, text in lines]
    assert [piece async for piece in model.stream(asked)]
    sent = [(one["role"], one["content"]) for one in server.requests[0]["messages"]]
    assert sent == [("system", "S"), ("user", "a\n\nb"), ("assistant", "c"), ("user", "d")]


async def test_the_query_of_a_url_goes_with_each_request(server):
    async with opened(f"{server.base_url}?api-version=2024-10-21") as model:
        await read(model)
        await model.complete_json(ASKED, SCHEMA, name="found")
    assert [one["query"] for one in server.heads] == [{"api-version": "2024-10-21"}] * 2
    assert {one["api-key"] for one in server.heads} == {SECRET}

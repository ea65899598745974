"""The model adapter against a real HTTP server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from tests.scripted_model import ScriptedModel
from twin_sio.agent.model import Finished, OpenAIModel
from twin_sio.errors import ModelTimeout, ModelUnavailable

SECRET = "sk-very-secret"
TEXT = "my private words"
ASKED = [{"role": "system", "content": "be kind"}, {"role": "user", "content": TEXT}]
SCHEMA = {"type": "object", "properties": {"candidates": {"type": "array"}}}


@asynccontextmanager
async def opened(base_url: str, **fields: float) -> AsyncIterator[OpenAIModel]:
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
    assert (failure.code, len(server.requests)) == ("model_unavailable", 1)


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
    async with opened(server.base_url, stall_s=0.05) as model:
        said = []
        async for piece in model.stream(ASKED):
            said.append(piece)
            await asyncio.sleep(0.08)
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
    await server.until(lambda seen: seen.cancelled == 1 and seen.running == 0, timeout=2)


async def test_cancelling_the_reader_closes_the_stream_and_frees_the_slot(server):
    server.script(hang=True)
    async with opened(server.base_url, concurrency=1) as model:
        reader = asyncio.create_task(read(model))
        await server.until(lambda seen: seen.running == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await server.until(lambda seen: seen.cancelled == 1 and seen.running == 0, timeout=2)
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

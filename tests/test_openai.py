"""openai: what `agent.model` relies on beyond the documentation of the library is still there, as it was."""

from __future__ import annotations

import inspect

import openai


async def test_streaming_requests_take_the_whole_body_and_wait_until_they_are_entered() -> None:
    """`agent.model` gives the messages as `extra_body`, which replaces the argument of the same name, and enters and
    leaves the request by itself. That the body is sent so is shown by the tests of `agent.model` over HTTP."""
    client = openai.AsyncOpenAI(api_key="none", base_url="http://127.0.0.1:1")
    create = client.chat.completions.with_streaming_response.create
    parameters = inspect.signature(client.chat.completions.create).parameters
    assert {"messages", "model", "stream", "extra_body"} <= {*parameters}
    request = create(model="none", messages=(), extra_body={"messages": []})
    assert hasattr(request, "__aenter__")
    assert hasattr(request, "__aexit__")
    request._api_request.close()  # type: ignore[attr-defined]
    await client.close()

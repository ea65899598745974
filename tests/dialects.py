"""How real servers differ from one another, as switches of the scripted model (`ScriptedModel.dialects`).

A refusal refuses what its servers refuse, in their words; a manner changes how an answer comes. Several go together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Body = dict[str, Any]
Refused = tuple[int, Any] | None


def _error(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> Refused:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return status, {"error": error}


def _max_completion_tokens(body: Body) -> Refused:
    if "max_tokens" not in body:
        return None
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    return _error(said, "max_tokens", "unsupported_parameter")


def _no_length(body: Body) -> Refused:
    names = [name for name in ("max_tokens", "max_completion_tokens") if name in body]
    return (422, {"detail": f"unknown field: {names[0]}"}) if names else None


def _no_temperature(body: Body) -> Refused:
    if "temperature" not in body:
        return None
    said = (
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
    )
    return _error(said, "temperature", "unsupported_value")


def _no_stream_options(body: Body) -> Refused:
    if "stream_options" not in body:
        return None
    loc = ["body", "stream_options"]
    return 422, {"detail": [{"type": "extra_forbidden", "loc": loc, "msg": "Extra inputs are not permitted"}]}


def _fastify(body: Body) -> Refused:
    said = {"statusCode": 400, "error": "Bad Request", "message": "body must NOT have the property stream_options"}
    return (400, said) if "stream_options" in body else None


def _no_stream(body: Body) -> Refused:
    return _error("Streaming is not supported for this model.", None, "bad_request") if body.get("stream") else None


def _roles(body: Body) -> list[str]:
    return [one["role"] for one in body["messages"]]


def _developer(body: Body) -> Refused:
    if "system" not in _roles(body):
        return None
    said = "Unsupported value: 'messages[0].role' does not support 'system' with this model."
    return _error(said, "messages[0].role", "unsupported_value")


def _no_instructions(body: Body) -> Refused:
    if "user" not in _roles(body)[:1]:
        return _error("System role not supported", None, "400", status=500)
    return None


def _turns(body: Body) -> Refused:
    roles = _roles(body)
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if all(role == ("user", "assistant")[n % 2] for n, role in enumerate(turns)):
        return None
    return _error("Conversation roles must alternate user/assistant/user/assistant/...", "messages")


def _json_object(body: Body) -> Refused:
    if (body.get("response_format") or {}).get("type") == "json_schema":
        return _error("'response_format.type' must be 'json_object' or 'text'", "response_format")
    return None


def _no_json(body: Body) -> Refused:
    return (400, {"object": "error", "message": "response_format is unknown"}) if "response_format" in body else None


def _small(body: Body) -> Refused:
    size = sum(len(one["content"]) for one in body["messages"])
    if size <= SMALL:
        return None
    said = f"This model's maximum context length is 1000 tokens. However, your messages resulted in {size} tokens."
    return _error(said, "messages", "context_length_exceeded")


SMALL = 4_000  # characters that fit into the context of `small`


def _bad_tool(body: Body) -> Refused:
    """As OpenAI refuses the schema of one tool."""
    for at, tool in enumerate(body.get("tools") or ()):
        if tool["function"]["parameters"]["type"] == "banana":
            param, code = f"tools[{at}].function.parameters", "invalid_function_parameters"
            message = f"Invalid schema for function '{tool['function']['name']}': 'banana' is not valid"
            return 400, {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
    return None


def _no_tools(body: Body) -> Refused:
    if "tools" not in body:
        return None
    return _error(f"registry.example/{body.get('model')} does not support tools", None, None)


REFUSALS: dict[str, Callable[[Body], Refused]] = {
    "max_completion_tokens": _max_completion_tokens,
    "no_length": _no_length,
    "no_temperature": _no_temperature,
    "no_stream_options": _no_stream_options,
    "fastify": _fastify,
    "no_stream": _no_stream,
    "developer": _developer,
    "no_instructions": _no_instructions,
    "turns": _turns,
    "json_object": _json_object,
    "no_json": _no_json,
    "small": _small,
    "no_tools": _no_tools,
    "bad_tool": _bad_tool,
}

# What the object in an answer is wrapped in.
WRAPPINGS: dict[str, Callable[[str], Any]] = {
    "fenced": lambda said: f"```json\n{said}\n```",
    "prose": lambda said: f"Sure! {{Here}} it is:\n\n{said}\n\nLet me know if you need more.",
    "array": lambda said: f"[{said}]",
    "trailing_comma": lambda said: re.sub(r"\}$", ",}", said),
    "quoted": json.dumps,
    "named": lambda said: f'{{"result": {said}}}',
    "lost_mark": lambda said: f'I think about {{"title": 5}}.\n</think>\n{said}',
}

# How text comes, in a stream or whole.
MANNERS = (
    "think", "reasoning", "reasoning_content", "thinking_parts", "parts", "halves", "crlf", "no_space", "comments",
    "event_lines", "lines_of_data", "crumbs", "bom", "whole", "streams_always", "azure", "usage_in_every_chunk",
    "empty_finish", "eos", "end_turn", "no_done", "no_finish", "tool_call", "function_call", "parsed",
    "object_in_reasoning",
)  # fmt: skip


def refused(dialects: Sequence[str], body: Body) -> Refused:
    """Status and body with which the first of the dialects refuses a request; None where all take it."""
    found = (REFUSALS[name](body) for name in dialects if name in REFUSALS)
    return next((one for one in found if one is not None), None)


def asked_json(body: Body) -> str:
    """The name of the object that is asked for, by a schema or in words; empty where it is text."""
    shape = body.get("response_format") or {}
    if shape.get("type") == "json_schema":
        return str(shape["json_schema"]["name"])
    found = re.search(r"follows this JSON schema \((\w+)\): ", body["messages"][0]["content"])
    assert found or not shape, "an object is asked for, and not said which"
    return found[1] if found else ""


def whole(
    dialects: Sequence[str],
    head: Body,
    said: str,
    usage: Body,
    *,
    is_json: bool,
    calls: Sequence[Mapping[str, Any]] = (),
) -> Body:
    """A whole answer."""
    if calls and "calls_in_text" in dialects:
        said, calls = said + written(calls), ()
    message: Body = {"role": "assistant", "content": said}
    if is_json:
        for name in dialects:
            message["content"] = WRAPPINGS[name](message["content"]) if name in WRAPPINGS else message["content"]
        call = {"name": "answer", "arguments": message["content"]}
        if "tool_call" in dialects:
            message |= {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": call}]}
        if "function_call" in dialects:
            message |= {"content": None, "function_call": call}
        if "object_in_reasoning" in dialects:
            message |= {"content": None, "reasoning_content": f"\n{message['content']}"}
        if "parsed" in dialects:
            message |= {"content": None, "parsed": json.loads(said)}
    if "think" in dialects and message["content"]:
        message["content"] = f'<think>\nMaybe {{"title": "no"}}?\n</think>\n\n{message["content"]}'
    if "reasoning_content" in dialects:
        message["reasoning_content"] = "Well."
    if "parts" in dialects and message["content"]:
        message["content"] = [{"type": "text", "text": message["content"]}]
    if calls:
        message["tool_calls"] = called([*dialects, "whole_calls"], calls)[0]["tool_calls"]
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {**head, "choices": choices, "usage": usage}


def written(calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls as Qwen and Hermes write them, where no parser of the server takes them out of the text. Those whose
    arguments are a text are broken: it stands there as it is."""
    made = []
    for call in calls:
        arguments = call["arguments"] if isinstance(call["arguments"], str) else json.dumps(call["arguments"])
        made.append(f'\n<tool_call>\n{{"name": "{call["name"]}", "arguments": {arguments}}}\n</tool_call>')
    return "".join(made)


def called(dialects: Sequence[str], calls: Sequence[Mapping[str, Any]]) -> list[Body]:
    """The pieces in which an answer calls tools. Each `calls_*` and `whole_calls` is how some servers do it."""
    if not calls:
        return []
    if "calls_in_text" in dialects:
        pieces_of_text = re.findall(r"(?s).{1,7}", written(calls))
        return [{"content": [{"type": "text", "text": one}] if "parts" in dialects else one} for one in pieces_of_text]
    made = [
        {
            "index": nth,
            "id": f"call_{nth}abcdefg",
            "type": "function",
            "function": {
                "name": call["name"],
                "arguments": call["arguments"] if isinstance(call["arguments"], str) else json.dumps(call["arguments"]),
            },
        }
        for nth, call in enumerate(calls)
    ]
    if "calls_as_objects" in dialects:  # the arguments are no text
        for one, call in zip(made, calls, strict=True):
            one["function"] = {"name": call["name"], "arguments": call["arguments"]}
    if "calls_without_index" in dialects:
        for one in made:
            del one["index"]
    if "calls_of_index_0" in dialects:
        for one in made:
            one["index"] = 0
    if "calls_without_id" in dialects:
        for one in made:
            del one["id"]
    if "calls_flat" in dialects:  # nothing is called a function
        made = [{key: one[key] for key in ("index", "id")} | one["function"] for one in made]
    if "calls_of_their_name" in dialects:  # neither an index nor an id
        made = [{"function": one["function"]} for one in made]
    if "calls_as_function" in dialects:
        return [{"content": None, "function_call": made[0]["function"]}]
    if "whole_calls" in dialects:
        return [{"content": None, "tool_calls": made}]
    if set(dialects) & {
        "calls_as_objects", "calls_without_index", "calls_of_index_0", "calls_flat", "calls_of_their_name"
    }:  # fmt: skip
        return [{"content": "", "tool_calls": [one]} for one in made]
    pieces: list[Body] = []
    for one in made:
        arguments = one["function"]["arguments"]
        if "calls_announced" in dialects:
            pieces.append({"tool_calls": [{**one, "function": None}]})
        begun = "{}" if "calls_of_braces" in dialects else ""
        pieces.append({"tool_calls": [{**one, "function": {"name": one["function"]["name"], "arguments": begun}}]})
        for nth, piece in enumerate(re.findall(r"(?s).{1,7}", arguments)):
            name = {"name": one["function"]["name"]} if "calls_named_again" in dialects else {}
            rest = {key: one[key] for key in ("index",) if key in one}
            if "calls_of_fresh_ids" in dialects:
                rest["id"] = f"piece-{nth}"
            if "calls_of_texts" in dialects:
                rest["index"] = str(one["index"])
            pieces.append({"content": None, "tool_calls": [{**rest, "function": {**name, "arguments": piece}}]})
    return pieces


CALLS = (
    "whole_calls",
    "calls_as_objects",
    "calls_without_index",
    "calls_of_index_0",
    "calls_without_id",
    "calls_named_again",
    "calls_in_text",
    "calls_flat",
    "calls_of_their_name",
    "calls_announced",
    "calls_of_braces",
    "calls_of_fresh_ids",
    "calls_of_texts",
)
"""How tools are called."""


def _deltas(dialects: Sequence[str], tokens: Sequence[str]) -> Iterator[Body]:
    yield {"role": "assistant", "content": "" if "parts" not in dialects else []}
    if "think" in dialects:
        yield from ({"content": piece} for piece in ("\n<th", "ink>so </thi", "s> and <b>", "</th", "ink>\n", "\n"))
    for name in ("reasoning", "reasoning_content"):
        if name in dialects:
            yield from ({"content": None, name: piece} for piece in ("Let me", " see."))
    if "thinking_parts" in dialects:
        yield {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}]}
    for token in tokens:
        for piece in _halves(token) if "halves" in dialects else (token,):
            yield {"content": [{"type": "text", "text": piece}] if "parts" in dialects else piece}


def _halves(token: str) -> list[str]:
    """The token, cut within each of its characters that UTF-16 has in two."""
    units = token.encode("utf-16-le")
    text = "".join(units[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(units), 2))
    return [piece for piece in re.split("(?<=[\ud800-\udbff])", text) if piece]


def _events(
    dialects: Sequence[str], head: Body, tokens: Sequence[str], usage: Body, calls: Sequence[Mapping[str, Any]]
) -> Iterator[Any]:
    if "azure" in dialects:
        yield {**head, "choices": [], "model": "", "prompt_filter_results": [{"prompt_index": 0}]}
    every = {"usage": usage} if "usage_in_every_chunk" in dialects else {"usage": None} if "azure" in dialects else {}
    empty = "" if "empty_finish" in dialects else None
    for delta in (*_deltas(dialects, tokens), *called(dialects, calls)):
        yield {**head, **every, "choices": [{"index": 0, "delta": delta, "finish_reason": empty}]}
    reason = next((name for name in ("eos", "end_turn") if name in dialects), "stop")
    if "no_finish" not in dialects:
        yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    yield {**head, "choices": [], "usage": usage}
    if "no_done" not in dialects:
        yield "[DONE]"


def stream(
    dialects: Sequence[str], head: Body, tokens: Sequence[str], usage: Body, calls: Sequence[Mapping[str, Any]] = ()
) -> Iterator[bytes]:
    """An answer as a stream, piece by piece."""
    sent = "".join(_framed(dialects, event) for event in _events(dialects, head, tokens, usage, calls))
    raw = (b"\xef\xbb\xbf" if "bom" in dialects else b"") + sent.encode()
    step = 7 if "crumbs" in dialects else 400
    return (raw[at : at + step] for at in range(0, len(raw), step))


def _framed(dialects: Sequence[str], event: Any) -> str:
    said = event if isinstance(event, str) else json.dumps(event, indent=1 if "lines_of_data" in dialects else None)
    start = "data:" if "no_space" in dialects else "data: "
    framed = "".join(f"{start}{line}\n" for line in said.split("\n")) + "\n"
    if "event_lines" in dialects:
        framed = f"event: message\nid: 7\n{framed}"
    if "comments" in dialects:
        framed = f": OPENROUTER PROCESSING\n\n{framed}"
    return framed.replace("\n", "\r\n") if "crlf" in dialects else framed

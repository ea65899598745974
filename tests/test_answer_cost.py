"""What a model answers is read in the time that its length takes, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.factories import least_cpu_s
from tests.test_answer_parts import SCHEMA, text_of
from twin_sio.agent.model.call_forms import calls_in
from twin_sio.agent.model.end_tokens import EndTokens
from twin_sio.agent.model.failures import Failed
from twin_sio.agent.model.objects import object_in
from twin_sio.agent.model.written_calls import WrittenCalls

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
UNITS = [
    *('\\"', '"', "\\", "'", "\\'", "a", "a ", "\n", " ", "{", "[", '{"a":', '{"a', ",", "```", "look\n"),
    *("<|im_end|>", "</s>", "<s>", "<", "<|", "<|a", "[|", "<think>", "</think>", "{'a': '", "thought", "to="),
    *("<arg_key>", "<arg_key>a</arg_key>", "<arg_value>", "<parameter=a", "<parameter=a>", "<function=look>"),
    *("<invoke ", '"name":', '"name": "', "functions.look", "look<|message|>{", "[TOOL_CALLS]", "<tool_call>"),
    *("</tool_call>", "<|channel|>", "<|channel|>final<|message|>", "<|start|>assistant", "<｜tool▁sep｜>", "[ARGS]"),
    *("look(", "(", ")", "a:", "{a:", "a=", "a=1,", "look(a=1),"),
]


def in_one_event(text: str) -> None:
    event = {"choices": [{"index": 0, "delta": {"content": text}}]}
    with suppress(Failed):
        text_of(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode(), [])


def in_many_events(text: str) -> None:
    parts = [{"choices": [{"index": 0, "delta": {"content": text[at : at + 7]}}]} for at in range(0, len(text), 7)]
    with suppress(Failed):
        text_of("".join(f"data: {json.dumps(part)}\n\n" for part in parts).encode(), [])


def as_written_calls(text: str) -> None:
    with suppress(Failed):
        reader = WrittenCalls(TOOLS)
        reader.take(text)
        reader.end()


READERS: dict[str, Callable[[str], object]] = {
    "object": lambda text: object_in({"content": text}, SCHEMA),
    "object that was cut": lambda text: object_in({"content": '{"title": "' + text}, SCHEMA),
    "object in single quotes": lambda text: object_in({"content": "{'title': '" + text}, SCHEMA),
    "object without quotes": lambda text: object_in({"content": "{title: '" + text}, SCHEMA),
    "calls": lambda text: calls_in(text, TOOLS),
    "end tokens": lambda text: EndTokens().take(text),
    "written calls": as_written_calls,
    "written call": lambda text: as_written_calls("<tool_call>" + text),
    "call without a mark": lambda text: as_written_calls('{"name": "look", "arguments": {"a": "' + text),
    "call in Python": lambda text: as_written_calls("[look(a=" + text + ")]"),
    "one event": in_one_event,
    "many events": in_many_events,
}


@pytest.mark.parametrize("unit", UNITS, ids=repr)
@pytest.mark.parametrize("reader", READERS)
def test_a_long_answer_costs_what_its_length_does(reader: str, unit: str) -> None:
    """Four times the text takes no more than some four times as long."""

    def cost(length: int) -> float:
        text = (unit * length)[: length - 10] + "x<|im_end|>"
        return least_cpu_s(lambda: READERS[reader](text), times=2)

    assert cost(32_000) < 12 * max(cost(8_000), 0.005)

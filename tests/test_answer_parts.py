"""However a stream is cut, the text is the same; whatever an object is wrapped in, it is that object or none."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.dialects import MANNERS, stream
from twin_sio.agent.model.answer import Answer
from twin_sio.agent.model.events import EventParser
from twin_sio.agent.model.failures import Failed
from twin_sio.agent.model.objects import object_in

SCHEMA = {"type": "object", "required": ["title"], "properties": {"title": {"type": "string"}}}
CUT_UP = [name for name in MANNERS if name not in ("whole", "streams_always")]
USAGE = {"prompt_tokens": 1, "completion_tokens": 1}


def text_of(raw: bytes, cuts: list[int]) -> str:
    """What a stream says that comes in these pieces."""
    parser, answer, said = EventParser(), Answer(), ""
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {len(raw)})
    for begin, end in zip([0, *ends], ends, strict=False):
        parser.feed(raw[begin:end])
        while (event := parser.next()) is not None:
            said += answer.take(event)
    parser.close()
    while (event := parser.next()) is not None:
        said += answer.take(event)
    said += answer.end()
    answer.finished(announced=parser.announced_end, request_id="")
    return said


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=8),
    st.sets(st.sampled_from(CUT_UP), max_size=4),
    st.lists(st.integers(0, 4000), max_size=30),
)
def test_text_is_the_same_however_it_is_cut(tokens, manners, cuts):
    said = "".join(tokens)
    assume(said.strip() and not said.lstrip().lower().startswith(("<", "[", "\u25c1")))
    assume(not {"no_done", "no_finish"} <= manners)
    raw = b"".join(stream(sorted(manners), {"id": "x"}, tokens, USAGE))
    assert text_of(raw, cuts) == (said.lstrip() if "think" in manners else said)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_any_bytes_are_an_answer_or_a_failure(raw, cuts):
    for prefix in (b"", b"data: ", b'{"choices": ', b'data: {"choices": [{"delta": {"content": '):
        with suppress(Failed):
            text_of(prefix + raw, cuts)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_message_holds_an_object_or_none(odd):
    for message in ({"content": odd}, {"tool_calls": odd}, {"function_call": odd}, {"parsed": odd}, {"refusal": odd}):
        found = object_in(message, SCHEMA)
        assert found is None or isinstance(found, dict)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('{"title": "a"}', "a"),
        ('```\n{"title": "a"}\n```', "a"),
        ('```json5\n[{"title": "a",},]\n```', "a"),
        ('First {"title": "draft"}, and better: {"title": "a"}.', "a"),
        ('The schema was {"type": "object", "properties": {}}. {"title": "a"} {"mood": "good"}', "a"),
        ('<think>{"title": "no"}</think>{"title": "a"}', "a"),
        ('{"title": "no"}\n</think>\n{"title": "a"}', "a"),
        ('{"title": "</think>"}', "</think>"),
        ('{"title": "a, }", }', "a, }"),
        ('{"title": "line\nbreak"}', "line\nbreak"),
        ('{"title": "\\ud83d\\ude00 \\ud83d"}', "\U0001f600 \ufffd"),
        ('{"answer": {"title": "a"}}', "a"),
        ('{"name": "x", "arguments": "{\\"title\\": \\"a\\"}"}', "a"),
        # As Python writes it.
        ("{'title': 'A trip'}", "A trip"),
        ("Here's the JSON: {'title': 'A trip'} It's done", "A trip"),
        ("{'title': 'It\\'s \"so\"', 'x': None, 'y': True,}", 'It\'s "so"'),
        ("{title: 'A trip', tags: [{a: null}], $x_1 : true}", "A trip"),
        ('Here: { title: "A: trip, b: 2" } It\'s done', "A: trip, b: 2"),
        ('{see: below} It\'s {"title": "A trip"}', "A trip"),
        ("```python\n{'title': \"It's here\"}\n```", "It's here"),
        ("[{ 'notes': {'title': 'a\\\\'} }]", "a\\"),
        ("It's {a} 'b' {\"title\": \"don't\"}", "don't"),
    ],
)
def test_the_object_is_taken_out(said, found):
    assert (object_in({"content": said}, SCHEMA) or {}).get("title") == found


@pytest.mark.parametrize(
    "said",
    ["", "title: a", "{'title': 'a", "{'title': 'a}",
     '{"title": "a', '```json\n{"title": "a"', "[1]", "null", '[{"title": "a"}, {"title": "b"}]',
     "{" * 5000, '{"a":' * 5000, '"' * 5000, "[" * 100_000],
)  # fmt: skip
def test_what_is_no_object_is_none(said):
    assert object_in({"content": said}, SCHEMA) is None


def test_an_object_in_a_message_of_many_megabytes_ends():
    """Its search is bounded: a place where an object may begin is tried 64 times."""
    assert object_in({"content": '{"' * 200_000}, SCHEMA) is None
    assert object_in({"content": json.dumps({"title": "x" * 200_000})}, SCHEMA) == {"title": "x" * 200_000}

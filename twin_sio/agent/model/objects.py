"""The JSON object in what a model answers, whatever it is wrapped in. Pure.

Taken off: reasoning before it, Markdown fences, prose on both sides, an array of one around it, quotation marks around
all of it, one name around it, commas that are left over, Python's single quotes, JavaScript's names without quotes.
Nothing is guessed: an object that was cut is none, and so is what has none of the names that were asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import orjson

from twin_sio.agent.model.answer import parts_of, thought_of
from twin_sio.agent.model.failures import Failed
from twin_sio.agent.model.reasoning import without_reasoning
from twin_sio.agent.model.relaxed_json import as_json, without_commas
from twin_sio.domain import Json

_TRIES: Final = 64  # places in a text where an object may begin
_NO_JSON: Final = re.compile(r"[{\[\s]*+(?:'|[A-Za-z_$][\w$]{0,63}+\s{0,20}+:)")
_DECODER: Final = json.JSONDecoder(strict=False, parse_constant=lambda _: None)


def object_in(message: dict[str, Any], schema: Json) -> Json | None:
    """The object that a message answers under `schema`; None where there is none."""
    names = frozenset(schema.get("required") or schema.get("properties") or ())
    for said in _candidates(message):
        found = _taken_out(said, names) if isinstance(said, str) else _unwrapped(said, names)
        if found is not None:
            return found
    return None


def _candidates(message: dict[str, Any]) -> Iterator[object]:
    """Where servers put it, the plainest first."""
    yield message.get("parsed")
    content = message.get("content")
    if isinstance(content, dict) and "type" not in content:
        yield content
    with suppress(Failed):
        yield parts_of(message)[0]
    calls = message.get("tool_calls")
    called = [one.get("function") for one in calls[:4] if isinstance(one, dict)] if isinstance(calls, list) else []
    for one in (*called, message.get("function_call")):
        if isinstance(one, dict):
            yield one.get("arguments")
    # A server that takes all of an answer without thoughts for one. What stands amid thoughts is no answer.
    thought = thought_of(message).strip()
    if thought.startswith(("{", "```")):
        yield thought


def _taken_out(text: str, names: frozenset[str]) -> Json | None:
    answer = without_reasoning(text)
    for whole in (text, answer):
        if (found := _read(whole)) is not None:
            return _unwrapped(found, names)
    last = None
    for found in _objects(answer):
        found = _unwrapped(found, names)
        last = found if found is not None and names & found.keys() else last
    return last


def _read(text: str) -> Any:
    """What a text is as JSON, with whole characters; None where it is none."""
    text = text.strip()
    if not text.startswith(("{", "[", '"')):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return _whole(_DECODER.decode(without_commas(text)))
    except (ValueError, RecursionError):
        return None


def _whole(found: object) -> Any:
    """The same with its halves of characters joined, or replaced where they are alone."""
    text = json.dumps(found, ensure_ascii=False)
    return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _objects(text: str) -> Iterator[object]:
    """Every object in a text that stands in no other, from the left."""
    text, at, other = without_commas(text), 0, ""
    for _ in range(_TRIES):
        at = text.find("{", at)
        if at < 0:
            return
        if not other and _NO_JSON.match(text, at):  # once: it takes as long as the text is
            other = as_json(text[at:])
            with suppress(ValueError, RecursionError):
                found, end = _DECODER.raw_decode(other)
                yield _whole(found)
                text, at = other, end  # the rest is written as this one is
                continue
        try:
            found, at = _DECODER.raw_decode(text, at)
            yield _whole(found)
        except (ValueError, RecursionError):
            at += 1


def _unwrapped(found: object, names: frozenset[str]) -> Json | None:
    """The object itself, out of an array of one, a text, or from under the one name that holds it."""
    if isinstance(found, str):
        found = _read(found)
    if isinstance(found, list):
        return _unwrapped(found[0], names) if len(found) == 1 and not isinstance(found[0], list) else None
    if not isinstance(found, dict):
        return None
    if names and not names <= found.keys():
        under = (_unwrapped(one, frozenset()) for one in [*found.values()][:8])
        inner = [one for one in under if one is not None and names <= one.keys()]
        if len(inner) == 1:
            return inner[0]
    return found

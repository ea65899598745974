"""In which form an endpoint takes a question, and what its refusals tell of that. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twin_sio.agent.model.refusals import Refusal
from twin_sio.config import Dialect
from twin_sio.domain import Json

Messages = Sequence[Mapping[str, Any]]

# The forms of each field, in the order in which they are tried.
_FORMS: Final[Mapping[str, tuple[Any, ...]]] = {
    "max_tokens": ("max_tokens", "max_completion_tokens", "none"),
    "temperature": (True, False),
    "stream": (True, False),
    "stream_options": (True, False),
    "response_format": ("json_schema", "json_object", "text"),
    "system": ("system", "developer", "user"),
    "tools": (True, False),
}
# How refusals call what a field is about.
_NAMES: Final[Mapping[str, re.Pattern[str]]] = {
    "max_tokens": re.compile(r"max(imum)?[_ ]?((completion|new|output)[_ ]?)?tokens"),
    "temperature": re.compile(r"temperature"),
    "stream_options": re.compile(r"stream_?options|include_?usage"),
    "response_format": re.compile(
        r"response_?format|json[ _]?(schema|object|mode)|response_?schema|structured[ _]outputs?|additional_?properties"
        r"|guided|grammar|text\.format|json_validate_failed|failed to generate json"
    ),
    "tools": re.compile(r"\btools?\b|tool[_ -]?(choice|calls?|use|calling)|function[_ -]?call"),
    "stream": re.compile(r"\bstream(ing)?\b(?!_)"),
    "system": re.compile(
        r"\bsystem\b[^.]{0,60}(role|message|prompt|instruction)|roles?\b[^.]{0,60}\b(system|developer)\b"
        r"|(only|be) '?\"?user['\"]?(,| and| or)|(value|role):? ['\"`]?(system|developer)"
        r"|developer (role|message|instruction)|(does not|doesn't) support '?\"?system|roles? must alternate"
        r"|messages[\[.]\d+\]?\.([a-z]+\.)?role|\brole\b[^.]{0,40}\b(one of|must be|should be|not (supported|allowed))"
    ),
}
_IN_TURNS: Final = re.compile(r"alternat|must be user|first message|start with")
# A server that fails may speak of anything, as of a broken stream: outside of these statuses it has to say that it does
# not take what it was asked.
_OF_THE_REQUEST: Final = frozenset({400, 404, 405, 415, 422, 501})
_AGAINST: Final = re.compile(
    r"not (be )?(support|implement|allow|permit|accept|enabl)|unsupported|unknown|unrecogni[sz]ed|invalid|requires?\b"
    r"|must\b|only\b|(cannot|can't|can not) be"
)
# One of the tools: its schema, its name. The endpoint takes tools; a tool may be one user's app's.
_ONE_TOOL: Final = re.compile(r"\b(tools|functions)(\[\d+|\.\d+)|function_parameters|schema for (function|tool)")
# What an earlier call came with, and must come back with: the endpoint takes tools all the same.
_OF_AN_EARLIER_CALL: Final = re.compile(r"thought_?signature|reasoning_content")
_NEVER: Final = frozenset({401, 402, 403, 407, 408, 425, 429})  # these are about no parameter

_JSON: Final = "Answer with one JSON object alone, and nothing around it. It follows this JSON schema"

Course = set[tuple[str, Any]]
"""What was tried for one question: (field, form)."""


@dataclass(slots=True)
class Question:
    """One question and its tries. `body` makes the request's body in a dialect."""

    body: Callable[[Dialect], dict[str, Any]]
    dialect: Dialect
    deadline: float
    tried: Course = field(default_factory=set)
    retries: int = 0
    own: set[str] = field(default_factory=set)
    """Fields of the dialect that were changed for this question alone."""

    def adapt(self, refusal: Refusal, fixed: Collection[str]) -> bool:
        """Take another form, after what was refused; false where there is none. The fields in `fixed` stay."""
        adapted = learnt(self.dialect, refusal, self.body(self.dialect), self.tried, fixed)
        if adapted is None:
            return False
        if adapted.tools != self.dialect.tools and is_of_one_tool(refusal):
            self.own.add("tools")
        self.dialect = adapted
        return True

    def learnt_beyond(self, before: Dialect) -> dict[str, Any]:
        """The forms that hold for the next questions, where those of `before` were refused."""
        return {
            name: form
            for name, form in self.dialect
            if (name, getattr(before, name)) in self.tried and name not in self.own
        }


def learnt(
    dialect: Dialect, refusal: Refusal, body: Mapping[str, Any], tried: Course, fixed: Collection[str]
) -> Dialect | None:
    """The dialect in which to ask again what `body` asked, in a form that was not tried; None where the refusal names
    nothing that can be changed. `tried` takes in what was refused; the fields in `fixed` are not changed."""
    if refusal.status in _NEVER or refusal.is_of_a_call or _OF_AN_EARLIER_CALL.search(refusal.message):
        return None
    if refusal.status not in _OF_THE_REQUEST and not _AGAINST.search(refusal.message):
        return None
    for name in _named(refusal, [name for name in _asked(body) if name not in fixed]):
        tried.add((name, getattr(dialect, name)))
        forms = [form for form in _FORMS[name] if (name, form) not in tried]
        # It wants both sides in turns: any role of its own for the instructions would be refused as well.
        if name == "system" and _IN_TURNS.search(refusal.message):
            forms = [form for form in forms if form == "user"]
        if forms:
            return dialect.model_copy(update={name: forms[0]})
    return None


def is_of_one_tool(refusal: Refusal) -> bool:
    """Whether it refuses one of the tools that were offered, and says nothing of others."""
    return any(_ONE_TOOL.search(said) is not None for said in (refusal.param, refusal.code, refusal.message))


def _asked(body: Mapping[str, Any]) -> list[str]:
    """The fields of a dialect that a request makes use of."""
    found = [name for name in ("temperature", "stream", "stream_options", "response_format", "tools") if name in body]
    if "max_tokens" in body or "max_completion_tokens" in body:
        found.append("max_tokens")
    if body["messages"] and body["messages"][0]["role"] != "user":
        found.append("system")
    return found


def _named(refusal: Refusal, fields: Sequence[str]) -> list[str]:
    """The fields that a refusal is about, the likeliest first."""
    # Some endpoints name the parameter; else the first one that their text speaks of is meant.
    if found := [name for name in fields if refusal.param and _NAMES[name].match(refusal.param)]:
        return found
    said = f"{refusal.code} {refusal.message}"
    places = {name: place.start() for name in fields if (place := _NAMES[name].search(said))}
    return sorted(places, key=lambda name: places[name])


def with_learnt(dialect: Dialect, learnt: Json) -> Dialect:
    """What was set, and for the rest what was learnt; what an older version learnt and this one does not know, not."""
    fields = {name: value for name, value in learnt.items() if name in Dialect.model_fields}
    try:
        return Dialect.model_validate({**fields, **dialect.model_dump(exclude_unset=True)})
    except ValueError:
        return dialect


def body_of(dialect: Dialect, messages: Messages, max_tokens: int) -> dict[str, Any]:
    """What every request has in common."""
    body: dict[str, Any] = {"messages": _instructed(messages, dialect.system)}
    if dialect.max_tokens != "none":
        body[dialect.max_tokens] = max_tokens
    return body


def asking_for_json(dialect: Dialect, messages: Messages, schema: Json, name: str, max_tokens: int) -> dict[str, Any]:
    """The body of a request for an object under `schema`; where that cannot be enforced, it is asked for in words."""
    if dialect.response_format != "json_schema":
        wanted = f"{_JSON} ({name}): {json.dumps(schema, separators=(',', ':'))}"
        first = dict(messages[0])
        if first["role"] == "system":
            messages = [{**first, "content": f"{first['content']}\n\n{wanted}"}, *messages[1:]]
        else:
            messages = [{"role": "system", "content": wanted}, *messages]
    body = body_of(dialect, messages, max_tokens)
    if dialect.temperature:
        body["temperature"] = 0
    if dialect.response_format == "json_schema":
        shape = {"name": name, "strict": True, "schema": dict(schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": shape}
    elif dialect.response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def _instructed(messages: Messages, role: str) -> list[dict[str, Any]]:
    """The messages as strict chat templates take them: the instructions first, under the role that the endpoint takes,
    then the user, and both sides in turns. What one side said in a row is one message; an answer before the user's
    first words is left out."""
    instructions = "\n\n".join(one["content"] for one in messages if one["role"] == "system")
    turns: list[dict[str, Any]] = []
    for one in messages:
        if one["role"] == "system" or (not turns and one["role"] != "user"):
            continue
        # Each result stands by its call: these are never put together.
        if one["role"] == "tool" or "tool_calls" in one:
            turns.append(dict(one))
        elif turns and turns[-1]["role"] == one["role"]:
            turns[-1]["content"] += f"\n\n{one['content']}"
        else:
            turns.append(dict(one))
    if not instructions:
        return turns
    if role != "user":
        return [{"role": role, "content": instructions}, *turns]
    first = f"{instructions}\n\n{turns[0]['content']}" if turns else instructions
    return [{"role": "user", "content": first}, *turns[1:]]

"""The forms in which models are trained to write calls of tools, and what stands in them. Pure.

JSON (Qwen, Hermes, Llama, Mistral, Granite); tags for the function and each of its parameters (Qwen's coder, Seed,
MiniMax); a name with keys and values in tags (GLM); a name, a separator and JSON (Kimi, DeepSeek, Mistral, gpt-oss);
Python (Llama, LFM, Olmo). Some begin with no mark: such a call is an answer of its own, from its first character on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from twin_sio.agent.model.calls import MAX_CALLS
from twin_sio.agent.model.relaxed_json import as_json

MARKS: Final[Mapping[str, str]] = {
    "<tool_call>": "</tool_call>",
    "<seed:tool_call>": "</seed:tool_call>",
    "<minimax:tool_call>": "</minimax:tool_call>",
    "<function=": "</function>",
    "[TOOL_CALLS]": "",
    "<|python_tag|>": "",
    "<|tool_call|>": "<|/tool_call|>",
    "<|tool_call_start|>": "<|tool_call_end|>",
    "<|tool_calls_section_begin|>": "<|tool_calls_section_end|>",
    "<｜tool▁calls▁begin｜>": "<｜tool▁calls▁end｜>",
    "<|end|><|start|>assistant<|channel|>commentary to=functions.": "<|call|>",
    "<|start|>assistant<|channel|>commentary to=functions.": "<|call|>",
    "<|channel|>commentary to=functions.": "<|call|>",
}
"""What begins calls, and what ends them; where nothing does they are the rest of the answer."""

_LONGEST: Final = max(map(len, MARKS))
_FIRST: Final = re.compile(r"[<\[]")  # with one of which every mark begins
_FUNCTION: Final = "<function="
_HARMONY: Final = "to=functions."  # gpt-oss: `harmony` reads it at the head of an answer
_INSIDE: Final = (_FUNCTION, "<invoke name=", "<|tool_call_begin|>", "<｜tool▁call▁begin｜>")
_NAME: Final = re.compile(r"[\w.-]{1,64}")
_BLANKS_MAX: Final = 200  # behind a mark or a name, before what tells whether it is a call
_NAME_IN_JSON: Final = re.compile(r'"name"\s*:\s*"([^"\\\s]{1,64})"')
_TAGGED: Final = re.compile(r'<(function|invoke)(?:=|\s+name=)"?([^">\s]{1,64})"?\s*>(.*?)(?:</\1>|\Z)', re.DOTALL)
_PARAMETER: Final = re.compile(
    r'<parameter(?:=|\s+name=)"?([^">\s]{1,200}+)"?+[^>]{0,100}+>(.*?)(?:</parameter>|(?=<parameter)|\Z)', re.DOTALL
)
_KEYED: Final = re.compile(r"<arg_key>([^<]{0,200}+)</arg_key>\s{0,20}<arg_value>(.*?)(?:</arg_value>|\Z)", re.DOTALL)
_SEPARATED: Final = re.compile(
    r"(?<![\w.-])(?:functions\.)?([\w.-]{1,64}?)(?::\d{1,9})?\s{0,20}"
    r"(?:(?:<\|constrain\|>)?json)?(?:<｜tool▁sep｜>|<\|message\|>|<\|tool_call_argument_begin\|>|\[ARGS\]|```json)\s{0,20}(?=\{)"
)
_DECODER: Final = json.JSONDecoder(strict=False)
_UNMARKED: Final = (
    '{"name":"$"', '[{"name":"$"', '{"type":"function","name":"$"', '{"type":"function","function":{"name":"$"',
    "[$(",
)  # fmt: skip
"""How an answer begins that is a call, without blanks and fence; `$` is a tool's name."""
_FENCE: Final = re.compile(r"\s*+```\w{0,20}+\s*+")
_CALL_KEYS: Final = frozenset({"id", "type", "function", "name", "arguments", "parameters"})
_UNMARKED_MAX: Final = 300  # characters within which such an answer shows what it is
_NAMELESS: Final = "unknown"  # the model is told that there is no such tool

_PYTHON_CALL: Final = re.compile(r"\s*+([A-Za-z_][\w.-]{0,63}+)\(")
_BETWEEN_CALLS: Final = re.compile(r"\s*+[,;]?\s*+")
_PYTHON_PIECE: Final = re.compile(
    # A string that was cut off goes on to the end.
    r""""(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z)|\b([A-Za-z_]\w{0,63}+)\s{0,20}+=|[()\[\]{}]""",
    re.DOTALL,
)
_AS_LIST: Final = {"(": "[", ")": "]"}

Call = dict[str, Any]
"""A call, as the API has it: `{"function": {"name", "arguments"}}`."""


def begins(mark: str, behind: str, names: Sequence[str]) -> bool | None:
    """Whether a call of the tools `names` follows a mark, which a text may also speak of; None while that cannot be
    told."""
    if mark == _FUNCTION:
        found = _NAME.match(behind)
        if found is None or found.end() == len(behind):
            return None if len(behind) <= 64 and (found or not behind) else False
        return found[0] in names and behind[found.end()] == ">"
    if mark.endswith(_HARMONY):
        found = _NAME.match(behind)
        if found is None or found[0] not in names or "<|message|>" not in behind:
            return None if len(behind) <= _BLANKS_MAX else False
        return True
    said = behind.lstrip()
    if not said:
        return None if len(behind) <= _BLANKS_MAX else False
    if said[0] in "{[":
        return True
    if (inside := _starts(said, _INSIDE)) is not False:
        return inside
    if (found := _NAME.match(said)) is None:
        return False
    rest = said[found.end() :].lstrip()
    if not rest:
        return None if len(said) <= 64 + _BLANKS_MAX else False
    if rest[0] == "(":
        return found[0].removesuffix(".call") in names
    return _starts(rest, ("<arg_key>", "[ARGS]", *([MARKS[mark]] if MARKS[mark] and found[0] in names else ())))


def begins_unmarked(text: str, names: Sequence[str]) -> bool | None:
    """Whether an answer begins with a call of the tools `names` that no mark precedes; None while that cannot be
    told."""
    said = "".join(_without_fence(text[:_UNMARKED_MAX]).split())
    openings = [opening.replace("$", name) for name in names for opening in _UNMARKED]
    if said.startswith(tuple(openings)):
        return True
    if len(text) > _UNMARKED_MAX:
        return False
    may_be = any(opening.startswith(said) for opening in openings) or "```".startswith(said)
    return None if may_be else False


def _without_fence(text: str) -> str:
    fence = _FENCE.match(text)
    return text[fence.end() :] if fence is not None else text


def unmarked_calls(written: str) -> list[Call]:
    """The calls that an answer is made of; none where it is anything else, or was cut."""
    text = _without_fence(written).strip().removesuffix("```").strip()
    if (in_python := _python_calls(text)) is not None:
        return in_python
    made: list[Call] = []
    while text and len(made) <= MAX_CALLS:  # Llama writes several with a semicolon between
        try:
            read, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            return []
        if not all(isinstance(one, dict) and one.keys() <= _CALL_KEYS for one in _listed(read)):
            return []
        made += _calls_of(read)
        text = text[end:].lstrip("; \n")
    return made


def _starts(said: str, with_one_of: Sequence[str]) -> bool | None:
    if said.startswith(tuple(with_one_of)):
        return True
    return None if any(one.startswith(said) for one in with_one_of) else False


def unfinished(text: str, marks: Collection[str]) -> int:
    """How many of the last characters of a text may begin one of the marks, of calls or of channels."""
    at = max(0, len(text) - _LONGEST)
    while place := _FIRST.search(text, at):
        if any(mark.startswith(text[place.start() :]) for mark in marks):
            return len(text) - place.start()
        at = place.end()
    return 0


def calls_in(written: str, tools: Sequence[Mapping[str, Any]]) -> list[Call]:
    """The calls between two marks. What cannot be read is one all the same: its arguments are refused, and the model is
    told why."""
    try:
        read = json.loads(written, strict=False)
    except (ValueError, RecursionError):
        in_python = _python_calls(written)
        return _otherwise(written, tools) if in_python is None else in_python
    return _calls_of(read)


def _calls_of(read: Any) -> list[Call]:
    made = []
    for one in _listed(read):
        call = one.get("function", one) if isinstance(one, dict) else {}
        call = call if isinstance(call, dict) else {}
        made.append(_call(call.get("name"), call.get("arguments", call.get("parameters"))))
    return made


def _listed(read: Any) -> list[Any]:
    return read if isinstance(read, list) else [read]


def _otherwise(written: str, tools: Sequence[Mapping[str, Any]]) -> list[Call]:
    made = []
    for tagged in islice(_TAGGED.finditer(written), MAX_CALLS + 1):
        inner = tagged[3].strip()
        arguments: Any = inner if inner.startswith("{") else _values(tagged[2], _PARAMETER.findall(inner), tools)
        made.append(_call(tagged[2], arguments))
    for separated in () if made else islice(_SEPARATED.finditer(written), MAX_CALLS + 1):
        try:
            arguments = _DECODER.raw_decode(written, separated.end())[0]
        except (ValueError, RecursionError):
            arguments = written[separated.end() :].strip()
        made.append(_call(separated[1], arguments))
    if not made and (name := _NAME.match(written.strip())):
        pairs = _KEYED.findall(written)
        if pairs or name[0] == written.strip():
            made.append(_call(name[0], _values(name[0], pairs, tools)))
    if made:
        return made
    found = _NAME_IN_JSON.search(written)
    return [_call(found[1] if found else _NAMELESS, written.strip())]


def _values(name: str, pairs: Sequence[tuple[str, str]], tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Values that stand in tags: texts as they are, what is none as JSON."""
    functions = [tool.get("function") or {} for tool in tools]
    schema = next((one.get("parameters") or {} for one in functions if one.get("name") == name), {})
    known = schema.get("properties") or {}
    made: dict[str, Any] = {}
    for key, value in pairs:
        text = value.removeprefix("\n").removesuffix("\n")
        expected = known.get(key.strip())
        made[key.strip()] = text if isinstance(expected, dict) and expected.get("type") == "string" else _read(text)
    return made


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _call(name: object, arguments: object) -> Call:
    return {"function": {"name": name if isinstance(name, str) and name else _NAMELESS, "arguments": arguments}}


def _python_calls(text: str) -> list[Call] | None:
    """The calls that a text is made of, as `[look(city="Rome", days=2), weigh(x=None)]`; None where it is anything
    else, or was cut. It takes as long as the text is."""
    text = text.strip()
    if text.startswith("["):
        if not text.endswith("]"):
            return None
        text = text[1:-1]
    calls: list[Call] = []
    at = 0
    while at < len(text):
        named = _PYTHON_CALL.match(text, at)
        if named is None or len(calls) > MAX_CALLS:
            return None
        pieces, at = _python_arguments(text, named.end())
        try:
            arguments = json.loads(as_json(f"{{{''.join(pieces)}}}"), strict=False)
        except (ValueError, RecursionError):
            return None
        calls.append(_call(named[1].removesuffix(".call"), arguments))
        between = _BETWEEN_CALLS.match(text, at)
        at = between.end() if between is not None else at
    return calls or None


def _python_arguments(text: str, begin: int) -> tuple[list[str], int]:
    """What stands between the brackets of a call, its names as keys of JSON; and where the call ends. Without an end it
    is no JSON."""
    pieces, at, depth = [], begin, 0
    for found in _PYTHON_PIECE.finditer(text, begin):
        pieces.append(text[at : found.start()])
        piece, at = found[0], found.end()
        if found[1] is not None:
            pieces.append(f'"{found[1]}":' if not depth else piece)
            continue
        if piece == ")" and not depth:
            return pieces, at
        depth += 1 if piece in ("(", "[", "{") else -1 if piece in (")", "]", "}") else 0
        pieces.append(_AS_LIST.get(piece, piece))
    return ["{"], len(text)

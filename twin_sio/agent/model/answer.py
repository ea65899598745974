"""What the events of one answer add up to: its text, apart from the reasoning before it, and how it ended. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from twin_sio.agent.model.call_forms import Call
from twin_sio.agent.model.calls import Calls, RequestedCall
from twin_sio.agent.model.end_tokens import EndTokens
from twin_sio.agent.model.failures import Failed, in_place_of_answer, of_object
from twin_sio.agent.model.reasoning import Head, LoneClosingTag
from twin_sio.agent.model.written_calls import WrittenCalls
from twin_sio.agent.text import encodable
from twin_sio.domain import Cut, Json
from twin_sio.errors import ModelFiltered, ModelNoAnswer, ModelUnavailable

_REASONING: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
# How an answer has ended, by what the words of servers for it have in common; the first that fits. What fits none is
# a whole answer's end.
_BROKEN: Final = re.compile(r"error|abort|fail|insufficient|network|malformed|unexpected|cancel|time_?d?_?out")
_ENDS: Final[tuple[tuple[re.Pattern[str], Cut], ...]] = (
    (
        re.compile(r"filter|safety|recitation|block|prohibited|spii|sensitive|guardrail|refusal|moderat|toxic|risk"),
        "content_filter",
    ),
    (re.compile(r"length|max|limit|truncat|context"), "length"),
)
_HALF: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer has ended. `reason`: `stop` where it is whole, else what cut it short; `usage`: the endpoint's token
    counts where it reports them; `calls`: the tools that it asks to be run before it goes on; `not_said`: how many
    of the characters before were what the model thinks, as nobody could know; `reasoning`: what goes back with the
    calls as `reasoning_content`, where it came so."""

    reason: Literal["stop"] | Cut
    usage: Json | None
    calls: tuple[RequestedCall, ...] = ()
    not_said: int = 0
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of what the model thinks before it answers."""

    text: str


def choice_of(event: dict[str, Any]) -> dict[str, Any]:
    """The first choice; empty where there is none, as in the event that carries the usage."""
    choices = event.get("choices") or [{}]
    first = choices[0] if isinstance(choices, list) else choices
    if first is None:
        return {}
    if not isinstance(first, dict):
        raise Failed(again=False)
    return first


def parts_of(said: dict[str, Any]) -> tuple[str, bool]:
    """The text of a message or a piece of one, and whether it holds reasoning. A refusal is text, too."""
    content = said.get("content")
    reasons = any(said.get(name) for name in _REASONING)
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        texts: list[str] = []
        for part in content:
            texts.append(_part(part))
            reasons = reasons or (not texts[-1] and isinstance(part, dict) and _thinks(part))
        content = "".join(texts)
    refusal = said.get("refusal")
    text = (content or "") if isinstance(content or "", str) else None
    if text is None or not isinstance(refusal or "", str):
        raise Failed(again=False)
    return text or refusal or "", reasons


def thought_of(said: object) -> str:
    """The text of the reasoning in a message or a piece of one, in whichever of their fields servers put it."""
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        return "".join(map(thought_of, said))
    if not isinstance(said, dict):
        return ""
    for name in (*_REASONING, "text", "summary"):
        if text := thought_of(said.get(name)):
            return text
    content = said.get("content")
    parts = content if isinstance(content, list) else []
    return "".join(thought_of(part) for part in parts if isinstance(part, dict) and _thinks(part))


def _thinks(part: dict[str, Any]) -> bool:
    return part.get("type") in ("thinking", "reasoning")


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or _thinks(part):
        return ""
    for name in ("text", "refusal", "content"):
        found = part.get(name)
        if isinstance(found, dict):  # the Assistants' {"text": {"value": …}}
            found = found.get("value")
        if isinstance(found, str):
            return found
    return ""


def end_of(reason: object) -> Literal["stop"] | Cut | None:
    """How a `finish_reason` says that it ended (`Finished.reason`); None where it does not. Raises `Failed` where it
    says that it broke off."""
    if not reason or not isinstance(reason, str):
        return None
    word = reason.strip().lower()
    if _BROKEN.search(word):
        raise Failed(again=True, error="BrokenOff")
    if word in ("", "null", "none"):
        return None
    return next((cut for words, cut in _ENDS if words.search(word)), "stop")


class Answer:
    """One answer as it comes; `shows_thoughts`: what the model thinks is kept for `thought`; `tools`: those it was
    offered, of which calls that are written into the text are calls; `unmarked`: it begins with what the model thinks,
    whose first mark is missing."""

    def __init__(
        self, *, shows_thoughts: bool = False, tools: Sequence[Mapping[str, Any]] = (), unmarked: bool = False
    ) -> None:
        self.begun = False
        """Whether there was text."""
        self.reasoned = False
        """Whether there was a sign of reasoning."""
        self.reason: Literal["stop"] | Cut | None = None
        self.usage: Json | None = None
        self.counted_last = False
        """Whether the usage came by itself after the text, as at an end."""
        self.characters = 0
        self.calls: Calls | None = None
        """The tools' calls, from the first sign of one on."""
        self.thought = ""
        """What was thought since it was last emptied."""
        self._shows_thoughts = shows_thoughts
        self._plain = False  # what comes is text, of whole characters
        self._half = ""
        self._unmarked = unmarked
        self._is_marked = False  # the server tells thoughts from text, or the model does
        self._head = Head(unmarked=unmarked)
        self._lone: LoneClosingTag | None = LoneClosingTag()
        self._found_lone_tag = False
        self._not_said = 0
        self._tools = tools
        self._reasoning: list[str] = []  # with tools, what came as `reasoning_content`
        self._written = WrittenCalls(tools) if tools else None
        self._end_tokens = EndTokens()
        self._is_in_pieces = False  # what a whole message says behind them was said
        self._has_choices = False
        self._instead: dict[str, Any] | None = None  # what came in place of an answer

    def take(self, event: dict[str, Any]) -> str:
        """The text that an event adds; empty where it adds none."""
        if (usage := event.get("usage")) is not None and isinstance(usage, dict):
            self.usage = usage
            self.counted_last = self.begun and not event.get("choices")
        choice = choice_of(event)
        if choice:
            self._has_choices = True
        elif "choices" not in event or event["choices"] is None:
            self._instead = event
        if (reason := choice.get("finish_reason")) is not None:
            if choice.get("error"):
                raise of_object({"error": choice["error"]})
            self.reason = end_of(reason) or self.reason
        said = choice.get("delta") or (choice.get("message") if not self._is_in_pieces else None)
        if not isinstance(said, dict):
            if said or not isinstance(text := choice.get("text") or "", str):
                raise Failed(again=False)
            reasons = False
        elif type(text := said.get("content")) is not str or not text or len(said) > 1 + ("role" in said):
            text, reasons = parts_of(said)
            if reasons:
                self.reasoned = self._is_marked = True
                self._head.expect_marks()
            if reasons and self._shows_thoughts:
                self.thought += thought_of(said)
            if self._tools and isinstance(thought := said.get("reasoning_content"), str):
                self._reasoning.append(thought)
            self._take_calls(said)
            self._is_in_pieces = self._is_in_pieces or bool(text or self.calls)
        else:
            self._is_in_pieces = True
        if not text:
            return ""
        if not (self._plain and (text.isascii() or text.isprintable())):  # half a character is not printable
            text = self._cleaned(text)
        if (lone := self._lone) is not None:
            if self._is_marked:
                self._lone, text = None, lone.end(has_calls=False) + text
            else:
                text = lone.take(text)
                if lone.found:
                    self._on_lone_tag(lone)
                    # Nothing that stood before it was text, or a call.
                    self.calls, self._end_tokens = None, EndTokens()
                    self._written = WrittenCalls(self._tools) if self._tools else None
        if self._written is not None:
            text = self._written.take(text)
            self._add_calls(self._written.found)
        if self._end_tokens.held or "<" in text or "[" in text:
            text = self._end_tokens.take(text)
        self.characters += len(text)
        return text

    def _take_calls(self, said: dict[str, Any]) -> None:
        if said.get("tool_calls") or said.get("function_call"):
            self.calls = self.calls or Calls()
            self.reasoned = True  # a sign of life: what it asks for may be long
            self.calls.take(said)

    def _on_lone_tag(self, lone: LoneClosingTag) -> None:
        self._lone, self._found_lone_tag = None, True
        self.reasoned, self._not_said = True, self.characters
        self.thought += lone.thought if self._shows_thoughts else ""

    def _add_calls(self, found: list[Call]) -> None:
        """Take over calls that were found in the text. Where it was offered no tools they are none."""
        if found and self._written is not None:
            self.calls = self.calls or Calls()
            for nth, call in enumerate(found, self.calls.count):
                self.calls.take({"tool_calls": [{"id": f"written-{nth}", **call}]})
        found.clear()

    def end(self) -> str:
        """The text that was held back, for what might have come after it."""
        text = self._head.end() if not self._head.is_over else ""
        self._take_thoughts()
        text = _HALF.sub("\ufffd", text + self._half)
        self._half = ""
        self.begun = self.begun or bool(text.strip())
        if (lone := self._lone) is not None:
            text = lone.end(has_calls=self.calls is not None) + text
            if lone.found:
                self._on_lone_tag(lone)
        if self._written is not None:
            text = self._written.take(text) + self._written.end()
            self._add_calls(self._written.found)
        text = self._end_tokens.take(text) if self.begun else ""
        text += self._end_tokens.end(has_calls=self.calls is not None)
        self.characters += len(text)
        return text

    def finished(self, *, announced: bool, request_id: str) -> Finished:
        """How it ended, once nothing more comes. Raises `Failed` where it was cut off, or is none: what was paid for
        is not asked for again. `announced`: the end was, if not by a reason."""
        calls = self.calls.all() if self.calls is not None else ()
        if self.characters or calls:
            if self.reason is None and not (announced or self.counted_last):
                raise Failed(again=False, error="CutOff", request_id=request_id)
            reasoning = encodable("".join(self._reasoning)) if calls else ""
            return Finished(self.reason or "stop", self.usage, calls, self._not_said, reasoning)
        if (instead := self.instead()) is not None:
            raise instead
        paid = self.reasoned or self.reason is not None
        kind = ModelFiltered if self.reason == "content_filter" else ModelNoAnswer if paid else ModelUnavailable
        raise Failed(kind, again=not paid, error="NoText", status=200, request_id=request_id)

    def reasoning(self) -> Literal["marked", "unmarked"] | None:
        """What it tells, at its end, of how the model's reasoning begins; None where that is nothing, as of one that
        may have been cut before the end of it."""
        if self._head.found_unmarked or self._found_lone_tag:
            return "unmarked"
        is_whole = self.characters > 0 and self.reason in (None, "stop")
        return "marked" if self._unmarked and is_whole else None

    def instead(self) -> Failed | None:
        """What an object means that came in place of an answer, under a status of success."""
        if self._has_choices or self._instead is None:
            return None
        return in_place_of_answer(self._instead)

    def _cleaned(self, text: str) -> str:
        """`text` with whole characters, and without the reasoning at its head."""
        text = self._half + text
        self._half = ""
        if _HALF.search(text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
            if "\ud800" <= text[-1] <= "\udbff":
                text, self._half = text[:-1], text[-1]
            text = _HALF.sub("\ufffd", text)
        if not self._head.is_over:
            text = self._head.take(text)
            self._take_thoughts()
            self.begun = self.begun or bool(text)
        self._plain = self._head.is_over and not self._half
        return text

    def _take_thoughts(self) -> None:
        head = self._head
        self.reasoned = self.reasoned or head.reasoned
        self._is_marked = self._is_marked or head.reasoned
        if self._shows_thoughts:
            self.thought += head.thought
        head.thought = ""
        self._add_calls(head.calls)

"""One run of an AG-UI client: what it asks for as our events, and what comes of it as AG-UI's. Pure: no sockets.

A run follows the answer to one message of the user, the last of its input. It ends with that answer, with a failure, or
with what the answer waits for, as interrupts; a later run decides those and goes on. What the client has of the answer
is in its input, so that a run that comes again tells the rest only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Final

import orjson
from ag_ui.core import (
    BaseEvent,
    Context,
    CustomEvent,
    Interrupt,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedOutcome,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from pydantic.alias_generators import to_camel

from twin_sio.clock import NewId
from twin_sio.domain import Json
from twin_sio.errors import InvalidMessage
from twin_sio.protocol import is_id
from twin_sio.transport.ag_ui_reasoning import ReasoningEvents

REPLACED = "twin.text_replaced"
"""The name of the custom event for text that an attempt took back: its value has the `messageId` of that text."""
_PARTS_MAX: Final = 30_000
"""Keys, objects and lists of a body, which is parsed in one step of the event loop: 20 ms at most."""
_AT_MOST: Final = {"messages": 10_000, "context": 200, "resume": 64}
"""Elements of a list: an answer waits for few decisions."""
_OVER = frozenset({"done", "failed", "unknown"})
_ANSWER_SCHEMA = {
    "type": "object",
    "properties": {
        "decision": {"enum": ["approve", "reject", "edit"]},
        "arguments": {"type": "object"},
        "comment": {"type": "string"},
    },
    "required": ["decision"],
}


class RunInput(BaseModel):
    """Of a `RunAgentInput` what is used; the messages are looked at one by one, because a client sends all of them."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)

    thread_id: str
    run_id: str
    # Without `FailFast` each of a million wrong elements would be an error, and all of them be made on the event loop.
    messages: Annotated[list[dict[str, Any]], FailFast()]
    context: Annotated[list[Context], FailFast()] = Field(default_factory=list)
    forwarded_props: Any = None
    resume: Annotated[list[ResumeEntry], FailFast()] = Field(default_factory=list)

    @classmethod
    def read(cls, body: bytes) -> RunInput:
        """Raises `InvalidMessage` with the field's path."""
        if sum(map(body.count, (b'":', b"{", b"["))) > _PARTS_MAX:
            raise InvalidMessage("The body has too many parts: send the newest messages only.", field="body")
        try:
            value = orjson.loads(body)
            fields = {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value
            for name, most in _AT_MOST.items():  # pydantic looks at all of them before it counts
                if isinstance(fields, dict) and isinstance(fields.get(name), list) and len(fields[name]) > most:
                    raise InvalidMessage(f"There are more than {most}.", field=name)
            read = cls.model_validate(fields)
            # What is handed on is written as JSON again, which takes less depth than reading it.
            orjson.dumps([read.forwarded_props, [entry.payload for entry in read.resume]])
            return read
        except orjson.JSONDecodeError:
            raise InvalidMessage("The body is no JSON.", field="body") from None
        except orjson.JSONEncodeError:
            raise InvalidMessage("The body is nested too deep.", field="body") from None
        except ValidationError as error:
            path = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
            raise InvalidMessage("The body is no RunAgentInput.", field=path[:200] or "body") from None


class AgUiRun:
    """Takes our envelopes, gives AG-UI's events. `requests` are the events for the gateway, after each step."""

    def __init__(self, asked: RunInput, new_id: NewId) -> None:
        """Raises `InvalidMessage` where there is no message of the user with an id and a text."""
        self._new_id = new_id
        self.is_over = False
        self.requests: deque[Json] = deque()
        self._asked = asked.model_copy(update={"messages": []})  # the whole conversation is not kept
        after = max((n for n, one in enumerate(asked.messages) if one.get("role") == "user"), default=-1)
        self.message_id, self._text = _said(asked.messages[after] if after >= 0 else {})
        self._is_stored = False  # the message was received
        self._failure: Json | None = None  # the `error` before an answer that failed
        self._undecided: set[str] = set()  # ids of the approvals that were sent and are not received
        self._looks: set[str] = set()  # ids of the questions for what the answer waits for
        # What the client has of the answer, from earlier runs and this one: its text, and its tool calls.
        self._shown = "".join(_texts(asked.messages[after + 1 :]))
        self._calls = set(_strings(call.get("id") for one in asked.messages for call in _calls(one)))
        self._results = set(_strings(one.get("toolCallId") for one in asked.messages if one.get("role") == "tool"))
        self._open_calls: set[str] = set()
        self._steps: dict[str, str] = {}  # steps of a graph that run: by id, their name
        self._reasoning = ReasoningEvents()
        # Of the running generation: its id, text and next chunk; and the text message that is open for it.
        self._generation, self._so_far, self._next = "", "", 0
        self._open_text: str | None = None
        self._texts = 0  # text messages of this run

    # -- what is asked for ---------------------------------------------------------------------------------------------

    def _request(self, type: str, payload: Json, message_id: str) -> None:
        metadata = {"message_id": message_id, "conversation_id": self._asked.thread_id}
        self.requests.append({"type": type, "payload": payload, "metadata": metadata})

    def _answer_text(self) -> None:
        payload: dict[str, Any] = {"text": self._text}
        if self._asked.context:
            payload["context"] = {one.description: one.value for one in self._asked.context}
        props = self._asked.forwarded_props
        if isinstance(props, dict) and "mode" in props:
            payload["mode"] = props["mode"]
        self._request("user_message", payload, self.message_id)

    def _decide(self) -> None:
        for entry in self._asked.resume:
            message_id = self._new_id()
            self._undecided.add(message_id)
            self._request("approval", _decision(entry), message_id)

    def _look(self) -> None:
        """Ask what the answer waits for: only the store knows of all of it."""
        message_id = self._new_id()
        self._looks.add(message_id)
        self._request("history", {"limit": 1}, message_id)

    # -- what comes ----------------------------------------------------------------------------------------------------

    def take(self, envelope: Json) -> list[BaseEvent]:
        """The events that an envelope of ours becomes; none where it is about something else."""
        return [] if self.is_over else list(self._take(envelope["type"], envelope["payload"], envelope["metadata"]))

    def _take(self, type: str, payload: Json, about: Json) -> Iterator[BaseEvent]:
        is_mine = about.get("in_response_to") == self.message_id
        match type:
            case "session_ready":
                yield RunStartedEvent(thread_id=self._asked.thread_id, run_id=self._asked.run_id)
                self._decide()
                if not self._undecided:
                    self._answer_text()
            case "message_received":
                self._received(payload["message_id"], payload["status"])
            case "error":
                yield from self._refused(payload, about.get("in_response_to"))
            case "history":
                waiting = [one for one in payload.get("approvals") or () if one["in_response_to"] == self.message_id]
                if waiting:
                    yield from self._interrupt(waiting)
            case "approval_resolved":
                if payload["approval_id"] in {entry.interrupt_id for entry in self._asked.resume}:
                    self.message_id = about.get("in_response_to", self.message_id)
            case "approval_requested" if is_mine:
                self._look()
            case "twin_activity" if is_mine:
                yield from self._step(payload)
            case "twin_reasoning_chunk" if is_mine:
                yield from self._reasoning.chunk(payload)
            case "twin_message_chunk" if is_mine:
                yield from self._chunk(payload)
            case "twin_message" if is_mine or self.message_id in payload.get("steered_by", ()):
                yield from self._finish(payload, about)
            case _:
                pass

    def _received(self, message_id: str, status: str) -> None:
        if message_id in self._undecided:
            self._decided(message_id)
        elif message_id == self.message_id:
            self._is_stored = True
            if status == "duplicate":  # its answer may be there, be made, or wait for its user
                self._look()

    def _decided(self, message_id: str) -> None:
        """Once all decisions are in, the message again: if the answer is there already, it comes."""
        self._undecided.discard(message_id)
        if not self._undecided:
            self._answer_text()

    def _refused(self, error: Json, in_response_to: str | None) -> Iterator[BaseEvent]:
        if in_response_to in self._undecided and error["code"] == "already_decided":
            self._decided(in_response_to or "")
        elif in_response_to in self._undecided | self._looks or (
            in_response_to == self.message_id and not self._is_stored
        ):
            yield from self.fail(error["code"], error["message"])
        elif in_response_to == self.message_id:
            self._failure = error

    # -- text ----------------------------------------------------------------------------------------------------------

    def _chunk(self, piece: Json) -> Iterator[BaseEvent]:
        if piece["generation_id"] != self._generation:
            self._generation, self._so_far, self._next = piece["generation_id"], "", 0
        first = piece.get("first_chunk_index", piece["chunk_index"])
        index = piece["chunk_index"]
        if index < self._next or first not in (0, self._next):
            return
        self._so_far = piece["text"] if first == 0 else self._so_far + piece["text"]
        self._next = index + 1
        if not self._shown.startswith(self._so_far):
            yield from self._show(self._generation, self._so_far)

    def _show(self, generation_id: str, text: str) -> Iterator[BaseEvent]:
        """Bring what the client has of the answer to `text`. AG-UI takes no text back: where another attempt begins
        otherwise, that is said, and a new message begins."""
        if not text.startswith(self._shown):
            replaced = self._open_text
            yield from self._end_text()
            yield CustomEvent(name=REPLACED, value={"messageId": replaced})
            self._shown = ""
        new = text[len(self._shown) :]
        if not new:
            return
        yield from self._reasoning.end()
        if self._open_text is None:
            self._open_text = f"{generation_id}.{self._texts}" if self._texts else generation_id
            self._texts += 1
            yield TextMessageStartEvent(message_id=self._open_text, role="assistant")
        yield TextMessageContentEvent(message_id=self._open_text, delta=new)
        self._shown = text

    def _end_text(self) -> Iterator[BaseEvent]:
        if self._open_text is not None:
            yield TextMessageEndEvent(message_id=self._open_text)
            self._open_text = None

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _step(self, step: Json) -> Iterator[BaseEvent]:
        if step["kind"] == "node":
            yield from self._node(step)
            return
        call_id = step["step_id"]
        if call_id not in self._calls:
            yield from self._start_call(call_id, step["name"])
        if step["state"] in _OVER and call_id not in self._results:
            yield from self._end_call(call_id, {})
            self._results.add(call_id)
            content = step.get("summary") or step["state"]
            yield ToolCallResultEvent(message_id=f"{call_id}.result", tool_call_id=call_id, content=content)

    def _start_call(self, call_id: str, name: str) -> Iterator[BaseEvent]:
        yield from self._reasoning.end()
        yield from self._end_text()  # what is said after it is a message of its own, in its place
        self._calls.add(call_id)
        self._open_calls.add(call_id)
        yield ToolCallStartEvent(tool_call_id=call_id, tool_call_name=name)

    def _end_call(self, call_id: str, arguments: Json) -> Iterator[BaseEvent]:
        if call_id in self._open_calls:
            self._open_calls.discard(call_id)
            yield ToolCallArgsEvent(tool_call_id=call_id, delta=orjson.dumps(arguments).decode())
            yield ToolCallEndEvent(tool_call_id=call_id)

    def _node(self, step: Json) -> Iterator[BaseEvent]:
        step_id, name = step["step_id"], step["name"]
        if step["state"] in _OVER:
            if (known := self._steps.pop(step_id, None)) is not None:
                yield StepFinishedEvent(step_name=known)
        elif step_id not in self._steps:
            self._steps[step_id] = f"{name} {step_id}" if name in self._steps.values() else name
            yield StepStartedEvent(step_name=self._steps[step_id])

    # -- the end -------------------------------------------------------------------------------------------------------

    def _finish(self, answer: Json, about: Json) -> Iterator[BaseEvent]:
        if answer.get("reasoning") and not self._shown:
            yield from self._reasoning.whole(answer["generation_id"], answer["reasoning"])
        for step in answer.get("steps") or ():
            yield from self._step(step)
        yield from self._show(answer["generation_id"], answer["text"])
        status = answer["status"]
        if status in ("failed", "interrupted"):
            error = self._failure or {}
            code = answer.get("error") or error.get("code") or status
            yield from self.fail(code, error.get("message") or "The answer did not end well.")
            return
        result = {"messageId": about["message_id"], "status": status, "finish": answer.get("finish")}
        outcome = RunFinishedCancelledOutcome() if status == "stopped" else RunFinishedSuccessOutcome()
        yield from self._end(outcome, {name: value for name, value in result.items() if value is not None})

    def _interrupt(self, approvals: Sequence[Json]) -> Iterator[BaseEvent]:
        for one in approvals:
            if one["call_id"] not in self._calls:
                yield from self._start_call(one["call_id"], one["tool"])
            yield from self._end_call(one["call_id"], one["arguments"])
        interrupts = [
            Interrupt(
                id=one["approval_id"],
                reason="approval",
                message=one["title"],
                tool_call_id=one["call_id"],
                response_schema=_ANSWER_SCHEMA,
                expires_at=one["expires_at"],
                metadata={"tool": one["tool"], "arguments": one["arguments"]},
            )
            for one in approvals
        ]
        yield from self._end(RunFinishedInterruptOutcome(interrupts=interrupts), None)

    def _end(self, outcome: RunFinishedOutcome, result: Json | None) -> Iterator[BaseEvent]:
        yield from self._reasoning.end()
        yield from self._end_text()
        for call_id in sorted(self._open_calls):
            yield from self._end_call(call_id, {})
        for name in self._steps.values():
            yield StepFinishedEvent(step_name=name)
        self.is_over = True
        yield RunFinishedEvent(
            thread_id=self._asked.thread_id, run_id=self._asked.run_id, outcome=outcome, result=result
        )

    def fail(self, code: str, message: str) -> Iterator[BaseEvent]:
        """The run ends with an error, whatever is open."""
        self.is_over = True
        yield RunErrorEvent(code=code, message=message)


def _said(message: Json) -> tuple[str, str]:
    message_id, content = message.get("id"), message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "\n".join(part for part in parts if isinstance(part, str))
    if not isinstance(message_id, str) or not is_id(message_id) or not isinstance(content, str):
        raise InvalidMessage("A run needs a message of the user, with an id and a text.", field="messages")
    return message_id, content


def _calls(message: Json) -> Iterator[Json]:
    """The tool calls of a message, as far as they are any."""
    calls = message.get("toolCalls")
    return (call for call in calls if isinstance(call, dict)) if isinstance(calls, list) else iter(())


def _strings(values: Iterable[object]) -> Iterator[str]:
    return (value for value in values if isinstance(value, str))


def _texts(messages: Sequence[Json]) -> Iterator[str]:
    """What the client has of the answer."""
    for one in messages:
        if one.get("role") == "assistant" and isinstance(one.get("content"), str):
            yield one["content"]


def _decision(entry: ResumeEntry) -> Json:
    """The `approval` that an answer to an interrupt means: as the interrupt's schema has it, or `{approved}`."""
    given = entry.payload if isinstance(entry.payload, dict) else {}
    decision = given.get("decision")
    if entry.status == "cancelled" or given.get("approved") is False:
        decision = "reject"
    elif decision is None and given.get("approved") is True:
        decision = "edit" if isinstance(given.get("arguments"), dict) else "approve"
    wanted = {"approval_id": entry.interrupt_id, "decision": decision}
    more = {name: given[name] for name in ("arguments", "comment") if name in given}
    return {**wanted, **more}

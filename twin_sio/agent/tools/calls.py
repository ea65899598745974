"""Runs the calls that a model asks for, side by side, each within its time; whatever goes wrong is told to the
model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from twin_sio.agent.text import encodable
from twin_sio.agent.tools import HostError, Tool, ToolContext, set_tool_context
from twin_sio.agent.tools.schemas import SchemaUnusable, fault
from twin_sio.domain import Json, StepState
from twin_sio.errors import InvalidMessage, ServiceError
from twin_sio.observability.logging import place_of
from twin_sio.protocol import check_storable

log = structlog.get_logger("tools")

UNKNOWN: Final = (
    "The service was restarted while this was being done, and nobody knows whether it was. "
    "Do not call it again for this; say so where it matters."
)
"""The result of a call that a killed attempt may have made."""
RESULT_CHARACTERS: Final = 8_000  # of what a tool returns; the model is told where it was cut
_SUMMARY_CHARACTERS: Final = 200
_MEDIA: Final = frozenset({"image", "image_url", "audio", "video", "file"})
_MEDIA_SOURCES: Final = frozenset({"base64", "url", "data", "file_id", "image_url", "source_type"})
_LINK_CHARACTERS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Result:
    """What the model is told of a call, and what people see: whether it was done, and a line."""

    text: str
    is_done: bool = True
    summary: str | None = None


def ended_state(text: str, *, is_done: bool) -> StepState:
    """How the step of a call has ended whose result is `text`."""
    if is_done:
        return "done"
    return "unknown" if text == UNKNOWN else "failed"


class CallRefused(Exception):
    """The call cannot be made; the text tells the model why."""


def checked(tools: Mapping[str, Tool], name: str, arguments: str | Json) -> tuple[Tool, Json]:
    """The tool, and its arguments as its schema has them. Raises `CallRefused`."""
    tool = tools.get(name)
    if tool is None:
        raise CallRefused(f"There is no tool of this name. There are: {', '.join(sorted(tools)) or 'none'}.")
    try:
        found = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        raise CallRefused("The arguments are no JSON.") from None
    if not isinstance(found, Mapping):
        raise CallRefused("The arguments are no JSON object.")
    try:
        check_storable(dict(found), "arguments")
    except InvalidMessage as error:
        raise CallRefused(f"The arguments cannot be used: {error.message}") from None
    if not tool.is_checked:
        return tool, found
    try:
        wrong = fault(tool.parameters, found)
    except SchemaUnusable:
        raise CallRefused("The tool's schema cannot be used.") from None
    if wrong is not None:
        raise CallRefused(f"The arguments do not fit the schema: {wrong.message[:_SUMMARY_CHARACTERS]}")
    return tool, found


async def run(tool: Tool, arguments: Json, context: ToolContext) -> Result:
    """Call the tool. Never raises but for the store: every failure is a result."""

    async def call() -> str:
        set_tool_context(context)
        return await _text(await tool.run(arguments))

    # In a task of its own: the context is this call's alone, and what does not end when it is cancelled holds up
    # nobody.
    calling = asyncio.create_task(call())
    try:
        done, _ = await asyncio.wait([calling], timeout=tool.timeout_s)
        if not done:
            raise TimeoutError
        return Result(calling.result())
    except TimeoutError:
        log.warning("tool_timed_out", tool=tool.name)
        unknown = "Nobody knows whether it was done: do not call it again for this."
        return Result(f"It took longer than {tool.timeout_s:g} s. {unknown}", is_done=False, summary="took too long")
    except HostError as error:
        return Result(f"It failed: {error}"[:RESULT_CHARACTERS], is_done=False, summary="failed")
    except ServiceError:
        raise
    except Exception as error:
        # The kind and the place, and no text: what a tool says may quote its user.
        log.warning("tool_failed", tool=tool.name, error=type(error).__name__, at=place_of(error))
        return Result(f"It failed ({type(error).__name__}).", is_done=False, summary="failed")
    finally:
        calling.cancel()


async def _text(value: object) -> str:
    """A tool's result as the model reads it. What is neither a text nor content blocks is written as JSON in a thread:
    it may be large."""
    text = value if isinstance(value, str) else _text_of_blocks(value)
    if text is None:
        text = await asyncio.to_thread(_json, value)
    if len(text) > RESULT_CHARACTERS:
        return f"{plain(text[:RESULT_CHARACTERS])}\n(The first {RESULT_CHARACTERS} characters of {len(text)}.)"
    return plain(text)


def _text_of_blocks(value: object) -> str | None:
    """Of content blocks, as the tools of MCP servers return them, the texts, and a note in the place of each that is
    none; None: this is no list of blocks."""
    if not isinstance(value, list) or not value:
        return None
    texts: list[str] = []
    for block in value:
        if (text := _text_of_block(block)) is None:
            return None
        texts.append(text)
    return "\n".join(texts)


def _text_of_block(block: object) -> str | None:
    if not isinstance(block, Mapping):
        return None
    kind, text = block.get("type"), block.get("text")
    if kind == "text":
        return text if isinstance(text, str) else None
    if kind not in _MEDIA or _MEDIA_SOURCES.isdisjoint(block):
        return None
    link = block.get("url")
    is_link = isinstance(link, str) and not link.startswith("data:") and len(link) <= _LINK_CHARACTERS
    return f"[{kind}: {link}]" if is_link else f"[{kind}]"


def plain(text: str) -> str:
    """A text of a tool as it can be stored and sent: without NUL and halves of characters."""
    return encodable(text.replace("\x00", ""))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


Progress = Callable[[str], None]


def threadsafe(progress: Progress) -> Progress:
    """`progress` for a tool that may run in a thread."""
    loop = asyncio.get_running_loop()

    def report(text: str) -> None:
        loop.call_soon_threadsafe(progress, plain(str(text)[:_SUMMARY_CHARACTERS]))

    return report

"""A running answer on a terminal: its text and what the model thinks as they grow, and the steps that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prompt_toolkit.formatted_text import StyleAndTextTuples
from rich.console import Console
from rich.text import Text

from twin_sio.cli.live import RESTARTED, LiveAnswer, complete_lines
from twin_sio.cli.markdown import complete_blocks, print_labelled, rendered
from twin_sio.cli.printable import printable
from twin_sio.cli.steps import is_over, running_line, step_line
from twin_sio.client import ChunkApplied, ClientState, Message, ReasoningApplied, StepChanged, Thinking
from twin_sio.domain import Json

_LINES_IN_REGION = 6
_TWIN = "twin> "


class AnswerView:
    """Of one answer of the conversation that is open. What is complete scrolls away; the rest stands above the
    prompt."""

    def __init__(self, console: Console, markdown: bool) -> None:
        """`markdown`: the answer's text is shown as Markdown, block by block, and not as it was written."""
        self._console = console
        self._markdown = markdown
        self._text = LiveAnswer(complete_blocks if markdown else complete_lines)
        self._reasoning = LiveAnswer()
        self._thought = 0  # characters of the reasoning that were printed before something else came
        self._thinking = ""  # the state that the server names
        self._steps: dict[str, Json] = {}  # by id, those that are not over
        self._printed: set[str] = set()  # ids of steps that are over

    def show(self, change: ChunkApplied | ReasoningApplied | StepChanged | Thinking, state: ClientState) -> None:
        """Something of the answer is new; the state has all of it."""
        match change:
            case ChunkApplied(generation_id):
                generation = state.generations.get(generation_id)
                if generation is not None:
                    self._end_reasoning()
                    self._print_text(self._text.grow, generation.text)
            case ReasoningApplied(_, in_response_to):
                reasoning = state.progress.reasoning.get(in_response_to)
                if change.replaced:
                    self._end_reasoning()
                    self._thought = 0
                if reasoning is not None:
                    new = reasoning.text[self._thought :]
                    self._print(self._reasoning, self._reasoning.grow, new, "thinks> ", "dim", "dim")
            case StepChanged(_, _, step):
                self._show_step(step)
            case Thinking(_, _, name):
                self._thinking = "" if name == "done" else name

    def finish(self, message: Message) -> None:
        """The answer is there: print what is not on the screen yet. A device that joined late missed some steps."""
        self._end_reasoning()
        for step in message.steps:
            self._show_step(step)
        self._print_text(self._text.finish, message.text)

    def _show_step(self, step: Json) -> None:
        if step["step_id"] in self._printed:
            return
        if is_over(step):
            self._steps.pop(step["step_id"], None)
            self._printed.add(step["step_id"])
            self._end_reasoning()
            self._console.print(styled(step_line(step), "dim"))
        else:
            self._steps[step["step_id"]] = step

    def _end_reasoning(self) -> None:
        ended, self._reasoning = self._reasoning, LiveAnswer()
        self._thought += len(ended.text)
        self._print(ended, ended.finish, ended.text, "thinks> ", "dim", "dim")

    def _print_text(self, take: Callable[[str], list[str]], text: str) -> None:
        if not self._markdown:
            self._print(self._text, take, text, _TWIN, "green")
            return
        for has_begun, piece in self._pieces(take, text):
            if has_begun:
                self._console.print()
            self.print_answer(piece, "green", " " * len(_TWIN) if has_begun else _TWIN)

    def _pieces(self, take: Callable[[str], list[str]], text: str) -> Iterator[tuple[bool, str]]:
        """The pieces to print, each with whether something of the answer was printed before."""
        had_begun = self._text.has_begun
        for piece in take(text):
            if piece.strip() or piece == RESTARTED:
                yield had_begun, piece
                had_begun = True

    def print_answer(self, text: str, color: str, label: str = _TWIN, style: str = "") -> None:
        """Print a whole text of the twin's behind the label."""
        if not self._markdown:
            self._console.print(styled(label, color) + styled(text, style))
            return
        lines = rendered(text, self._console, self._console.width - len(label))
        for line in lines:
            line.stylize(style)
        print_labelled(self._console, styled(label, color), lines)

    def _print(
        self, live: LiveAnswer, take: Callable[[str], list[str]], text: str, label: str, color: str, style: str = ""
    ) -> None:
        had_begun = live.has_begun
        for index, line in enumerate(take(text)):
            before = " " * len(label) if had_begun or index else label
            self._console.print(styled(before, color) + styled(line, style))

    def region(self) -> StyleAndTextTuples:
        """What moves above the prompt: the unfinished lines."""
        shown: StyleAndTextTuples = []
        for live, label, color, style in (
            (self._reasoning, "thinks> ", "fg:ansibrightblack", "fg:ansibrightblack"),
            (self._text, _TWIN, "fg:ansigreen", ""),
        ):
            if live.tail:
                # A third of the screen for a block of many lines, which may be wrapped on top of that.
                lines = max(_LINES_IN_REGION, self._console.height // 3)
                tail = "\n".join(live.tail.rstrip("\n").split("\n")[-lines:])
                width = max(20, self._console.width * (lines if "\n" in tail else _LINES_IN_REGION))
                before = " " * len(label) if live.has_begun else label
                shown += [(color, before), (style, tail[-width:] + "\n")]
        return shown

    def states(self) -> list[str]:
        """What it is at, in words for the status line."""
        return [self._thinking and f"{self._thinking}…", *(running_line(step) for step in self._steps.values())]


def styled(text: str, style: str = "") -> Text:
    """Text for the console; control characters are replaced by U+FFFD."""
    return Text(printable(text), style)

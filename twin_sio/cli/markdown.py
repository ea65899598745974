"""Answers as a terminal shows Markdown: headings, lists, tables, code. Nothing of the text is lost, and it commands
nothing: what cannot be shown whole is shown as it was written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, TableElement
from rich.segment import Segment
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from twin_sio.cli.printable import printable

_WIDTH_MIN = 20
_RENDERED_MAX = 12_000
"""Characters of a block; a longer one is shown as it was written, as it would hold up the terminal."""

_THEME = Theme(
    {"markdown.code": "bold cyan"}
)  # without the black behind it, which a light terminal would show as a box

_ENDED_BY_A_BLANK_LINE = frozenset({"paragraph_open", "heading_open", "hr", "table_open", "blockquote_open"})
_WORD = re.compile(r"[^\W_]+")
_ENTITY = re.compile(r"&#?\w+;")
_NUMBER = re.compile(r"^[ \t>]*\d{1,9}[.)](?=\s)", re.MULTILINE)


def complete_blocks(text: str) -> list[str]:
    """The blocks at the beginning of an unfinished text that nothing that follows can change, with the lines up to the
    next one; for `LiveAnswer`."""
    end = text.rfind("\n") + 1  # the last line may become anything
    *done, last = _split(text[:end]) or [_Block("", "", 0)]
    lines = last.text.split("\n")[:-1]
    is_over = last.type in _ENDED_BY_A_BLANK_LINE and not "".join(lines[last.lines :] or ["-"]).strip()
    return [block.text for block in ([*done, last] if is_over else done)]


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of the text, with the blank lines that follow it."""

    type: str
    text: str
    lines: int  # without those that follow


def _split(text: str) -> list[_Block]:
    """The blocks, which together are the text."""
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1].removesuffix("\n")
    found = [(token.type, token.map[0], token.map[1]) for token in _PARSER.parse(text) if token.map and not token.level]
    starts = [0, *(start for _, start, _ in found[1:])]
    ends = [*starts[1:], len(lines)]
    return [
        _Block(kind, "".join(lines[start:following]), end - start)
        for (kind, _, end), start, following in zip(found, starts, ends, strict=False)
    ]


def rendered(text: str, console: Console, width: int) -> list[Text]:
    """The lines that show the text in so many columns (at least 20); none holds a control character."""
    lines: list[Text] = []
    for block in _split(printable(text)):
        lines += [Text(), *_rendered_block(block.text.strip("\n"), console, max(_WIDTH_MIN, width))]
    return lines[1:]


def _rendered_block(text: str, console: Console, width: int) -> list[Text]:
    if len(text) <= _RENDERED_MAX:
        tokens = _PARSER.parse(text)
        with console.use_theme(_THEME):
            drawn = console.render_lines(_Markdown(tokens), console.options.update(width=width, height=None), pad=False)
        lines = [_line(line) for line in drawn]
        while lines and not lines[-1].plain:
            lines.pop()
        while lines and not lines[0].plain:
            del lines[0]
        if _is_whole(text, tokens, lines):
            return lines
    return [Text(line) for line in text.split("\n")]


def print_labelled(console: Console, label: Text, lines: Sequence[Text]) -> None:
    """Print the lines one below the other, the first behind the label."""
    for index, line in enumerate(lines or [Text()]):
        before = label if index == 0 else Text(" " * len(label) if line.plain else "")
        shown = Text.assemble(before, line)  # not label + line: that would have the label's style throughout
        # As they are: they have the width already, and whatever is wider the terminal wraps.
        console.print(shown, no_wrap=True, overflow="ignore", crop=False)


def _line(segments: Sequence[Segment]) -> Text:
    line = Text.assemble(*((printable(one.text), one.style or "") for one in segments if not one.control))
    line.rstrip()
    return line


def _is_whole(text: str, tokens: Sequence[Token], lines: Sequence[Text]) -> bool:
    """Whether every word can be read: where columns get narrow or blocks are nested deep, rendering drops some."""
    infos = {word for token in tokens if token.type == "fence" for word in _WORD.findall(token.info)}
    shown = "".join(part for line in lines for part in line.plain.split())
    words = set(_WORD.findall(_ENTITY.sub(" ", _NUMBER.sub(" ", text)))) - infos
    return all(word in shown for word in words)


class _Parser(MarkdownIt):
    """As web pages have it, but for what a terminal cannot show: HTML, images and link definitions stay text."""

    def __init__(self) -> None:
        super().__init__("commonmark", {"html": False})
        self.enable(["table", "strikethrough"]).disable(["image", "reference"])

    def normalizeLink(self, url: str) -> str:  # noqa: N802 - the library's name
        return url


_PARSER = _Parser()


class _Heading(Heading):
    """At the left, as everything that is said."""

    LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _CodeBlock(CodeBlock):
    """In the terminal's own colours, and with nothing around it that would be copied along."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(str(self.text).rstrip(), self.lexer_name, theme="ansi_dark", word_wrap=True)


class _Table(TableElement):
    """Cells are wrapped where they are too narrow, and never cut."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
            yield part


class _Markdown(Markdown):
    """Of tokens. Line breaks stay as they were written; links show where they lead, for a hidden target deceives."""

    elements = Markdown.elements | {
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
        "table_open": _Table,
    }

    def __init__(self, tokens: Sequence[Token]) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = list(tokens)
        for token in tokens:
            token.children = _inline(token.children) if token.children else token.children


def _inline(tokens: Sequence[Token]) -> list[Token]:
    kept: list[Token] = []
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        kept.append(token)
        # A link that is its own address is shown once.
        if token.type == "link_close" and len(kept) >= 3 and kept[-3].attrs.get("href") == kept[-2].content:
            kept[-3:] = [kept[-2]]
    return kept

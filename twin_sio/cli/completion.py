"""What Tab completes in the live chat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document


class Completions(Completer):
    """Commands, and after a command what `arguments(command)` offers."""

    def __init__(self, commands: Mapping[str, str], arguments: Callable[[str], Iterable[tuple[str, str]]]) -> None:
        self._commands = commands
        self._arguments = arguments

    def get_completions(self, document: Document, _: CompleteEvent) -> Iterable[Completion]:
        typed = document.text_before_cursor
        if not typed.startswith("/"):
            return
        command, space, argument = typed.partition(" ")
        offers = self._arguments(command) if space else self._commands.items()
        begun = argument if space else typed
        for text, meta in offers:
            if text.startswith(begun) or (space and begun.casefold() in meta.casefold()):
                yield Completion(text, start_position=-len(begun), display_meta=meta)

"""The tokens by which models end their turn (EOS, `<|im_end|>`), where a server leaves them at the end of a text. Pure.

A text may speak of them: only what nothing else follows is no text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from twin_sio.agent.model.call_forms import MARKS

# Special tokens by what their names say: an end, or whose turn comes next.
_SPECIAL: Final = (
    r"(?i:<[|｜](?:[\w▁]{0,20}(?:end|eo[a-z]|stop|sep|pad)[\w▁]{0,20}"
    r"|return|call|user|assistant|system|observation)[|｜]>)"
)
_PLAIN: Final = ("<end_of_turn>", "<end_of_utterance>", "<eos>", "</s>", "[/INST]", "[EOS]")
# These end calls: behind one that was made they may come once more.
_OF_CALLS: Final = tuple({end for end in MARKS.values() if end} - {"<|call|>"})
_STRUCK: Final = "<s>"  # what </s> ends in HTML


def _one_of(found: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(found, key=len, reverse=True)))


_BEGINNINGS: Final = {mark[:size] for mark in (*_PLAIN, *_OF_CALLS, _STRUCK) for size in range(1, len(mark))}
_MARK: Final = rf"(?:{_one_of((*_PLAIN, *_OF_CALLS))}|{_SPECIAL})"
_BEGUN: Final = rf"(?:<[|｜][\w▁]{{0,50}}[|｜]?|{_one_of(_BEGINNINGS)})"
_SIGN: Final = re.compile(rf"{_MARK}|{_BEGUN}")
_DOUBTFUL: Final = re.compile(rf"(?:{_MARK}\s*)+{_BEGUN}?\Z|{_BEGUN}\Z")
_LAST: Final = re.compile(rf"{_MARK}\Z")
_HELD_MAX: Final = 400  # characters; what stands before them is text


class EndTokens:
    """Tells the special tokens at the end of a text from the text."""

    def __init__(self) -> None:
        self.held = ""
        """What may be such a mark."""
        self._strikes = False

    def take(self, text: str) -> str:
        """What of the text so far is text whatever comes."""
        text, self.held = self.held + text, ""
        self._strikes = self._strikes or _STRUCK in text
        if not _SIGN.fullmatch(text[max(text.rfind("<"), text.rfind("[")) :].rstrip()):  # as a rule
            return text
        doubtful = _DOUBTFUL.search(text, max(0, len(text) - _HELD_MAX))
        place = doubtful.start() if doubtful else len(text)
        self.held = text[place:]
        return text[:place]

    def end(self, *, has_calls: bool) -> str:
        """What was held back and is text after all. `has_calls`: the answer has made some."""
        text, self.held = self.held, ""
        while (stem := self._without_last(text.rstrip(), has_calls=has_calls)) is not None:
            text = stem
        return text

    def _without_last(self, text: str, *, has_calls: bool) -> str | None:
        last = _LAST.search(text)
        if last is None or (last[0] == "</s>" and self._strikes) or (last[0] in _OF_CALLS and not has_calls):
            return None
        return text[: last.start()]

"""The marks by which models end their turn, where a server leaves them at the end of a text. Pure.

A text may speak of them: only what nothing else follows is no text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from twin_sio.agent.model.call_forms import MARKS

_ENDS: Final = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end_of_turn|>",
    "<|end_of_role|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|END_RESPONSE|>",
    "<|return|>",
    "<|call|>",
    "<|end|>",
    "<|eot|>",
    "<|user|>",
    "<|observation|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
    "[/INST]",
    "<｜end▁of▁sentence｜>",
    "<|end▁of▁sentence|>",
)
# These end calls: behind one that was made they may come once more.
_OF_CALLS: Final = tuple(end for end in MARKS.values() if end and end not in _ENDS)
_ALL: Final = (*_ENDS, *_OF_CALLS)
_STRUCK: Final = "<s>"  # what </s> ends in HTML


def _beginnings(*marks: str) -> set[str]:
    return {mark[:size] for mark in marks for size in range(1, len(mark))}


def _one_of(found: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(found, key=len, reverse=True)))


_MARK: Final = _one_of(_ALL)
_DOUBTFUL: Final = re.compile(
    rf"(?:(?:{_MARK})\s*)+(?:{_one_of(_beginnings(*_ALL))})?\Z|(?:{_one_of(_beginnings(*_ALL, _STRUCK))})\Z"
)
_SIGNS: Final = frozenset({*_ALL, *_beginnings(*_ALL, _STRUCK)})
_HELD_MAX: Final = 400  # characters; more than that is no end


class Ending:
    """Tells the marks at the end of a text from the text."""

    def __init__(self) -> None:
        self.held = ""
        """What may be such a mark."""
        self._strikes = False

    def take(self, text: str) -> str:
        """What of the text so far is text whatever comes."""
        text, self.held = self.held + text, ""
        self._strikes = self._strikes or _STRUCK in text
        if text[max(text.rfind("<"), text.rfind("[")) :].rstrip() not in _SIGNS:  # as a rule
            return text
        doubtful = _DOUBTFUL.search(text)
        place = doubtful.start() if doubtful and len(text) - doubtful.start() <= _HELD_MAX else len(text)
        self.held = text[place:]
        return text[:place]

    def end(self, *, has_calls: bool) -> str:
        """What was held back and is text after all. `has_calls`: the answer has made some."""
        text, self.held = self.held, ""
        while (stem := self._without_last(text.rstrip(), has_calls=has_calls)) is not None:
            text = stem
        return text

    def _without_last(self, text: str, *, has_calls: bool) -> str | None:
        for mark in _ALL:
            if text.endswith(mark):
                is_text = (mark == "</s>" and self._strikes) or (mark in _OF_CALLS and not has_calls)
                return None if is_text else text[: -len(mark)]
        return None

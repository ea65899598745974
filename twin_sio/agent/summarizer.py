"""Writes titles and summaries by the model; what it writes is cut to measure, and kept for data ever after."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from twin_sio.agent import ChatMessage, Summarizer, prompts
from twin_sio.agent.extraction.model import JsonModel
from twin_sio.agent.traits import normal

_LISTED = 100  # points of an answer that are looked at
_LONGEST = 1_000  # characters of one of them
_QUOTES = " \t\"'`*#.\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"


class ModelSummarizer(Summarizer):
    """Asks a model under a JSON schema."""

    def __init__(self, model: JsonModel) -> None:
        self._model = model

    async def title(self, said: Sequence[ChatMessage]) -> str | None:
        """See the port. At most 60 characters, cut between words."""
        found = await self._model.complete_json(prompts.title(said), prompts.TITLE_SCHEMA, name=prompts.TITLE_NAME)
        title = _plain((found or {}).get("title")).strip(_QUOTES)
        if len(title) <= prompts.TITLE_CHARACTERS:
            return title or None
        cut = title[: prompts.TITLE_CHARACTERS]
        return cut.rpartition(" ")[0] or cut

    async def summary(self, points: Sequence[str], said: Sequence[ChatMessage], budget_tokens: int) -> Sequence[str]:
        """See the port. Of too many or too long points the newest are kept."""
        found = await self._model.complete_json(
            prompts.summary(points, said), prompts.SUMMARY_SCHEMA, name=prompts.SUMMARY_NAME
        )
        listed = (found or {}).get("points")
        proposed = (
            [_plain(one)[: prompts.POINT_CHARACTERS] for one in listed[-_LISTED:]] if isinstance(listed, list) else []
        )
        source = normal("\n".join((*points, *(one.text for one in said))))
        kept: list[str] = []
        for point in reversed([one for one in proposed if one and _is_grounded(one, source)][-prompts.MAX_POINTS :]):
            budget_tokens -= prompts.tokens(point) + 1
            if budget_tokens < 0:
                break
            kept.append(point)
        return kept[::-1]


def _is_grounded(point: str, source: str) -> bool:
    """Whether a third of the words that say something stand in what was said: a model that invents is soon noticed.

    Words are compared by how they begin, since they are inflected; scripts without case, and words, two characters at
    a time.
    """
    parts: list[str] = []
    for word in re.findall(r"\w+", normal(point)):
        if word.upper() == word:
            parts += [word[at : at + 2] for at in range(max(1, len(word) - 1))]
        elif len(word) >= 4:
            parts.append(word[:5])
    return 3 * sum(part in source for part in parts) >= len(parts)


def _plain(value: object) -> str:
    """One line, without what is not for reading."""
    if not isinstance(value, str):
        return ""
    value = value[:_LONGEST]
    cleaned = "".join(" " if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") else one for one in value)
    return " ".join(cleaned.split())

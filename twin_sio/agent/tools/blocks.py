"""What a tool returns in content blocks, as the tools of MCP servers do, told as a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_MEDIA: Final = frozenset({"image", "image_url", "audio", "video", "file"})
_SOURCES: Final = frozenset({"base64", "url", "data", "file_id", "image_url", "source_type"})
_LINK_CHARACTERS: Final = 1_000


def text_of_blocks(value: object) -> str | None:
    """The texts of the blocks, and a note in the place of each that is none; None: this is no list of blocks."""
    if not isinstance(value, list) or not value:
        return None
    told: list[str] = []
    for block in value:
        if (text := _told(block)) is None:
            return None
        told.append(text)
    return "\n".join(told)


def _told(block: object) -> str | None:
    if not isinstance(block, Mapping):
        return None
    kind, text = block.get("type"), block.get("text")
    if kind == "text":
        return text if isinstance(text, str) else None
    if kind not in _MEDIA or _SOURCES.isdisjoint(block):
        return None
    link = block.get("url")
    is_link = isinstance(link, str) and not link.startswith("data:") and len(link) <= _LINK_CHARACTERS
    return f"[{kind}: {link}]" if is_link else f"[{kind}]"

"""What texts of models, tools and users have to go through before others can take them."""

from __future__ import annotations


def encodable(text: str) -> str:
    """`text` with a question mark for each half of a character: nothing can encode those."""
    return text.encode("utf-8", "replace").decode()

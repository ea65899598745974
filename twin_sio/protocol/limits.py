"""Sizes that the protocol promises."""

from __future__ import annotations

PROTOCOL_VERSION = 1
# Characters of a message: a long letter.
TEXT_MAX = 8_000
# A text of four bytes a character, and a context beside it.
ENVELOPE_MAX_BYTES = 64 * 1024
# Levels of objects and lists: recursion over them stays small wherever they are read.
DEPTH_MAX = 16
PAGE_MAX = 200  # messages of a page of history
PAGE_DEFAULT = 50
SEARCH_MAX = 50  # messages that are found at once
SEARCH_DEFAULT = 20
SEARCH_TEXT_MAX = 500  # characters of what is looked for
AUTH_MAX_BYTES = 40 * 1024
"""Of the handshake's `auth`, as it came: a token and a context of 16 KiB each, and the rest."""
SMALL_MAX_BYTES = 4 * 1024
"""Of an event whose payload has nothing long in it."""
RESERVED_ID_PREFIXES = ("twin-", "profile-")
"""Under which the service stores events of its own."""
ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"
# What every client's numbers can hold exactly, JavaScript's too.
INT_MAX = 2**53 - 1
# That a session offers: each takes room in every prompt.
HOST_TOOLS_MAX = 16
TOOL_NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"

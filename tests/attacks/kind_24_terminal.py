"""A twin's answer holds escape sequences (clipboard, title, clear screen), and the command line prints them.

The command line shows U+FFFD in place of every control character, whatever the model or the server said.
"""

from __future__ import annotations

import time

from tests.attacks.site import Site
from tests.commands import output_of

BEFORE = "clipboard, window title and screen set by an answer"
SEQUENCES = ("\x1b]52;c;cm0gLXJmIH4=\x07", "\x1b]0;pwned\x07", "\x1b[2J", "\x9b31m", "\x1bP+q544e\x1b\\", "\r\x08")


async def attack(site: Site, until: float) -> str:
    printed = await _printed(site)
    count = 1
    while time.monotonic() < until:
        printed += await _printed(site)
        count += 1
    obeyed = sorted(set(printed) & set("\x1b\x07\x9b\x08\r"))
    return f"{count} answers with {len(SEQUENCES)} sequences each: {len(obeyed)} kinds of control characters printed"


async def check(site: Site) -> list[str]:
    printed = await _printed(site)
    missing = [] if "after" in printed else ["the answer was not printed"]
    return missing + [f"printed {byte!r}" for byte in "\x1b\x07\x9b\x08\r" if byte in printed]


async def _printed(site: Site) -> str:
    """What the command line prints for an answer that holds every sequence."""
    user = site.user()
    await site.cluster.script(f"sequences for {user}", tokens=["before", *SEQUENCES, "after"])
    argv = ("twin_sio.cli", "chat", "--once", "--url", site.url, "--token", site.token(user))
    _, out, _ = await output_of(*argv, given=f"sequences for {user}".encode())
    return out.decode()

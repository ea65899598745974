"""Where something was raised, for a log line: never what it said, which may quote a user."""

from __future__ import annotations

import traceback
from pathlib import Path


def place_of(error: BaseException | None) -> str:
    """`file.py:line`, the innermost; empty for what was not raised."""
    lines = list(traceback.walk_tb(error.__traceback__)) if error is not None else []
    return f"{Path(lines[-1][0].f_code.co_filename).name}:{lines[-1][1]}" if lines else ""

"""What is printed where nobody may read it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def output_that_may_fail() -> Iterator[None]:
    """Where stdout is closed, or takes no more (a full disk), a line on stderr and exit code 1. A reader that has gone
    (`| head`) is no failure to tell of."""
    if sys.stdout is None:
        sys.exit(_unwritable("stdout is closed"))
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        sys.exit(1)
    except OSError as error:
        _discard_output()
        sys.exit(_unwritable(error.strerror or type(error).__name__))


def _unwritable(why: str) -> int:
    print(f"The output cannot be written: {why}.", file=sys.stderr)
    return 1


def _discard_output() -> None:
    """What is still held would fail once more as the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

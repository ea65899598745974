"""What may stand in the log of a failure that nobody foresaw: its kind and its place.

The text of an exception often quotes what was being worked on, so it is in no line, neither of ours nor of a library's.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog

log = structlog.get_logger("library")


def without_texts(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: in the place of `exc_info` what was raised, and where."""
    found = line.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        line["exception"] = _told(error)
    return line


def _told(error: BaseException) -> str:
    """The traceback as Python prints it, but for the texts."""
    kind = type(error)
    here = "".join(traceback.format_tb(error.__traceback__)) + f"{kind.__module__}.{kind.__qualname__}"
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return here if before is None else f"{_told(before)}\n\n{here}"


class Libraries(logging.Handler):
    """What libraries log, as lines of ours; where there is an exception, only the words of the library's code."""

    def emit(self, record: logging.LogRecord) -> None:
        said = str(record.msg).partition("\n")[0] if record.exc_info else record.getMessage()
        log.log(record.levelno, "library", logger=record.name, said=said, exc_info=record.exc_info)

"""What the log contains of an unexpected exception: its type and its place.

An exception's message often quotes the data that was being processed, so no line has one, neither ours nor a library's.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

log = structlog.get_logger("library")


def strip_exception_messages(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: replaces `exc_info` by the type and the place of the exception."""
    found = line.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        line["exception"] = _format_traceback(error)
    return line


def print_crashes_without_messages() -> None:
    """Have an exception that ends this process, or a thread, printed without its message."""
    sys.excepthook = lambda _, error, __: print(_format_traceback(error), file=sys.stderr)
    threading.excepthook = lambda died: died.exc_value and print(_format_traceback(died.exc_value), file=sys.stderr)


def _format_traceback(error: BaseException) -> str:
    """The traceback as Python prints it, without messages."""
    kind = type(error)
    here = "".join(traceback.format_tb(error.__traceback__)) + f"{kind.__module__}.{kind.__qualname__}"
    # As Python chooses what to print before it.
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return here if before is None else f"{_format_traceback(before)}\n\n{here}"


def place_of(error: BaseException | None) -> str:
    """`file.py:line`, the innermost; empty for what was not raised."""
    lines = list(traceback.walk_tb(error.__traceback__)) if error is not None else []
    return f"{Path(lines[-1][0].f_code.co_filename).name}:{lines[-1][1]}" if lines else ""


class LibraryLogHandler(logging.Handler):
    """Logs what libraries log: the format string in the library's code, the place, the type of the exception. Never
    the arguments: they may be of a request, a header or a user.

    Clients can cause such lines without a bound, so each place logs ten lines a minute at most.
    """

    def __init__(self) -> None:
        super().__init__()
        # By place: the end of the present minute, and the lines since its start.
        self._lines: dict[str, tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        place = f"{Path(record.pathname).name}:{record.lineno}"
        now = record.created
        until, times = self._lines.get(place, (0.0, 0))
        if now >= until:
            missed, until, times = max(0, times - _LINES), now + _LINES_OVER_S, 0
            if len(self._lines) > _PLACES_MAX:
                self._lines.clear()
        else:
            missed = 0
        self._lines[place] = until, times + 1
        if times >= _LINES:
            return
        more = {"missed": missed} if missed else {}
        log.log(
            record.levelno,
            "library",
            logger=record.name,
            text=_constant_text(record),
            at=place,
            exc_info=record.exc_info,
            **more,
        )


_LINES, _LINES_OVER_S = 10, 60.0
_PLACES_MAX = 1000  # of which the lines are counted
# How the texts begin that asyncio puts together: these are constants, what follows them is not.
_ASYNCIO = (
    "Task exception was never retrieved",
    "Future exception was never retrieved",
    "Task was destroyed but it is pending!",
    "Exception in callback",
    "Fatal error",
    "socket.accept() out of system resource",
    "Unhandled exception in event loop",
)


def _constant_text(record: logging.LogRecord) -> str | None:
    """The text, where it is a constant in the code that logs it. One that was put together may contain anything."""
    text = str(record.msg)
    if record.name == "asyncio":  # puts its texts together
        return next((start for start in _ASYNCIO if text.startswith(start)), None)
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == record.funcName and code.co_filename == record.pathname:
            return text if text in code.co_consts else None
        frame = frame.f_back
    return None


def configure_logs(level: str, *, for_people: bool = False) -> None:
    """Logs of `level` and above on standard error: JSON lines, or lines for people."""
    # arq logs every job and sweep with its arguments; a library that configures logging would let that through.
    logging.getLogger("arq").setLevel(logging.WARNING)
    root = logging.getLogger()
    if not any(isinstance(handler, LibraryLogHandler) for handler in root.handlers):
        root.addHandler(LibraryLogHandler())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if for_people else "iso", utc=not for_people),
            strip_exception_messages,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=20)
            if for_people
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

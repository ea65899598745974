"""What may stand in the log of a failure that nobody foresaw: its kind and its place.

The text of an exception often quotes what was being worked on, so it is in no line, neither of ours nor of a library's.
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
    """A structlog processor: in the place of `exc_info` what was raised, and where."""
    found = line.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        line["exception"] = _format_traceback(error)
    return line


def tell_deaths_without_texts() -> None:
    """Have this process say of what ends it, or one of its threads, no more than a log would."""
    sys.excepthook = lambda _, error, __: print(_format_traceback(error), file=sys.stderr)
    threading.excepthook = lambda died: died.exc_value and print(_format_traceback(died.exc_value), file=sys.stderr)


def _format_traceback(error: BaseException) -> str:
    """The traceback as Python prints it, but for the texts."""
    kind = type(error)
    here = "".join(traceback.format_tb(error.__traceback__)) + f"{kind.__module__}.{kind.__qualname__}"
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return here if before is None else f"{_format_traceback(before)}\n\n{here}"


class LibraryLogHandler(logging.Handler):
    """What libraries log, as lines of ours: the words that stand in the library's code, the place, the kind of what
    was raised. Never what the words were filled with: that may be of a request, a header or a user.

    Whatever strangers may cause they cause without a bound, so one place says something ten times a minute at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self._format_traceback: dict[str, tuple[float, int]] = {}  # by place: until when, and how often since then

    def emit(self, record: logging.LogRecord) -> None:
        place = f"{Path(record.pathname).name}:{record.lineno}"
        now = record.created
        until, times = self._format_traceback.get(place, (0.0, 0))
        if now >= until:
            missed, until, times = max(0, times - _LINES), now + _LINES_OVER_S, 0
            if len(self._format_traceback) > _PLACES_MAX:
                self._format_traceback.clear()
        else:
            missed = 0
        self._format_traceback[place] = until, times + 1
        if times >= _LINES:
            return
        more = {"missed": missed} if missed else {}
        log.log(
            record.levelno,
            "library",
            logger=record.name,
            said=_words_of_code(record),
            at=place,
            exc_info=record.exc_info,
            **more,
        )


_LINES, _LINES_OVER_S = 10, 60.0
_PLACES_MAX = 1000
_ASYNCIO = (
    "Task exception was never retrieved",
    "Future exception was never retrieved",
    "Task was destroyed but it is pending!",
    "Exception in callback",
    "Fatal error",
    "socket.accept() out of system resource",
    "Unhandled exception in event loop",
)


def _words_of_code(record: logging.LogRecord) -> str | None:
    """The text as it stands in the code that logs it. One that was put together there may hold anything."""
    said = str(record.msg)
    if record.name == "asyncio":  # puts its texts together
        return next((words for words in _ASYNCIO if said.startswith(words)), None)
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == record.funcName and code.co_filename == record.pathname:
            return said if said in code.co_consts else None
        frame = frame.f_back
    return None


def configure_logs(level: str, *, for_people: bool = False) -> None:
    """Logs of `level` and above on standard error: JSON lines, or lines for people."""
    # arq tells of every job and sweep, with what it was given; a library that sets up logging would let it through.
    logging.getLogger("arq").setLevel(logging.WARNING)
    root = logging.getLogger()
    if not any(isinstance(one, LibraryLogHandler) for one in root.handlers):
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

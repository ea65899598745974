"""A log line that strangers can cause: at most once a minute, with a count."""

from __future__ import annotations

import logging
from typing import Any

import structlog

from twin_sio.clock import monotonic

_EVERY_S = 60.0  # between two lines of one kind
_KINDS_MAX = 50  # a stranger may be able to make up kinds


class LimitedLog:
    """A line under one name, as a rule a warning; each `kind` of it once a minute, with how often it came since."""

    def __init__(self, logger: str, event: str, level: int = logging.WARNING) -> None:
        self._log = structlog.get_logger(logger)
        self._level = level
        self._event = event
        self._next: dict[str, float] = {}  # by kind, from when on it is logged again (monotonic)
        self._times: dict[str, int] = {}  # by kind, how often since it was logged last

    def __call__(self, kind: str = "", **about: Any) -> None:
        """`kind` is of a small fixed set; more than fifty are counted as one."""
        if kind not in self._next and len(self._next) >= _KINDS_MAX:
            kind = "other"
        self._times[kind] = self._times.get(kind, 0) + 1
        if (now := monotonic()) >= self._next.get(kind, 0.0):
            named = {"kind": kind} if kind else {}
            self._log.log(self._level, self._event, times=self._times.pop(kind), **named, **about)
            self._next[kind] = now + _EVERY_S

"""How near one instance is to what it can bear: its event loop, its answers, its memory."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path

from twin_sio.clock import monotonic
from twin_sio.config import OverloadSettings

_STEP_S = 0.01  # that the loop is asked to sleep: what it takes longer is its lag
_MEMORY_EVERY_S = 1.0  # a read of a file, which blocks
_SMOOTHED_OVER_S = 1.0
_STATM = Path("/proc/self/statm")
_MB = 1024 * 1024


class OverloadMonitor:
    """Watches the lag of the event loop, the running generations and the memory of this process."""

    def __init__(self, marks: OverloadSettings, running: Callable[[], int], more: Callable[[], float]) -> None:
        """`running()` generations are running; `more()` is what else is watched, as a share of its limit."""
        self._marks = marks
        self._running = running
        self._more = more
        self._worst_s = 0.0  # the largest lag since `take_worst_lag`, in seconds
        self._lag_s = 0.0  # the lag, smoothed over a second
        self._memory = 0  # bytes

    def take_worst_lag(self) -> float:
        """The largest lag of the event loop since the last call, in seconds."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s

    def __call__(self) -> float:
        """The nearest of the watermarks, as a share of it: 1.0 is reached."""
        marks, nearest = self._marks, self._more()
        if marks.lag_ms:
            nearest = max(nearest, self._lag_s * 1000 / marks.lag_ms)
        if marks.generations:
            nearest = max(nearest, self._running() / marks.generations)
        if marks.memory_mb:
            nearest = max(nearest, self._memory / _MB / marks.memory_mb)
        return nearest

    async def run(self) -> None:
        """Watch until cancelled."""
        next_memory = 0.0
        while True:
            due = monotonic() + _STEP_S
            await asyncio.sleep(_STEP_S)
            late_s = max(0.0, monotonic() - due)
            self._worst_s = max(self._worst_s, late_s)
            # Smoothed over a second: one long step is no overload, a loop that is always late is.
            weight = 1 - math.exp(-(late_s + _STEP_S) / _SMOOTHED_OVER_S)
            self._lag_s += weight * (late_s - self._lag_s)
            if self._marks.memory_mb and due > next_memory:
                next_memory = due + _MEMORY_EVERY_S
                self._memory = _resident_bytes()


def _resident_bytes() -> int:
    """The resident memory of the process; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0

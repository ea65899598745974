"""Watches an event loop for steps that block it too long, and logs where they were.

A thread samples the loop's thread every few milliseconds: how much CPU it has used, whether the loop began a new
iteration, and, where it did not, in which function it is. A step that also holds the GIL (a regular expression, the
parsing of JSON) lets the thread sample only once it is over: all CPU since the sample before was that step's. Waiting
for a core does not count. Switched off it costs nothing.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import structlog

log = structlog.get_logger("watchdog")

STEP_MS = 20
_LOOK_S = 0.008  # between two looks
_KEPT = 1000  # steps, the newest
_SCHEDULED = "/proc/thread-self/schedstat"
_OURS = str(Path(__file__).parent.parent)


@dataclass(frozen=True, slots=True)
class LongStep:
    """One step of the loop: how much CPU it took, and the innermost place in our code, and in any code, that was seen
    most."""

    ms: float
    ours: str
    place: str


class Watchdog:
    """Records and logs steps of the running loop of more than `step_ms` of CPU. Start it on the loop's thread."""

    def __init__(self, step_ms: float = STEP_MS, on_step: Callable[[LongStep], None] | None = None) -> None:
        self.steps: deque[LongStep] = deque(maxlen=_KEPT)
        self._step_s = step_ms / 1000
        self._on_step = on_step or _logged
        self._rounds = 0
        self._collecting_since_s = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None  # the one that looks; none before `start`

    def start(self) -> None:
        """Watch the running loop from now on, until `stop`; say so in the log where the system cannot (macOS)."""
        if not hasattr(time, "pthread_getcpuclockid"):
            log.warning("watchdog_unavailable", meaning="this system does not tell what CPU another thread has used")
            return
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._watched)
        gc.callbacks.append(self._collector)
        self._come_round()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        if self._thread is None:
            return
        self._thread.join()
        self._timer.cancel()
        gc.callbacks.remove(self._collector)

    def _come_round(self) -> None:
        self._rounds += 1
        self._timer = self._loop.call_later(_LOOK_S / 2, self._come_round)

    def _collector(self, phase: str, _: object) -> None:
        if threading.get_ident() != self._watched:
            return
        now_s = time.thread_time()
        if phase == "start":
            self._collecting_since_s = now_s
        elif now_s - self._collecting_since_s > self._step_s:
            self._record(LongStep(_ms(now_s - self._collecting_since_s), "", "the garbage collector"))

    def _watch(self) -> None:
        used_s, delayed_s = time.clock_gettime(self._clock), _delayed_s()
        seen = _Seen(-1, None, used_s)
        while not self._stopped.wait(_LOOK_S):
            rounds, before_s, used_s = self._rounds, used_s, time.clock_gettime(self._clock)
            is_long, is_same_round = used_s - before_s > self._step_s, rounds == seen.round
            root, places = None, None
            # Frames of another thread are read only where a step may last: it costs, and has crashed CPython 3.11.
            if is_long or is_same_round:
                # Before anything else: a step that held the GIL has released it only now, and its thread goes on as
                # soon as this one reads a file.
                frame = sys._current_frames().get(self._watched)
                root, places = _root(frame), _places(frame)
                del frame
            was_delayed_s, delayed_s = delayed_s, _delayed_s()
            # The same step: the loop has not come round, and the same callback or coroutine is still being run.
            if not is_same_round or root is not seen.root:
                self._finish(seen)
                # This thread had a core and could not look: so nobody else could do anything either.
                was_held = is_long and used_s - before_s - (delayed_s - was_delayed_s) > self._step_s
                seen = _Seen(rounds, root, before_s if was_held else used_s)
            seen.look(places, used_s)
            del root
        self._finish(seen)

    def _finish(self, seen: _Seen) -> None:
        if seen.root is not None and seen.used_s - seen.since_s > self._step_s:
            self._record(seen.step())

    def _record(self, step: LongStep) -> None:
        self.steps.append(step)
        self._on_step(step)


class _Seen:
    """What was seen of one step of the loop."""

    def __init__(self, round_: int, root: FrameType | None, since_s: float) -> None:
        self.round = round_
        self.root = root
        self.since_s = self.used_s = since_s
        self._places: dict[tuple[str, str], int] = {}

    def look(self, places: tuple[str, str] | None, used_s: float) -> None:
        self.used_s = used_s
        if places is not None:
            self._places[places] = self._places.get(places, 0) + 1

    def step(self) -> LongStep:
        ours, place = max(self._places, key=lambda one: self._places[one])
        return LongStep(_ms(self.used_s - self.since_s), ours, place)


def _root(frame: FrameType | None) -> FrameType | None:
    """The outermost frame of the step that is being run: the first above the loop's own. None: the loop waits."""
    inner = None
    while frame is not None:
        if frame.f_code.co_name in ("run_forever", "run_until_complete", "_run_once", "_run", "run"):
            module = frame.f_globals.get("__name__", "")
            if module.startswith("asyncio."):
                return inner
        inner, frame = frame, frame.f_back
    return None


def _places(frame: FrameType | None) -> tuple[str, str]:
    place, ours = "", ""
    while frame is not None:
        code = frame.f_code
        here = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_qualname}"
        place = place or here
        if code.co_filename.startswith(_OURS):
            ours = here
            break
        frame = frame.f_back
    return ours, place


def _logged(step: LongStep) -> None:
    log.warning("long_step", ms=step.ms, at=step.ours, place=step.place)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _delayed_s() -> float:
    """How long this thread has waited for a core so far, where the system tells."""
    try:
        with open(_SCHEDULED, "rb", buffering=0) as counters:
            return int(counters.read(64).split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
